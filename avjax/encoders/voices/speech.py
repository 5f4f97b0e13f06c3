"""Sound as the GE2E network was trained on it: quiet recordings raised, long silences cut out.

A detector (WebRTC's, of the package webrtcvad-wheels, at its strictest) hears 30 ms at a time; its
answers are averaged over 8, rounded and widened by 3 on each side, and what remains is the speech.
Suffixes: N samples, F windows of the detector.
"""

import importlib
import importlib.util

import numpy as np
from scipy import ndimage

from avjax.errors import UserError

RATE = 16000
RECIPE = {"raise_to_db": -30.0, "detector": "webrtcvad 3", "window": 0.03, "average": 8,
          "widen": 3}
DETECTOR = "webrtcvad"
INSTALL = "pip install webrtcvad-wheels"
_WINDOW = round(RECIPE["window"] * RATE)
_SCALE = 32767


class TooLittle(UserError):
    """Nobody is heard for long enough. The sound may be fine otherwise."""

    def at(self, where: str) -> "TooLittle":
        """The same, of a place that only the caller knows."""
        return TooLittle(self.what, where=where, expected=self.expected, found=self.found,
                         hint=self.hint)


def detector():
    """WebRTC's voice activity detector. UserError, with the command, where it is not installed."""
    if importlib.util.find_spec(DETECTOR) is None:
        raise UserError("no detector of speech for the GE2E voice encoder",
                        where=f"package {DETECTOR}", expected="it installed",
                        found="no such package",
                        hint=f"{INSTALL}, or pip install 'avjax[ge2e]'")
    return importlib.import_module(DETECTOR).Vad(3)


def prepared(audio_N: np.ndarray) -> np.ndarray:
    """(N,) float samples at RATE -> the speech in them, float32, raised to -30 dB where it is
    quieter. TooLittle: silence, or samples that are not finite."""
    raised_N = raised(audio_N)
    flags_F = voiced(raised_N)
    return raised_N[:len(flags_F) * _WINDOW][np.repeat(kept(flags_F), _WINDOW)]


def raised(audio_N: np.ndarray) -> np.ndarray:
    """Of RMS -30 dB of full scale, or as it is where it is louder. TooLittle as `prepared`."""
    power = np.mean(np.square(audio_N, dtype=np.float64)) if len(audio_N) else 0.0
    if not power or not np.isfinite(power):
        raise TooLittle("no sound to tell a voice by", where="the recording",
                        expected="a recording of speech",
                        found="silence" if not power else "samples that are not finite",
                        hint="give another recording of the voice")
    gain = 10 ** (RECIPE["raise_to_db"] / 20) / power**0.5
    return (audio_N * max(1.0, gain)).astype(np.float32)


def voiced(audio_N: np.ndarray) -> np.ndarray:
    """(N,) samples -> (N // 480,) bool: what the detector says of every 30 ms."""
    vad = detector()
    # a peak above full scale is clipped, where the published code wraps it around
    pcm_N = np.clip(np.round(audio_N * _SCALE), -_SCALE - 1, _SCALE).astype("<i2")
    return np.array([vad.is_speech(pcm_N[k:k + _WINDOW].tobytes(), RATE)
                     for k in range(0, len(pcm_N) // _WINDOW * _WINDOW, _WINDOW)], bool)


def kept(flags_F: np.ndarray) -> np.ndarray:
    """The detector's answers -> (F,) bool: which windows remain."""
    return ndimage.binary_dilation(smoothed(flags_F), np.ones(2 * RECIPE["widen"] + 1))


def smoothed(flags_F: np.ndarray) -> np.ndarray:
    """(F,) bool: more than half of the 8 around it are; 3 before it, itself and 4 after."""
    wide = RECIPE["average"]
    padded = np.pad(flags_F.astype(int), ((wide - 1) // 2, wide // 2))
    return 2 * np.convolve(padded, np.ones(wide, int), "valid")[:len(flags_F)] > wide
