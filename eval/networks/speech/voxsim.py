"""How alike two voices sound to people, from 1 to 6: VoxSim (Ahn et al., Interspeech 2024), WavLM
large with ECAPA-TDNN, tuned until the cosine of two voices followed listeners' opinions.

Published by github.com/kaistmm/voxsim_trainer, `wavlm_ecapa.model`, and computed as its evaluation
does: of ten pieces of 4 s the mean cosine of all pairs, of the whole recordings one more, and their
mean, from 0 .. 1 to 1 .. 6.
Suffixes: N samples, E embedding.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from eval.networks.speech import wavlm_ecapa
from eval.networks.speech.kept import Kept
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
    """What listeners would say of two recordings.

    Args:
      encoder: of voices, see avjax/encoders/voices.
    """

    def __init__(self, encoder):
        self._encoder, self._kept = encoder, Kept(self._made)

    def __call__(self, one_N: np.ndarray, other_N: np.ndarray, rate: int) -> float | None:
        """Float samples at `rate` -> 1 (nothing alike) to 6; None where one, or a piece of it, is
        silent."""
        one, other = self._voices((one_N, other_N), rate)
        if one is None or other is None:
            return None
        # the mean over all pairs of pieces is the product of their means
        (one_E, ones_E), (other_E, others_E) = one, other
        return float(LOWEST + (HIGHEST - LOWEST) * (ones_E @ others_E + one_E @ other_E) / 2)

    def ahead(self, waves: Sequence[np.ndarray], rate: float) -> None:
        """Hears several together, to know them when they are asked for."""
        self._voices(waves, rate)

    def _voices(self, waves, rate) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """(of the whole, mean over pieces), (E,) each; None of what is silent in part."""
        return self._kept([at_16khz(wave_N, rate) for wave_N in waves])

    def _made(self, heard: list[np.ndarray]):
        parts = [[] if is_silent(wave_N) else [wave_N, *pieces(wave_N)] for wave_N in heard]
        found = iter(wavlm_ecapa.unit(self._encoder, list(itertools.chain(*parts))))
        made = [[next(found) for _ in some] for some in parts]
        return [(voices[0], np.mean(voices[1:], axis=0))
                if voices and all(x is not None for x in voices) else None for voices in made]


def load(path) -> Rater:
    """Of the published file. UserError: unreadable, or of another network."""
    return Rater(wavlm_ecapa.encoder(path))
