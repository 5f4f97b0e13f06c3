"""Mel-cepstral distortion in dB on the scale that papers on speech print, as the package pymcd
computes it: mel cepstra of order 13 (14 numbers) of WORLD's spectral envelope (Morise et al. 2016),
every 5 ms, warped by 0.65 at 22.05 kHz; 10 sqrt(2) / ln 10 times the Euclidean distance, mean over
frames that belong together. Neither the scale of `MCD` (eval/metrics/speech.py) nor that of
python-MCD; compare only within one.

Three ways of pairing frames: `dtw` along a time warping of coefficients 1 to 13, whose distance
counts coefficient 0, too; `dtw_sl` the same times the longer length over the shorter; `plain` frame
by frame, with silence behind the shorter waveform.

WORLD's envelope is a power, and pymcd hands it to an analysis that expects amplitudes. So its
cepstra are twice those of the usual definition where the floor of 1e-8 of the squared power does
not hide them, and with coefficient 0 counted loudness alone is a distortion: 7.2 dB for half the
amplitude. That is the scale that the package's users print, and it is kept.
Suffixes: N samples, T and U frames, K frequency bins, C coefficients, L pairs.
"""

import functools

import numpy as np

from avjax.signal.resample import resampled
from eval.metrics import speech
from eval.metrics.alignment import dtw
from eval.registry import declare

RATE = 22050
POINTS, ORDER, WARP, PERIOD_MS, FLOOR = 512, 13, 0.65, 5.0, 1e-8
DB = 10 * np.sqrt(2) / np.log(10)
PAIRINGS = ("dtw", "dtw_sl", "plain")
RECIPE = {"implementation": "avjax eval.metrics.published.world_cepstra 1", "scale": "pymcd 0.2.1",
          "envelope": "WORLD (pyworld: dio, stonemask, cheaptrick), 512 points, every 5 ms",
          "sample_rate": RATE, "resampler": "soxr HQ", "order": ORDER, "warp": WARP,
          "floor": FLOOR, "of": "the envelope taken as an amplitude, as pymcd does",
          "alignment": "exact DTW on coefficients 1 to 13, Euclidean",
          "distance": "coefficients 0 to 13, 10 sqrt(2) / ln 10"}


def envelope(wave_N: np.ndarray, rate: int) -> np.ndarray:
    """(T, K) power of WORLD's spectral envelope. Waveform float in [-1, 1] or int16."""
    import pyworld

    wave_N = np.asarray(wave_N)
    wave_N = wave_N / 32768 if wave_N.dtype == np.int16 else wave_N
    wave_N = np.ascontiguousarray(resampled(wave_N, rate, RATE), np.float64)
    pitch_T, time_T = pyworld.dio(wave_N, RATE, frame_period=PERIOD_MS)
    pitch_T = pyworld.stonemask(wave_N, pitch_T, time_T, RATE)
    return pyworld.cheaptrick(wave_N, pitch_T, time_T, RATE, fft_size=POINTS)


def cepstra(envelope_TK: np.ndarray) -> np.ndarray:
    """(T, ORDER + 1) mel cepstra of spectra with K = POINTS / 2 + 1 bins."""
    log_TK = np.log(np.square(np.asarray(envelope_TK, np.float64)) + FLOOR)
    plain_TK = np.fft.irfft(log_TK, axis=1)[:, :log_TK.shape[1]]
    plain_TK[:, [0, -1]] /= 2
    return plain_TK @ _warping(log_TK.shape[1])


@functools.cache
def _warping(count: int) -> np.ndarray:
    """(count, ORDER + 1): mel cepstra of plain ones (Oppenheim and Johnson 1972). Row k is the
    beginning of the k-th power of the all-pass (x + WARP) / (1 + WARP x)."""
    rows = np.zeros((count, ORDER + 1))
    rows[0, 0] = 1
    for k in range(1, count):
        rows[k, 0] = WARP * rows[k - 1, 0]
        for c in range(1, ORDER + 1):
            rows[k, c] = rows[k - 1, c - 1] + WARP * (rows[k - 1, c] - rows[k, c - 1])
    return rows


def distortion(a_TC: np.ndarray, b_UC: np.ndarray, pairing: str) -> float:
    """dB between mel cepstra; "plain" pairs frame k with frame k, as many as both have."""
    if pairing == "plain":
        both = min(len(a_TC), len(b_UC))
        path_L2 = np.repeat(np.arange(both)[:, None], 2, axis=1)
    else:
        path_L2 = _path(a_TC, b_UC)
    apart_L = np.linalg.norm(a_TC[path_L2[:, 0]] - b_UC[path_L2[:, 1]], axis=1)
    lengths = len(a_TC), len(b_UC)
    penalty = max(lengths) / min(lengths) if pairing == "dtw_sl" else 1.0
    return float(DB * apart_L.mean() * penalty)


def _path(a_TC: np.ndarray, b_UC: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return dtw(cdist(a_TC[:, 1:], b_UC[:, 1:]))


def mcd(a_N: np.ndarray, b_N: np.ndarray, rate: int,
        pairings: tuple[str, ...] = PAIRINGS) -> dict[str, float]:
    """{pairing: dB} of two waveforms (float in [-1, 1] or int16); NaN where one is silent or
    short."""
    heard = a_N, b_N
    if not all(speech.audible(x, rate) for x in heard):
        return dict.fromkeys(pairings, float("nan"))
    longest = max(map(len, heard))
    warped = [cepstra(envelope(x, rate)) for x in heard]
    found = {name: distortion(*warped, name) for name in pairings if name != "plain"}
    if "plain" in pairings:
        padded = [np.pad(x, (0, longest - len(x))) for x in heard]
        found["plain"] = distortion(*(cepstra(envelope(x, rate)) for x in padded), "plain")
    return found


def _score(case):
    rate = case.benchmark.sample_rate
    return {"MCD_world": mcd(case.signals.waveform, case.truth.waveform, rate, ("dtw",))["dtw"]}


def _score_audio(case):
    audio_N = case.benchmark.clip_audio(case.split, case.index)
    if audio_N is None:
        return {}
    found = mcd(case.signals.waveform, audio_N, case.benchmark.sample_rate)
    return {f"MCD_world_audio{suffix}": found[name] for suffix, name in _SUFFIXES.items()}


def _recipe(pairing: str, reference: str):
    return lambda benchmark: RECIPE | {"pairing": pairing, "reference": reference}


_SUFFIXES = {"": "dtw", "_sl": "dtw_sl", "_plain": "plain"}
_NEEDS = ("audio", "waveform", "warped", "package:pyworld")
declare("MCD_world", "down", "mel-cepstral distortion after time warping, WORLD, pymcd's scale",
        family="sound", unit="dB", score=_score, needs=_NEEDS,
        recipe=_recipe("dtw", "ground truth through the same codec"))
for _suffix, _how in (("", "after time warping"),
                      ("_sl", "after time warping, times the ratio of the lengths"),
                      ("_plain", "frame by frame, the shorter padded with silence")):
    declare(f"MCD_world_audio{_suffix}", "down",
            f"mel-cepstral distortion from the clip's own audio {_how}, WORLD, pymcd's scale",
            family="sound", unit="dB", score=_score_audio, needs=_NEEDS,
            recipe=_recipe(_SUFFIXES[_suffix], "the clip's own audio"))
