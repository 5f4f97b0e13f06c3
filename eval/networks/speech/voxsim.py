"""How alike two voices sound to people, from 1 to 6: VoxSim (Ahn et al., Interspeech 2024), WavLM
large with ECAPA-TDNN, tuned until the cosine of two voices followed listeners' opinions.

Published by github.com/kaistmm/voxsim_trainer, `wavlm_ecapa.model`, and computed as its evaluation
does: of ten pieces of 4 s the mean cosine of all pairs, of the whole recordings one more, and their
mean, from 0 .. 1 to 1 .. 6.
Suffixes: N samples, E embedding.
"""

import numpy as np

from eval.networks.speech import wavlm_ecapa
from eval.networks.speech.sound import RATE, at_16khz, is_silent

PIECE = 400 * 160 + 240  # samples: 400 frames of 10 ms, and the end of the last one
PIECES = 10
LOWEST, HIGHEST = 1, 6
RECIPE = {"pieces": PIECES, "samples": PIECE, "sample_rate": RATE, "spread": "evenly",
          "shorter": "repeated", "score": "mean cosine of all pairs of pieces and that of the "
          "wholes, averaged; times 5, plus 1"}


def pieces(wave_N: np.ndarray) -> list[np.ndarray]:
    """(N,), N > 0 -> PIECES of (PIECE,); what is shorter is repeated until it is a sample longer
    than a piece."""
    if len(wave_N) <= PIECE:
        wave_N = np.pad(wave_N, (0, PIECE - len(wave_N) + 1), mode="wrap")
    starts = np.linspace(0, len(wave_N) - PIECE, PIECES).astype(int)
    return [wave_N[start:start + PIECE] for start in starts]


class Rater:
    """What listeners would say of two recordings."""

    def __init__(self, voices: wavlm_ecapa.Voices):
        self._voices = voices

    def __call__(self, one_N: np.ndarray, other_N: np.ndarray, rate: int) -> float | None:
        """Float samples at `rate` -> 1 (nothing alike) to 6; None where one, or a piece of it, is
        silent."""
        heard = [at_16khz(wave_N, rate) for wave_N in (one_N, other_N)]
        if any(map(is_silent, heard)):
            return None
        found = [self._voices([wave_N, *pieces(wave_N)], RATE) for wave_N in heard]
        if any(x is None for voices in found for x in voices):
            return None
        (one_E, *ones), (other_E, *others) = found
        # the mean over all pairs is the product of the means
        pairs = np.mean(ones, axis=0) @ np.mean(others, axis=0)
        return float(LOWEST + (HIGHEST - LOWEST) * (pairs + one_E @ other_E) / 2)


def load(path) -> Rater:
    """Of the published file. UserError: unreadable, or of another network."""
    return Rater(wavlm_ecapa.load(path))
