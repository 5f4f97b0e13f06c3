"""What the recordings of a model's training sound like, and a remark about one that is unlike them.

Their level is taken out (avjax/signal/level.py); other circumstances of a recording are not: noise,
a telephone's band, clipping. Four measures of each training recording give ranges, which a dataset
keeps as the codec CODEC; driving compares.
Suffixes: N samples, F frames, W window, K frequencies, C clips, M measures.
"""

from collections.abc import Mapping

import numpy as np

from avjax.signal import level, mel
from data_pipelines.features.common.clips import to_float
from data_pipelines.store import quarantine

CODEC = "heard"
# measure -> (how far below and above the training range is not worth a word, how to say it)
MEASURES = {
    "level": (20.0, 20.0, "speech at {:.0f} dB of full scale"),
    "floor": (np.inf, 10.0, "quietest moments {:.0f} dB from the speech's level"),
    "treble": (10.0, 10.0, "{:.0f} dB above 4 kHz relative to below"),
    "clipping": (np.inf, 0.3, "{:.1f} % of the samples at its peak"),
}
_CLIPS = 200  # that ranges are made of, drawn at random
_FRAMES, _WINDOW = 1000, 1024  # looked at, spread over a recording
_QUIETEST = 0.05  # quantile of the frames' powers
_CLEAN = -60.0  # what is quieter between the words is quiet


def measures(audio_N: np.ndarray, rate: float) -> np.ndarray:
    """(4,) float32 in the order of MEASURES; level -inf, the others 0, where there is nothing to
    hear."""
    speech = level.speech_db(audio_N, rate)
    if not np.isfinite(speech) or len(audio_N) < _WINDOW:
        return np.array([-np.inf, 0, 0, 0], np.float32)
    every = max(1, (len(audio_N) - _WINDOW) // _FRAMES)
    frames_FW = np.lib.stride_tricks.sliding_window_view(audio_N, _WINDOW)[::every]
    frames_FW = frames_FW.astype(np.float64) - frames_FW.mean(1, keepdims=True)
    floor = 10 * np.log10(max(np.quantile(np.square(frames_FW).mean(1), _QUIETEST), 1e-12)) - speech
    floor = max(floor, _CLEAN)
    power_K = np.square(np.abs(np.fft.rfft(frames_FW * mel.window_of(_WINDOW)))).mean(0)
    high_K = np.fft.rfftfreq(_WINDOW, 1 / rate) > 4000
    treble = 10 * np.log10(max(power_K[high_K].sum() / power_K[~high_K].sum(), 1e-12))
    loudness_N = np.abs(audio_N)
    clipped = 100 * np.mean(loudness_N >= 0.99 * loudness_N.max())
    return np.array([speech, floor, treble, clipped], np.float32)


def ranges(clips, split: str) -> dict[str, np.ndarray]:
    """The codec of a clip dataset: 5 % and 95 % quantiles of every measure over clips of a
    split."""
    source = clips.source(split, ("audio",))
    chosen = np.random.default_rng(0).permutation(len(source))[:_CLIPS]
    rate = clips.features["audio"].rate
    found = []
    for i in chosen:
        try:
            found.append(measures(to_float(source[int(i)]["audio"]), rate))
        except Exception as error:
            quarantine.check(error, ())  # else it is reported when it is extracted
    found_CM = np.array([x_M for x_M in found if np.isfinite(x_M[0])])
    if not len(found_CM):
        return {"names": np.array([], str), "low": np.zeros(0), "high": np.zeros(0)}
    low_M, high_M = np.quantile(found_CM, (0.05, 0.95), axis=0).astype(np.float32)
    return {"names": np.array(list(MEASURES)), "low": low_M, "high": high_M}


def remarks(audio_N: np.ndarray, rate: float, codecs: Mapping, recipe: Mapping,
            flag: str = "--audio") -> list[str]:
    """One line, or none, about a recording that is to drive a model.

    Args:
      codecs, recipe: the model's codecs, and the recipe of what it makes of sound.
      flag: that it was given by.
    """
    out = []
    if "level" not in recipe:
        out.append("warning: this model was trained on sound as loud as it came, so how loud "
                   f"{flag} is decides about what it does; extract the features and train again "
                   "to be rid of that")
    found = dict(zip(MEASURES, measures(audio_N, rate), strict=True))
    if not np.isfinite(found["level"]):
        return [*out, f"warning: {flag} is silent"]
    arrays, unlike = codecs.get(CODEC, {"names": (), "low": (), "high": ()}), []
    for name, low, high in zip(arrays["names"], arrays["low"], arrays["high"], strict=True):
        below, above, words = MEASURES[str(name)]
        value = found[str(name)]
        if not low - below <= value <= high + above:
            unlike.append(f"{words.format(value)} ({low:.1f} to {high:.1f} in training)")
    if unlike:
        out.append(f"warning: {flag} is unlike the recordings that the model was trained on: "
                   + "; ".join(unlike))
    return out
