"""Is every speaker's sound a channel of its own?"""

import itertools
from collections.abc import Sequence

import numpy as np

from data_pipelines.ingest.common.recordings import RATE, SILENCE
from data_pipelines.ingest.conversations import offsets
from data_pipelines.store.dataset import Unusable

BLEED = -20.0  # dB, above which it is told
_SAME = 0.98  # correlation of channels that are one recording
_HOP = 882  # samples, 40 ms of 22050 Hz
_SPEAKS = -30.0  # dB below the channel's loudest frames, and
_ALONE = 6.0  # dB above every other channel: who speaks alone
_NEAR = 0.05  # seconds by which what leaks may be late or, where clocks are not quite one, early


def check(audio: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Raises Unusable: silent channel, one channel twice."""
    for name, a in zip(names, audio, strict=True):
        level = float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))) if len(a) else 0.0
        if level < SILENCE:
            raise Unusable("silent channel", expected="a level of -50 dB or more of every speaker",
                           found=f"{20 * np.log10(max(level, 1e-6)):.0f} dB of {name}",
                           hint="check the microphone")
    for i in range(len(audio)):
        for j in range(i):
            if np.corrcoef(audio[i][::7], audio[j][::7])[0, 1] > _SAME:
                raise Unusable("one channel twice", expected="a clean channel of every speaker",
                               found=f"{names[j]} and {names[i]} sound the same",
                               hint="give the recordings before they were mixed, or one channel "
                                    "with a transcript that has times")


def bleed(audio: Sequence[np.ndarray]) -> np.ndarray:
    """(S, S) dB: how loud speaker i, while speaking alone, is in the channel of speaker j, of what
    i is in the own one; NaN where the two channels have nothing in common (offsets.py), or i never
    speaks alone. The noise of a channel does not count."""
    count = min(map(len, audio)) // _HOP
    power_ST = np.stack([(a[:count * _HOP].astype(np.float64) ** 2).reshape(count, _HOP).mean(1)
                         for a in audio]) + 1e-12
    noise_S = np.percentile(power_ST, 10, axis=1)
    loud_S = np.percentile(power_ST, 95, axis=1)
    out = np.full((len(audio), len(audio)), np.nan)
    for i, j in itertools.combinations(range(len(audio)), 2):
        apart = offsets.measure(audio[i], audio[j], RATE)
        if not apart.known or abs(apart.seconds) > _NEAR:
            continue
        for own, other in ((i, j), (j, i)):
            alone = (power_ST[own] > loud_S[own] * 10 ** (_SPEAKS / 10)) & (
                power_ST[own] > np.delete(power_ST, own, axis=0).max(0) * 10 ** (_ALONE / 10))
            if alone.sum() >= 5:
                heard = max(np.median(power_ST[other][alone]) - noise_S[other], 1e-12)
                out[own, other] = 10 * np.log10(heard / np.median(power_ST[own][alone]))
    return out
