"""What extraction shares, whatever the system."""

import collections

import numpy as np

from avjax.errors import UserError

CARRIED = ("speaker", "text", "words", "phonemes", "identity")  # copied from the clips where they have them


def speakers(clips, split: str) -> dict[str, np.ndarray]:
    """Names (S,) and identity vectors (S, 8), those heard most first: whom a trained model can be asked to be.

    Where clips have no identities, those are (S, 0).
    """
    fields = ("speaker", "identity") if "identity" in clips.features else ("speaker",)
    rows = [(row["speaker"], row.get("identity", np.zeros(0, np.float32))) for row in clips.source(split, fields)]
    counts = collections.Counter(speaker for speaker, _ in rows)
    vectors = dict(rows)
    names = [speaker for speaker, _ in counts.most_common()]
    return {"names": np.asarray(names), "identity": np.stack([vectors[name] for name in names])}


def require(clips, columns, way_out: str) -> None:
    """UserError that names the first of the columns that the clips lack."""
    for column in columns:
        if column not in clips.features:
            raise UserError(f"clips lack {column!r}", where=str(clips.dir), expected=", ".join(columns),
                            found=", ".join(clips.features), way_out=way_out)


def choice(what: str, value, choices) -> None:
    """UserError unless the option's value is one of the choices."""
    if value not in choices:
        raise UserError(f"unknown {what}", where=f"--{what}", expected=" or ".join(choices), found=repr(value))


def to_float(audio: np.ndarray) -> np.ndarray:
    """int16 or float samples -> float32 in [-1, 1]."""
    return audio.astype(np.float32) / 32768 if audio.dtype == np.int16 else audio.astype(np.float32)
