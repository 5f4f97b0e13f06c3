"""Who speaks, by WavLM large with ECAPA-TDNN fine-tuned for speaker verification: the network of
avjax/encoders/voices/wavlm_ecapa.py, as speaker similarity is reported with.

Suffixes: N samples, E embedding.
"""

import contextlib
from collections.abc import Sequence

import numpy as np

from avjax.encoders.voices.speech import TooLittle
from avjax.encoders.voices.wavlm_ecapa import WavlmEcapa
from avjax.sharding import rows
from eval.networks.speech.kept import Kept
from eval.networks.speech.sound import at_16khz


class Voices:
    """Waveforms -> unit vectors of who speaks in them, by an encoder of avjax/encoders/voices."""

    def __init__(self, encoder):
        self._encoder, self._kept = encoder, Kept(self._made)

    def __call__(self, waves: Sequence[np.ndarray], rate: int) -> list[np.ndarray | None]:
        """(n_i,) float samples at `rate` -> (E,) float32 of length one each, together where they
        are of like length; None of silence or less than a frame."""
        return self._kept([at_16khz(wave_N, rate) for wave_N in waves])

    def ahead(self, waves: Sequence[np.ndarray], rate: float) -> None:
        """Hears several together, to know them when they are asked for."""
        self(waves, rate)

    def _made(self, heard: list[np.ndarray]) -> list[np.ndarray | None]:
        return unit(self._encoder, heard)


def unit(encoder, heard: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """(n_i,) float32 samples at 16 kHz -> (E,) of length one each, by an encoder of
    avjax/encoders/voices; None of what it calls too little."""
    out: list[np.ndarray | None] = [None] * len(heard)
    spoken = {}
    for i, wave_N in enumerate(heard):
        with contextlib.suppress(TooLittle):
            spoken[i] = encoder.prepared(wave_N)
    if spoken:
        made = encoder.many(list(spoken.values()))
        for i, voice_E in zip(spoken, made / np.linalg.norm(made, axis=1, keepdims=True),
                              strict=True):
            out[i] = voice_E
    return out


def load(path) -> Voices:
    """Of a published file. UserError: unreadable, or of another network."""
    return Voices(encoder(path))


def encoder(path) -> WavlmEcapa:
    """On all devices; see `load`."""
    return WavlmEcapa(str(path), rows.devices())
