"""Tokens of sound as AV-Flow's release makes them: raw logits of the 29 letters of wav2vec 2.0 base
960h, of sound at 16 kHz in chunks of 100 s, at the level it came, on the mel's clock.

Suffixes: N samples, T frames of logits (49.99 Hz) or of features, C letters.
"""

import functools
import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from avjax.encoders import voice_activity, wav2vec2
from avjax.encoders.wav2vec2 import SAMPLE_RATE
from avjax.errors import UserError
from avjax.signal import level, mel, resample
from avjax.storage import paths
from data_pipelines.media import sound
from data_pipelines.store.schema import arrays_hash

KIND, MEANING = "wav2vec2-ctc", "CTC logits of wav2vec2"
WIDTH = len(wav2vec2.CTC_LABELS)
OWNERS = "wav2vec2_fairseq_base_ls960_asr_ls960, run by the corpus' owners"  # as weights
NAME = "ctc"  # of the folder in a workdir
RATE = wav2vec2.Wav2Vec2CTC.frame_rate  # of logits
_PER_CHUNK = wav2vec2.CHUNK_SECONDS * 50 - 1  # logit frames
_ALIKE = 1e-3  # of the loudest sample: by so much may channels of one sound differ


class Encoder:
    """Sound at 16 kHz (N,) -> logits (T, 29) float32. `recipe`: which network, by its parameters,
    so that the same weights under other names are the same; `file`: digest of the file, by which
    datasets of earlier versions name them; `shortest`: samples of sound, at least."""

    def __init__(self, path: str):
        self._network = wav2vec2.Wav2Vec2CTC.from_checkpoint(path)
        self.file = file_hash(path)
        arrays = traverse_util.flatten_dict(self._network.params, sep="/")
        heads = {"num_heads": np.asarray(self._network.config.num_heads)}
        self.recipe = {"kind": KIND, "weights": arrays_hash(arrays | heads), "values": "logits"}
        self.shortest = self._network.config.min_samples()

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        return self._network(audio_N)


@functools.lru_cache(maxsize=1)
def load(path: str) -> Encoder:
    """The weights of a file, or of a folder with one. UserError: none, or another network's."""
    return Encoder(path)


def in_workdir(workdir) -> str:
    """The folder of weights that lies in a workdir; "" for none."""
    if workdir is None or paths.is_remote(workdir):
        return ""
    folder = pathlib.Path(workdir) / NAME
    return str(folder) if folder.is_dir() else ""


def of_sound(file: str, weights: str, recipe: Mapping, *, channel: int = 0, activity: str = "",
             flags: tuple[str, str] = ("--audio", "--channel")) -> tuple[np.ndarray, list[str]]:
    """A recording -> tokens (frames, 29) on the clock of a model's tokens, and remarks.

    Args:
      file: of any format and rate.
      weights: of the network.
      recipe: of the model's tokens.
      channel: whose voice, counted from 1; 0: the file is of one voice.
      activity: keeps each channel to its own speech, where the recipe does not say how.
      flags: that named the file and the channel, for messages.

    Raises UserError: unreadable; several voices and no channel; another network or voice activity
    than the recipe's; sound that is shorter than a frame of logits.
    """
    encoder = load(weights)
    _check_network(encoder, recipe, weights)
    detector = _detector(recipe, activity)
    heard = [sound.read(file, SAMPLE_RATE, channel=c) for c in range(sound.channels(file) or 1)]
    channels = [each.samples for each in heard]
    where = f"{flags[0]}={file}"
    index = _index(channels, channel, where, flags[1])
    remarks = list(heard[index].told)
    if len(channels[index]) < encoder.shortest:
        raise UserError("sound too short for tokens", where=where, found=f"{len(channels[index])}",
                        expected=f"at least {encoder.shortest} samples at {SAMPLE_RATE} Hz")
    if detector:
        channels = detector.separated(channels, SAMPLE_RATE)
        remarks.append(f"voice activity: {detector.kind}")
    audio_N = level.normalised(channels[index], SAMPLE_RATE, recipe.get("level"))
    if not audio_N.any():
        remarks.append(f"warning: {flags[0]} is silent")
    return clocked(encoder(audio_N), len(audio_N) / SAMPLE_RATE, recipe), remarks


def of_array(file: str, recipe: Mapping, *, channel: int = 0, rate: float = 0.0,
             flags: tuple[str, str] = ("--tokens", "--channel")) -> np.ndarray:
    """Logits that were computed elsewhere, (channels, T, 29) or (T, 29) in an .npy -> tokens
    (frames, 29) on the clock of a model's tokens.

    Args:
      channel, flags: as in `of_sound`.
      rate: frames a second of the array: 0 or about 50 as wav2vec 2.0 gives them, or 86.13, as they
        are on the mel's clock.

    Raises UserError: not such an array, numbers that are not finite, another width or rate.
    """
    where = f"{flags[0]}={file}"
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError("unreadable tokens", where=where, expected="an .npy of (channels, frames, "
                        f"{WIDTH}) floats", found=str(error)) from error
    x = array if getattr(array, "ndim", 0) == 3 else np.asarray(array)[None]
    if x.ndim != 3 or x.shape[2] != WIDTH or x.dtype.kind != "f" or 0 in x.shape:
        raise UserError("tokens of another width", where=where,
                        expected=f"(channels, frames, {WIDTH}) floats",
                        found=f"{np.shape(array)} {getattr(array, 'dtype', 'no array')}",
                        hint="make them with wav2vec2-base-960h")
    x_TC = np.asarray(x[_index(x, channel, where, flags[1])], np.float32)
    bad = ~np.isfinite(x_TC).all(1)
    if bad.any():
        raise UserError("tokens are not finite", where=where, expected="numbers",
                        found=f"{bad.sum()} of {len(bad)} frames are not, the first is "
                              f"{int(bad.argmax())}", hint="compute them again")
    if rate and abs(rate - mel.FRAME_RATE) < 0.1:
        return x_TC
    if rate and not abs(rate - RATE) <= 0.05:  # not a number either
        raise UserError("tokens of another rate", where="--tokens_rate", found=f"{rate:g}",
                        expected=f"{RATE} frames a second, or {mel.FRAME_RATE:.2f}")
    return clocked(x_TC, len(x_TC) / RATE, recipe)


def clocked(x_TC: np.ndarray, seconds: float, recipe: Mapping) -> np.ndarray:
    """All logits of some sound -> tokens (frames, 29), by the way that the recipe names."""
    mode = recipe.get("resample", resample.MODES[0])
    if mode == "released":  # as many as torch's interpolate makes of the two rates
        frames = max(1, int(len(x_TC) * (resample.RELEASED_RATE / RATE)))
        return resample.to_features(x_TC, RATE, frames, mode=mode)
    frames = max(1, int(seconds * mel.RECIPE["sample_rate"]) // mel.RECIPE["hop"])
    return on_clock(x_TC, seconds, frames, mode)


def on_clock(x_TC: np.ndarray, seconds: float, frames: int, mode: str) -> np.ndarray:
    """Logits of so many seconds of sound -> (frames, 29).

    Frame k of a chunk sees its samples 320 k .. 320 k + 399; a chunk of 100 s has 4999 frames, not
    5000. Logits of another number than such chunks have were made without them.
    """
    if mode == "released":
        return resample.to_features(x_TC, len(x_TC) / seconds, frames, mode=mode)
    times = resample.feature_times(frames)
    chunks, left = divmod(seconds, wav2vec2.CHUNK_SECONDS)
    expected = chunks * _PER_CHUNK + max(0.0, left * 50 - 0.25)
    if abs(len(x_TC) - expected) > 3:
        return resample.interpolate(x_TC, times * 50 - 200 / 320)
    chunk, into = np.divmod(times, wav2vec2.CHUNK_SECONDS)
    position = chunk * _PER_CHUNK + np.clip(into * 50 - 200 / 320, 0, _PER_CHUNK - 1)
    return resample.interpolate(x_TC, position)


def _index(channels, channel: int, where: str, flag: str) -> int:
    """Of the voice that is meant, by a flag. UserError: no such channel, or voices that differ and
    none is named."""
    count = len(channels)
    if not 0 <= channel <= count:
        raise UserError("no such channel", where=flag, expected=f"1 to {count}",
                        found=str(channel))
    if channel:
        return channel - 1
    peak = max(np.abs(x).max(initial=0.0) for x in channels)
    if any(np.abs(x - channels[0]).max(initial=0.0) > _ALIKE * peak for x in channels[1:]):
        raise UserError("several voices where one is due", where=where,
                        expected="one channel", found=f"{count} channels that differ",
                        hint=f"{flag}=1 takes the first")
    return 0


def _check_network(encoder: Encoder, recipe: Mapping, weights: str) -> None:
    """UserError: tokens of another network than a model learnt from. What a corpus' owners ran is
    known by its name only."""
    known = recipe.get("weights")
    if known not in (OWNERS, encoder.recipe["weights"], encoder.file):
        raise UserError("tokens of another network", where=f"--ctc={weights}",
                        expected=f"weights {known}, from which the model learnt",
                        found=encoder.recipe["weights"], hint="use the file that the features were "
                        "extracted with")


def _detector(recipe: Mapping, activity: str) -> voice_activity.Detector | None:
    """The voice activity of the model's tokens, or the one asked for where only the corpus' owners
    know theirs. UserError: another than the model's."""
    known = recipe.get("activity")
    asked = voice_activity.Detector.parse(activity) if activity else None
    if asked and recipe.get("weights") != OWNERS and asked.recipe != known:
        raise UserError("another voice activity than the model's tokens", where="--activity",
                        expected=str(known or "none"), found=activity, hint="leave it out")
    if asked or not known:
        return asked
    detector = voice_activity.Detector.of_recipe(known)
    if detector.recipe != known:
        raise UserError("another voice activity than the model's tokens",
                        where="recipes.json, tokens", expected=str(known),
                        found=str(detector.recipe), hint="install the version it was made with")
    return detector


def file_hash(path) -> str:
    """16 hex digits of what a file, or all files of a folder, hold."""
    files = [pathlib.Path(path)]
    if files[0].is_dir():
        files = sorted(p for p in files[0].rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
