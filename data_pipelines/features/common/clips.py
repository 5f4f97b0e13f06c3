"""What extraction shares, whatever the system."""

import collections
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import numpy as np

from avjax.errors import UserError
from avjax.signal import level, mel
from data_pipelines import vocoders
from data_pipelines.declared import Option
from data_pipelines.store import dataset as store
from data_pipelines.store import merge, quarantine
from data_pipelines.store.resume import Partial
from data_pipelines.store.schema import arrays_hash

# Options that name files, whose contents are in the recipes and codecs.
PATHS = ("head_vae", "weights", "tokenizer", "vae", "reader", "vocoder", "unit_encoder",
         "centroids", "like", "face_codec", "statistics", "audio_codec", "whisper",
         "audio_encoder", "audio_tokens")
NATIVE = "native_rate"  # of the clips' recipe of audio: Hz, before it was resampled
# copied from the clips where they have them
CARRIED = ("speaker", "text", "words", "phonemes", "identity")


Vocoder = Annotated[str | None, Option("a published BigVGAN of this mel, kept for listening; "
                                       "without it Griffin-Lim makes sound of mel")]
CarryLandmarks = Annotated[bool, Option("take the clips' landmarks along, as they are")]
_LANDMARKS = "landmarks"


def carried(clips, columns: Iterable[str], landmarks: bool = False) -> tuple[list[str], dict]:
    """Those of the columns that the clips have, with landmarks of every speaker besides where they
    are wanted; recipes of those. UserError: wanted, and there are none."""
    found = [column for column in columns if column in clips.features]
    if not landmarks:
        return found, {}
    require(clips, [_LANDMARKS], "prepare the clips with --landmarks")
    points = [column for column in clips.features if column.split("_")[-1] == _LANDMARKS]
    return found + points, {c: clips.recipes[c] for c in points if c in clips.recipes}


def speakers(clips, split: str) -> dict[str, np.ndarray]:
    """Names (S,) and identity vectors (S, 8), those heard most first: whom a trained model can be
    asked to be.

    Where clips have no identities, those are (S, 0).
    """
    fields = ("speaker", "identity") if "identity" in clips.features else ("speaker",)
    rows = [(row["speaker"], row.get("identity", np.zeros(0, np.float32)))
            for row in clips.source(split, fields)]
    counts = collections.Counter(speaker for speaker, _ in rows)
    vectors = dict(rows)
    names = [speaker for speaker, _ in counts.most_common()]
    return {"names": np.asarray(names), "identity": np.stack([vectors[name] for name in names])}


def kept_vocoder(path: str | None, recipe: dict) -> tuple[dict, dict]:
    """Recipes and codecs of the vocoder that a dataset keeps: of none where `path` is none.
    UserError: not a vocoder, or not of mel of `recipe`."""
    if not path:
        return {}, {}
    vocoder = vocoders.load(path, recipe)
    arrays = vocoder.arrays()
    return ({vocoders.NAME: vocoder.recipe | {"arrays": arrays_hash(arrays)}},
            {vocoders.NAME: arrays})


def require(clips, columns, hint: str) -> None:
    """UserError that names the first of the columns that the clips lack."""
    for column in columns:
        if column not in clips.features:
            raise UserError(f"clips lack {column!r}", where=str(clips.dir),
                            expected=", ".join(columns),
                            found=", ".join(clips.features), hint=hint)


def band(clips) -> dict:
    """What recipes of acoustic features say of sound that was recorded at so low a rate that its
    upper half is missing; {} of other sound."""
    rate = clips.recipes.get("audio", {}).get(NATIVE)
    return {NATIVE: rate} if rate and rate < 2 * mel.RECIPE["fmax"] else {}


def full_band(clips) -> None:
    """UserError for such sound, which teaches a model that makes sound to make it dull."""
    if rate := band(clips).get(NATIVE):
        raise UserError("telephone sound is not for what makes sound", where=str(clips.dir),
                        expected=f"sound recorded at {2 * mel.RECIPE['fmax']:.0f} Hz or more",
                        found=f"{rate} Hz", hint="--features=units, or --features=tavid --video=0 "
                                                 "for TAVID's text stage")


def at_mel_rate(clips) -> None:
    """UserError for sound at another rate than that of mel."""
    recipe = clips.recipes.get("audio", {})
    if recipe.get("sample_rate", mel.RECIPE["sample_rate"]) != mel.RECIPE["sample_rate"]:
        raise UserError("clips have another sample rate", where=str(clips.dir), expected="22050 Hz",
                        found=str(recipe), hint="prepare them again")


def choice(what: str, value, choices) -> None:
    """UserError unless the option's value is one of the choices."""
    if value not in choices:
        raise UserError(f"unknown {what}", where=f"--{what}", expected=" or ".join(choices),
                        found=repr(value))


def to_float(audio: np.ndarray) -> np.ndarray:
    """int16 or float samples -> float32 in [-1, 1]."""
    return audio.astype(np.float32) / 32768 if audio.dtype == np.int16 else audio.astype(np.float32)


def open_clips(clips_dir, out_dir) -> store.Dataset:
    """The clips. What is missing of them is the storage's fault where an interrupted job of
    `out_dir` has read them before."""
    return store.open_dataset(clips_dir, begun=merge.begun(out_dir) is not None)


def job(out_dir, clips, family: str, **options) -> Partial:
    """The context in which a family writes its features: continued after a kill by the same options
    on the same clips."""
    options = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in options.items()}
    return Partial(out_dir, {"features": family, "clips": clips.content, "level": level.RECIPE,
                             **options}, paths=PATHS)


def each(source, example: Callable[[store.Source, int], dict],
         max_bad: float = 0.0) -> Iterator[Callable[[], dict]]:
    """Items for `store.write_dataset`: a function for every record of a source, which reads it only
    when it is called. Where some may be bad, whatever a record does makes it unusable."""
    for i in range(len(source)):
        yield functools.partial(_lenient if max_bad else _strict, example, source, i)


def _strict(example, source, i: int) -> dict:
    return example(source, i)


def _lenient(example, source, i: int) -> dict:
    clip = source[i]  # what cannot be read is not the clip's fault
    try:
        return example({i: clip}, i)
    except Exception as error:
        raise unusable(error, clip["id"]) from error


def unusable(error: Exception, id: str) -> store.Unusable:
    """What an item is left out for that raised `error`. Raises it where it is not the item's fault
    (quarantine.py)."""
    if isinstance(error, store.Unusable):
        return error.of(id)
    quarantine.check(error, ())
    return store.Unusable("cannot be extracted", id=id, found=quarantine.said(error))


def check_units(units: np.ndarray, num_units: int, where: str) -> None:
    """UserError unless all are in [0, num_units)."""
    if units.size and not 0 <= units.min() <= units.max() < num_units:
        raise UserError("units outside the codebook", where=where, expected=f"0 to {num_units - 1}",
                        found=f"{units.min()} to {units.max()}",
                        hint="use the centroids that the units were made with")
