"""Is every speaker's sound a channel of its own?"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.ingest.common.recordings import RATE, SILENCE
from data_pipelines.ingest.conversations import offsets
from data_pipelines.store.dataset import Unusable

BLEED = -20.0  # dB, above which it is told
_SAME = 0.98  # correlation of channels that are one recording
HOP = 882  # samples of a frame in which loudness is compared: 40 ms of 22050 Hz
_SPEAKS = -30.0  # dB below the channel's loudest frames, and
_ALONE = 6.0  # dB above every other channel: who speaks alone
_NEAR = 0.05  # seconds by which what leaks may be late or, where clocks are not quite one, early


Apart = Mapping[tuple[int, int], offsets.Offset]


def apart(audio: Sequence[np.ndarray]) -> Apart:
    """What every two channels have in common where clocks are one: {(i, j): offset}."""
    found = {(i, j): offsets.measure(audio[i], audio[j], RATE)
             for i, j in itertools.combinations(range(len(audio)), 2)}
    return {pair: x for pair, x in found.items() if x.known and abs(x.seconds) <= _NEAR}


def check(audio: Sequence[np.ndarray], names: Sequence[str], common: Apart, where: str) -> None:
    """Raises Unusable: silent channel, one channel twice (late, softer or upside down, too)."""
    for name, a in zip(names, audio, strict=True):
        level = float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))) if len(a) else 0.0
        if level < SILENCE:
            raise Unusable("silent channel", where=where,
                           expected="a level of -50 dB or more of every speaker",
                           found=f"{20 * np.log10(max(level, 1e-6)):.0f} dB of {name}",
                           hint="check the microphone")
    for i, j in itertools.combinations(range(len(audio)), 2):
        found = common.get((i, j))
        late = 0 if found is None else round(found.seconds * RATE)
        # the offset is of samples of 8 kHz
        if max(_alike(audio[i], audio[j], k) for k in {0, *range(late - 2, late + 3)}) > _SAME:
            raise Unusable("one channel twice", where=where,
                           expected="a clean channel of every speaker",
                           found=f"{names[i]} and {names[j]} sound the same",
                           hint="give the recordings before they were mixed, or one channel "
                                "with a transcript that has times")


def _alike(a_N: np.ndarray, b_N: np.ndarray, late: int) -> float:
    """How much `a`, so many samples later, is `b`: 0 to 1, upside down or not."""
    if late < 0:
        a_N, b_N, late = b_N, a_N, -late
    return abs(np.corrcoef(a_N[late::7], b_N[:len(b_N) - late:7])[0, 1])


def power(audio: Sequence[np.ndarray]) -> np.ndarray:
    """(S, T) mean square of each channel in frames of HOP samples."""
    count = min(map(len, audio)) // HOP
    return np.stack([np.square(a[:count * HOP], dtype=np.float64).reshape(count, HOP).mean(1)
                     for a in audio])


def bleed(audio: Sequence[np.ndarray], common: Apart) -> np.ndarray:
    """(S, S) dB: how loud speaker i, while speaking alone, is in the channel of speaker j, of what
    i is in the own one; NaN where the two channels have nothing in common (`apart`), or i never
    speaks alone. The noise of a channel does not count."""
    power_ST = power(audio) + 1e-12
    noise_S = np.percentile(power_ST, 10, axis=1)
    loud_S = np.percentile(power_ST, 95, axis=1)
    out = np.full((len(audio), len(audio)), np.nan)
    for i, j in common:
        for own, other in ((i, j), (j, i)):
            alone = (power_ST[own] > loud_S[own] * 10 ** (_SPEAKS / 10)) & (
                power_ST[own] > np.delete(power_ST, own, axis=0).max(0) * 10 ** (_ALONE / 10))
            if alone.sum() >= 5:
                heard = max(np.median(power_ST[other][alone]) - noise_S[other], 1e-12)
                out[own, other] = 10 * np.log10(heard / np.median(power_ST[own][alone]))
    return out
