"""The standard columns of a clip dataset, for every speaker in it.

Readers pick what their corpus has; a column that a corpus lacks is left out, never filled in. Those
of further speakers have a prefix: `partner_audio`, `partner2_audio`.
"""

import hashlib

import numpy as np

from avjax.signal import mel, rates
from data_pipelines.store.schema import Feature

PREFIXES = ("", "partner_", "partner2_", "partner3_")  # of the columns of each speaker


def of_clip() -> dict[str, Feature]:
    """What a clip has once, however many speak."""
    return {"id": Feature((), "str", "unique name"),
            "text": Feature((), "str", "what is said; of several speakers, a line a turn"),
            "mended": Feature((), "str", "JSON list: defects of the source that were mended here")}


def of_dialogue() -> dict[str, Feature]:
    """What a clip of several speakers has once."""
    return {"events": Feature((), "str", "JSON list of turns, backchannels, overlaps, gaps, "
                                         "pauses", "s"),
            "side": Feature((), "str", "which of the events' speakers is self: 0 or 1")}


def of_speaker(prefix: str = "", *, audio: int | None = mel.RECIPE["sample_rate"],
               pictures: int | None = None, landmarks: int | None = None,
               face: int | None = None, pose: bool = False, activity: bool = False,
               rate: float = rates.VIDEO) -> dict[str, Feature]:
    """The columns of one speaker.

    Args:
      prefix: one of PREFIXES.
      audio: sample rate, Hz; None where there is no sound.
      pictures: side of the face crops, pixels; brings `portrait` too.
      landmarks: points a frame.
      face: numbers in a frame's face code.
      pose: of the head.
      activity: where the speaker speaks.
      rate: of pictures, landmarks, face and pose, Hz.
    """
    out = {"speaker": Feature((), "str", "the speaker's name"),
           "identity": Feature((8,), "float32", "unit vector derived from the speaker's name"),
           "words": Feature((), "str", "JSON [[word, start, end], ...]", "s")}
    if audio:
        out["audio"] = Feature((None,), "int16", "mono waveform", "1/32768", audio)
    if activity:
        out["activity"] = Feature((), "str", "JSON [[start, end], ...] of speech", "s")
    if pictures:
        out["pictures"] = Feature((None, pictures, pictures, 3), "uint8", "RGB crops of the face",
                                  "", rate)
        out["portrait"] = Feature((pictures, pictures, 3), "uint8", "the speaker, from the front")
    if landmarks:
        out["landmarks"] = Feature((None, landmarks, 2), "float32", "points of the face, x right "
                                   "and y down in the picture", "sides of the crop", rate)
    if face:
        out["face"] = Feature((None, face), "float32", "face code", "", rate)
    if pose:
        out["pose"] = Feature((None, 7), "float32", "head: quaternion wxyz, translation x right, "
                              "y up, z away", "face widths", rate)
    return {prefix + name: feature for name, feature in out.items()}


def identity_of(speaker: str) -> np.ndarray:
    """A fixed unit vector for a name, (8,) float32; it distinguishes speakers, nothing else."""
    name = speaker.encode()
    # names may differ at their end alone
    name = name if len(name) <= 64 else hashlib.sha256(name).digest()
    seed = int.from_bytes(name.ljust(8, b"\0"), "little")
    vector = np.random.default_rng(seed).standard_normal(8)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
