"""A voice as 256 numbers: who speaks in a recording. Kinds, as `--voice` names them:

    statistics  of mel, pitch and energy (avjax/encoders/voice_statistics.py); no weights
    ge2e        a network's that was trained to tell speakers apart (ge2e.py); weights of a package
    FILE        of WavLM with ECAPA-TDNN, as published with Talker-T2AV (wavlm_ecapa.py); its
                weights stay in their file

All fill one slot, in datasets, checkpoints and prompts; the recipe says which, and a model refuses
the others.
"""

import os
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from avjax.encoders import voice_statistics
from avjax.encoders.voices import ge2e, speech, wavlm_ecapa
from avjax.errors import UserError
from avjax.signal.resample import resampled

KINDS = ("statistics", "ge2e")
WIDTH, SHORTEST = voice_statistics.WIDTH, ge2e.SHORTEST
_AT_ONCE = 2**24  # samples that wait to be heard together: 17 minutes


class Voice(Protocol):
    """What makes the vectors of a dataset: of `raw`, which needs nothing fitted, `scale` makes what
    models take, and calling it does both."""

    sample_rate: int

    @property
    def recipe(self) -> dict:
        """How the vector is made, without the arrays."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What a dataset keeps, for `from_recipe`."""

    def scale(self, raw_S: np.ndarray) -> np.ndarray:
        """(..., 256) raw -> float32 of about unit power."""

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples at `sample_rate` -> (256,) float32."""


class Maker(Protocol):
    """A kind before it has seen a corpus."""

    sample_rate: int
    width: int

    def prepared(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples at `sample_rate` -> what `many` takes. TooLittle: nobody is heard for
        long enough."""

    def many(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Recordings -> raw (U, width) float32; none depends on the others."""

    def fit(self, raw_US: np.ndarray, speakers: Sequence[str] | None = None) -> Voice:
        """On the vectors of all training utterances, and who speaks in each where it is known."""


class Statistics:
    """The maker of a VoiceStatistics."""

    sample_rate, width = voice_statistics.SAMPLE_RATE, voice_statistics.WIDTH
    prepared = staticmethod(voice_statistics.statistics)  # nothing is gained by several together
    many = staticmethod(np.stack)
    fit = staticmethod(voice_statistics.VoiceStatistics.fit)


def maker(kind: str, mesh: Mesh | None = None) -> Maker:
    """Of KINDS, or of a file of WavLM with ECAPA-TDNN, over a mesh (None: one device). UserError:
    another, or what is not installed."""
    if kind not in KINDS:
        if not os.path.exists(kind):
            raise UserError("unknown voice encoder", where="--voice", found=repr(kind),
                            expected=f"{' or '.join(KINDS)}, or the file of a network")
        return wavlm_ecapa.WavlmEcapa(kind, mesh)
    if kind == "statistics":
        return Statistics()
    speech.detector()  # that it is missing is told before anything is computed
    return ge2e.Ge2e(mesh=mesh)


def heard(by: Maker, audio_N: np.ndarray, rate: float) -> np.ndarray:
    """(width,) raw of float samples at `rate`; NaN where too little is heard."""
    hearing = Hearing(by)
    hearing.add("", audio_N, rate)
    return hearing.finish()[""]


class Hearing:
    """The raw vectors of recordings, which go through a network together."""

    def __init__(self, by: Maker):
        self._by, self._found, self._waiting = by, {}, {}

    def add(self, name: Hashable, audio_N: np.ndarray, rate: float) -> None:
        """A recording, (N,) float samples at `rate`."""
        try:
            self._waiting[name] = self._by.prepared(resampled(audio_N, rate, self._by.sample_rate))
        except speech.TooLittle:
            self._found[name] = np.full(self._by.width, np.nan, np.float32)
        if sum(x_N.size for x_N in self._waiting.values()) >= _AT_ONCE:
            self._hear()

    def finish(self) -> dict[Hashable, np.ndarray]:
        """{name: raw vector}, NaN where too little is heard."""
        self._hear()
        return self._found

    def _hear(self) -> None:
        if self._waiting:
            raw_UE = self._by.many(list(self._waiting.values()))
            self._found |= dict(zip(self._waiting, raw_UE, strict=True))
        self._waiting = {}


def known(raw_US: np.ndarray) -> np.ndarray:
    """(U,) bool: of whom enough was heard. UserError: of nobody."""
    known_U = np.isfinite(raw_US).all(-1)
    if not known_U.any():
        raise UserError("no recording has a voice to hear", where="the split that is fitted on",
                        expected=f"{SHORTEST:g} s of speech in some of them", found="in none",
                        hint="--voice of another kind, or longer recordings")
    return known_U


def from_recipe(recipe: dict, arrays: dict[str, np.ndarray],
                where: str = "codecs/voice.npz", weights: str = "") -> Voice:
    """The encoder of a dataset or workdir. weights: the file of a network whose weights datasets do
    not keep; without it the encoder hears nothing. Raises UserError for kinds that are unknown, for
    missing arrays and for weights of another network than the recipe's."""
    if recipe.get("kind") == wavlm_ecapa.KIND:
        return wavlm_ecapa.of_recipe(recipe, weights)
    if recipe.get("kind") == ge2e.RECIPE["kind"]:
        return ge2e.Ge2e(arrays, where)
    return voice_statistics.from_recipe(recipe, arrays, where)
