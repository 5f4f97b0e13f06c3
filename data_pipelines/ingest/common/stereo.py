"""A wav of a conversation, a speaker a channel -> both voices at the clips' rate, frame by frame of
what was filmed."""

import numpy as np
import soundfile
import soxr

from data_pipelines.ingest.common.files import Files
from data_pipelines.ingest.common.recordings import AUDIO_RECIPE, RATE
from data_pipelines.media import MediaError, check_riff
from data_pipelines.store import quarantine
from data_pipelines.store.dataset import Unusable

RECIPE = AUDIO_RECIPE | {"channels": "one of the recording's"}
RECORDED = 48000  # Hz
RATES = (8000, 192000)  # Hz: others are no sound's
RESAMPLED = "sound of another sample rate, resampled"
UNHEARD = "the partner's channel is silent"  # kept, and told of
_BLOCK = 1 << 18  # samples decoded at a time


def read(files: Files, name: str) -> tuple[np.ndarray, list[str]]:
    """((2, N) int16 at 22050 Hz, what was mended or is to be told of).

    Raises Unusable: "truncated", "unreadable sound", "not two channels", "unknown sample rate",
      "sound is not finite", "silent channel" (the first), "one channel twice", and as Files.open.
    """
    where = files.where(name)
    with files.open(name) as file:
        try:
            check_riff(file, where)
            file.seek(0)
            with soundfile.SoundFile(file) as wav:
                sound_2N = _read(wav, where)
                return sound_2N, ([RESAMPLED] * (wav.samplerate != RECORDED)
                                  + [UNHEARD] * (not sound_2N[1].any()))
        except MediaError as error:
            raise Unusable(error.reason, where=where, found=str(error)) from error
        except soundfile.SoundFileError as error:
            raise Unusable("unreadable sound", where=where, found=quarantine.said(error)) from error


def _read(wav, where: str) -> np.ndarray:
    if not RATES[0] <= wav.samplerate <= RATES[1]:
        raise Unusable("unknown sample rate", where=where, expected=f"{RECORDED} Hz",
                       found=f"{wav.samplerate} Hz")
    if wav.channels != 2:
        raise Unusable("not two channels", where=where, expected="a speaker a channel",
                       found=str(wav.channels))
    stream = soxr.ResampleStream(wav.samplerate, RATE, 2, dtype="float32")
    parts, finite, differ = [], True, False
    while len(block_NC := wav.read(_BLOCK, "float32")):
        finite &= bool(np.isfinite(block_NC).all())
        differ |= bool((block_NC[:, 0] != block_NC[:, 1]).any())
        parts.append(_int16(stream.resample_chunk(block_NC)))
    parts.append(_int16(stream.resample_chunk(np.zeros((0, 2), np.float32), last=True)))
    sound_2N = np.concatenate(parts).T
    if not finite:
        raise Unusable("sound is not finite", where=where)
    if not sound_2N[0].any():
        raise Unusable("silent channel", where=where, expected="the speaker's voice in channel 1",
                       found="zeros")
    if not differ:
        raise Unusable("one channel twice", where=where, expected="a speaker a channel",
                       found="two equal channels")
    return np.ascontiguousarray(sound_2N)


def _int16(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(np.nan_to_num(x) * 32767), -32768, 32767).astype(np.int16)
