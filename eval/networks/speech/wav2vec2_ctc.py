"""Words of any vocabulary: a wav2vec 2.0 CTC model, decoded greedily, and Whisper's English
normaliser, of the package whisper-normalizer.

Suffixes: N samples, T frames, V letters.
"""

import importlib
import importlib.util
import pathlib
from importlib.metadata import version

import numpy as np

from avjax.encoders.wav2vec2 import Wav2Vec2CTC, spelled
from avjax.errors import UserError
from eval.networks.speech.sound import at_16khz, is_silent

PACKAGE = "whisper-normalizer"


class Words:
    """Recogniser and normaliser. UserError: the file is of another network, or the normaliser's
    package is missing."""

    def __init__(self, path):
        self._network = Wav2Vec2CTC.from_checkpoint(
            str(path), normalise=pathlib.Path(path).suffix == ".safetensors")
        self.normalised = normaliser()

    def __call__(self, wave_N: np.ndarray, rate: int) -> str:
        """Float samples at `rate` -> what is heard, normalised; "" where nothing is, of silence
        or of less than a frame."""
        wave_N = at_16khz(wave_N, rate)
        if len(wave_N) < self._network.config.min_samples() or is_silent(wave_N):
            return ""
        return self.normalised(spelled(self._network(wave_N)).lower())


def normaliser():
    """Whisper's English text normaliser. UserError: not installed."""
    if importlib.util.find_spec("whisper_normalizer") is None:
        raise UserError("no text normaliser for WER_open and CER_open", where=f"package {PACKAGE}",
                        expected="it installed", found="no such package",
                        hint="pip install 'avjax[words]', or take the recogniser's file out of "
                             "--networks")
    return importlib.import_module("whisper_normalizer.english").EnglishTextNormalizer()


def recipe() -> dict:
    """How words are heard and normalised."""
    return {"decoding": "greedy CTC: no lexicon, no language model",
            "level": "as it came; of a .safetensors zero mean and unit variance, as transformers",
            "normaliser": "Whisper's English", PACKAGE: version(PACKAGE)}


load = Words
