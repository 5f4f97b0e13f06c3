"""What AV-Flow hears, as features on its clock.

    phones    the clips' phoneme features
    units     k-means of the mel frames, one-hot
    wav2vec2  CTC logits of a checkpoint; with a voice activity, of sound in which each channel is
              silent where its own speaker is, so that nobody's tokens hold the other's words
    given     CTC logits that the clips carry, computed by their corpus' owners
"""

import dataclasses
import pathlib

import numpy as np
import soxr

from avjax.encoders import voice_activity
from avjax.errors import UserError
from avjax.signal import kmeans, mel, resample
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import ctc
from data_pipelines.store import quarantine
from data_pipelines.store.schema import arrays_hash, recipe_hash

KINDS = ("phones", "units", "wav2vec2", "given")
UNITS = 100
_FIT_FRAMES = 100_000  # mel frames that units are fitted on, from clips drawn at random


@dataclasses.dataclass
class Tokenizer:
    """`__call__(clip, prefix, audio, mel_TM, frames)` -> (frames, width) float32. detector: `audio`
    is to be each channel's own speech, which that finds."""

    recipe: dict
    width: int
    meaning: str
    call: object
    columns: tuple[str, ...] = ()
    arrays: dict | None = None
    detector: voice_activity.Detector | None = None

    def __call__(self, *args) -> np.ndarray:
        return self.call(*args)


def detector(kind: str, activity: str | None) -> voice_activity.Detector | None:
    """The voice activity of an option. UserError: none such, or tokens that do not look at it."""
    if activity and kind != "wav2vec2":
        raise UserError("tokens that do not look at the voice activity", where="--activity",
                        expected="--tokens=wav2vec2", found=f"--tokens={kind}",
                        hint="leave --activity out")
    return voice_activity.Detector.parse(activity) if activity else None


def make(job, kind, clips, weights, units, seed, mode, max_bad, fit_split,
         speech_level: dict | None,
         detector: voice_activity.Detector | None = None) -> Tokenizer:
    """The tokenizer of a kind. Raises UserError: clips or weights that lack what it needs.

    speech_level: recipe of the level that sound is brought to; None as it was recorded.
    detector: keeps wav2vec2's tokens to each channel's own speech.
    """
    if kind == "phones":
        return _phones(clips, mode)
    if kind == "units":
        fitted = job.once("units", lambda: {"centroids": _fit_units(
            clips, units, seed, max_bad, fit_split, speech_level)})
        return _units(fitted["centroids"], units, speech_level)
    if kind == "given":
        return given(clips, mode)
    return _wav2vec2(weights, mode, speech_level, detector)


def _phones(clips, mode) -> Tokenizer:
    common.require(clips, ("phones",), "use --tokens=units or --tokens=wav2vec2")
    feature = clips.features["phones"]

    def phones(clip, prefix, audio, mel_TM, frames):
        return resample.to_features(clip[prefix + "phones"], feature.rate, frames, mode=mode)

    return Tokenizer({**clips.recipes.get("phones", {}), "kind": "phones"}, feature.shape[1],
                     feature.meaning, phones, ("phones",))


def units_of(centroids: np.ndarray, speech_level: dict | None) -> Tokenizer:
    """The tokenizer of units that were fitted before."""
    return _units(centroids, len(centroids), speech_level)


def _units(centroids, units, speech_level) -> Tokenizer:
    def one_hot(clip, prefix, audio, mel_TM, frames):
        at = np.minimum(np.arange(frames), len(mel_TM) - 1)  # a partner's sound may be shorter
        return np.eye(units, dtype=np.float32)[kmeans.assign(mel_TM, centroids)[at]]

    recipe = {"kind": "units", "units": units, "of": recipe_hash(mel.RECIPE), "values": "one-hot",
              "arrays": arrays_hash({"centroids": centroids})}
    return Tokenizer(recipe | _levelled(speech_level), units,
                     "nearest k-means unit of the mel frame, one-hot", one_hot,
                     arrays={"centroids": centroids})


def _wav2vec2(weights, mode, speech_level, detector) -> Tokenizer:
    if weights is None or not pathlib.Path(weights).exists():
        raise UserError("wav2vec2 tokens need weights", where="--ctc",
                        expected="a wav2vec2 CTC checkpoint", found=str(weights),
                        hint="give its path, or use --tokens=units")
    encoder = ctc.load(str(weights))

    def logits(clip, prefix, audio, mel_TM, frames):
        x_TC = encoder(soxr.resample(audio, mel.RECIPE["sample_rate"], ctc.SAMPLE_RATE))
        return ctc.on_clock(x_TC, len(audio) / mel.RECIPE["sample_rate"], frames, mode)

    return Tokenizer({**encoder.recipe, **_levelled(speech_level),
                      **({"activity": detector.recipe} if detector else {})}, ctc.WIDTH,
                     ctc.MEANING, logits, detector=detector)


def given(clips, mode) -> Tokenizer:
    """Logits that the clips carry. UserError: they do not."""
    common.require(clips, ("logits",), "use --tokens=wav2vec2 or --tokens=units")
    feature = clips.features["logits"]

    def logits(clip, prefix, audio, mel_TM, frames):
        return ctc.on_clock(clip[prefix + "logits"], len(audio) / mel.RECIPE["sample_rate"],
                            frames, mode)

    return Tokenizer({"kind": ctc.KIND, **clips.recipes.get("logits", {})}, feature.shape[1],
                     f"{ctc.MEANING}, by the corpus' owners", logits, ("logits",))


def _levelled(speech_level: dict | None) -> dict:
    return {"level": speech_level} if speech_level else {}


def _fit_units(clips, units, seed, max_bad, split, speech_level) -> np.ndarray:
    source = clips.source(split, ("audio",))
    frames, count = [], 0
    for i in np.random.default_rng(seed).permutation(len(source)):
        try:
            frames.append(mel.of_speech(common.to_float(source[int(i)]["audio"]), speech_level))
        except Exception as error:
            if not max_bad:
                raise
            quarantine.check(error, ())
            continue  # reported when it is extracted
        count += len(frames[-1])
        if count >= _FIT_FRAMES:
            break
    return kmeans.fit(np.concatenate(frames), units, seed=seed)

