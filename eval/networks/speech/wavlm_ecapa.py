"""Who speaks, by WavLM large with ECAPA-TDNN fine-tuned for speaker verification: the network of
avjax/encoders/voices/wavlm_ecapa.py, as speaker similarity is reported with.

Suffixes: N samples, E embedding.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from avjax.encoders.voices.speech import TooLittle
from avjax.encoders.voices.wavlm_ecapa import WavlmEcapa
from eval.networks.speech.sound import at_16khz

KEPT = 256  # embeddings: every variant is held against the same recordings


class Voices:
    """Waveforms -> unit vectors of who speaks in them, by an encoder of avjax/encoders/voices."""

    def __init__(self, encoder):
        self._encoder = encoder
        self._kept: OrderedDict[bytes, np.ndarray | None] = OrderedDict()

    def __call__(self, waves: Sequence[np.ndarray], rate: int) -> list[np.ndarray | None]:
        """(n_i,) float samples at `rate` -> (E,) float32 of length one each, together where they
        are of like length; None of silence or less than a frame."""
        heard = [at_16khz(wave_N, rate) for wave_N in waves]
        keys = [hashlib.sha256(wave_N.tobytes()).digest() for wave_N in heard]
        new = {key: self._prepared(wave_N) for key, wave_N in zip(keys, heard, strict=True)
               if key not in self._kept}
        spoken = [key for key, wave_N in new.items() if wave_N is not None]
        self._kept |= dict.fromkeys(new)
        if spoken:
            made = self._encoder.many([new[key] for key in spoken])
            self._kept |= zip(spoken, made / np.linalg.norm(made, axis=1, keepdims=True),
                              strict=True)
        out = [self._kept[key] for key in keys]
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return out

    def _prepared(self, wave_N: np.ndarray) -> np.ndarray | None:
        try:
            return self._encoder.prepared(wave_N)
        except TooLittle:
            return None


def load(path) -> Voices:
    """Of a published file. UserError: unreadable, or of another network."""
    return Voices(WavlmEcapa(str(path)))
