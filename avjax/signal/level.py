"""One level for all speech, so that how loud somebody was recorded decides about nothing.

Whatever turns recorded sound into features that condition or represent a model brings it to one
speech level first, in training and in prompts alike, and records it in its recipe (key "level").
One gain a recording: nothing is compressed.

The speech level is the power of blocks of 0.4 s, in steps of 0.1 s, that are within 10 dB of those
blocks' own mean: the blocks and relative gate of ITU-R BS.1770, applied until nothing changes.
There is no absolute gate and no limit on the gain, so a recording and the same at a quarter of its
amplitude come out equal to the last bit. A high-pass keeps rumble and a constant offset out of the
measurement, not out of the sound.
Suffixes: N samples, B blocks.
"""

import numpy as np

RECIPE = {"kind": "speech-level", "target_db": -20.0, "block": 0.4, "step": 0.1, "gate_db": -10.0,
          "highpass_hz": 100.0}
SILENCE_DB = -90.0  # of full scale: what is below is no recording, and is left as it is
_CHUNK = 100  # steps that are filtered together, which bounds the memory


def speech_db(audio_N: np.ndarray, rate: float) -> float:
    """Level of the speech in float samples at `rate`, in dB of full scale (root mean square); -inf
    where there is nothing, or something that is not finite."""
    power = _speech_power(np.asarray(audio_N), rate)
    return 10 * np.log10(power) if power else -np.inf


def normalised(audio_N: np.ndarray, rate: float, recipe: dict | None = RECIPE) -> np.ndarray:
    """Float samples of one voice at `rate` -> float32 whose speech is at the recipe's level.

    Samples may exceed 1; nothing is clipped.

    Args:
      recipe: None leaves the sound as it is; features that know no level were made so.
    """
    audio_N = np.asarray(audio_N)
    if recipe is None or audio_N.ndim != 1 or audio_N.dtype.kind != "f":
        return audio_N  # the caller raises for what is no sound
    power = _speech_power(audio_N, rate)
    # Of powers, not of decibels: a gain of 4 x is then exactly four times the gain of x.
    gain = 10 ** (recipe["target_db"] / 20) / power**0.5 if power > 10 ** (SILENCE_DB / 10) else 1.0
    return (audio_N * gain).astype(np.float32, copy=False)


def _speech_power(audio_N: np.ndarray, rate: float) -> float:
    """Mean power of the active blocks; 0 where there are none, or one is not finite."""
    power_B = _blocks(audio_N, rate)
    gate = 10 ** (RECIPE["gate_db"] / 10)
    active_B = power_B > 0
    if not active_B.any() or not np.isfinite(power_B).all():
        return 0.0
    while True:  # gating raises the mean, so ever fewer blocks are active
        mean = power_B[active_B].mean()
        closer_B = power_B >= gate * mean
        if closer_B.sum() >= active_B.sum():
            return float(mean)
        active_B = closer_B


def _blocks(audio_N: np.ndarray, rate: float) -> np.ndarray:
    """(B,) float64 mean power of the blocks; one block where the sound is shorter than that."""
    from scipy import signal  # not at the top: training imports this file and never filters

    step = max(1, round(RECIPE["step"] * rate))
    if len(audio_N) < step:
        return np.square(audio_N,
                         dtype=np.float64).mean(keepdims=True) if len(audio_N) else np.zeros(0)
    sections = signal.butter(2, RECIPE["highpass_hz"], "highpass", fs=rate, output="sos")
    state = signal.sosfilt_zi(sections) * float(audio_N[0])
    powers = []
    for start in range(0, len(audio_N) // step * step, _CHUNK * step):
        chunk_N = audio_N[start:start + _CHUNK * step]
        chunk_N = chunk_N[:len(chunk_N) // step * step].astype(np.float64)
        filtered_N, state = signal.sosfilt(sections, chunk_N, zi=state)
        powers.append(np.square(filtered_N).reshape(-1, step).mean(1))
    power_S = np.concatenate(powers)
    width = min(round(RECIPE["block"] / RECIPE["step"]), len(power_S))
    return np.lib.stride_tricks.sliding_window_view(power_S, width).mean(1)
