"""Words of any vocabulary: a wav2vec 2.0 CTC model, decoded greedily, and Whisper's English
normaliser, of the package whisper-normalizer.

Suffixes: N samples, T frames, V letters.
"""

import importlib
import pathlib
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from jax.sharding import Mesh

from avjax.encoders.wav2vec2 import Wav2Vec2CTC, spelled
from avjax.sharding import rows
from eval.networks.speech.kept import Kept
from eval.networks.speech.sound import at_16khz, is_silent

PACKAGE = "whisper-normalizer"


class Words:
    """Recogniser and normaliser, whose package a metric declares that it needs.

    Args:
      path: of a published file. UserError: it is of another network.
      mesh: utterances are split over its data axes; None = `rows.devices`.
    """

    def __init__(self, path, mesh: Mesh | None = None):
        self._network = Wav2Vec2CTC.from_checkpoint(
            str(path), normalise=pathlib.Path(path).suffix == ".safetensors",
            mesh=mesh or rows.devices())
        self._kept, self.normalised = Kept(self._made), normaliser()

    def __call__(self, wave_N: np.ndarray, rate: int) -> str:
        """Float samples at `rate` -> what is heard, normalised; "" where nothing is, of silence
        or of less than a frame."""
        return self.normalised(self.spelled([wave_N], rate)[0].lower())

    def ahead(self, waves: Sequence[np.ndarray], rate: float) -> None:
        """Hears several together, to know them when they are asked for."""
        self.spelled(waves, rate)

    def spelled(self, waves: Sequence[np.ndarray], rate: float) -> list[str]:
        """What is heard in each of several, in capitals, those of like length together."""
        return self._kept([at_16khz(wave_N, rate) for wave_N in waves])

    def _made(self, heard: list[np.ndarray]) -> list[str]:
        least, out = self._network.config.min_samples(), [""] * len(heard)
        spoken = [i for i, wave_N in enumerate(heard)
                  if len(wave_N) >= least and not is_silent(wave_N)]
        for i, logits_TV in zip(spoken, self._network.many([heard[i] for i in spoken]),
                                strict=True):
            out[i] = spelled(logits_TV)
        return out


def normaliser():
    """Whisper's English text normaliser."""
    return importlib.import_module("whisper_normalizer.english").EnglishTextNormalizer()


def recipe() -> dict:
    """How words are heard and normalised."""
    return {"decoding": "greedy CTC: no lexicon, no language model",
            "level": "as it came; of a .safetensors zero mean and unit variance, as transformers",
            "normaliser": "Whisper's English", PACKAGE: version(PACKAGE)}


load = Words
