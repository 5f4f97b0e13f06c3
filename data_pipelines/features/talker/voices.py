"""Whose voice an example has, and what makes it of sound: `--voice` of extraction and generation.

A network that takes recordings together (`many`, as WavLM with ECAPA-TDNN) hears them so; its
weights stay in a file, which generation from a recording is given again.
"""

import pathlib

import numpy as np

from avjax.encoders import voices
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.storage import paths
from avjax.weights import files
from data_pipelines.features.common import units
from data_pipelines.prompting import Input, Request

WHOSE = ("auto", "another", "own")
FOLDER = "voice"  # of the weights in a workdir
HELP = ("whose utterance an example's voice is taken from: its own, or another of the same speaker "
        "and split; auto: another where clips have identities; or what makes it of sound, instead "
        "of statistics: ge2e (the network in the package resemblyzer) or a FILE (WavLM with "
        "ECAPA-TDNN, wavlm_large_finetune.pth); both as ge2e:own or FILE:another")
INPUT = Input("voice", "WavLM with ECAPA-TDNN (wavlm_large_finetune.pth), which makes the voice of "
                       "--audio where the model learnt its voices; default the file in "
                       f"WORKDIR/{FOLDER}.")
_AT_ONCE = 64  # recordings


def parsed(option: str) -> tuple[str, str]:
    """(what makes it, whose) of --voice."""
    kind, _, whose = option.rpartition(":")
    return (kind or voices.KINDS[0], whose) if whose in WHOSE else (option, "auto")


def maker(kind: str) -> voices.Maker:
    """See voices.maker. A network is spread over all accelerators of this process."""
    return voices.maker(kind, units.mesh())


class Hearing:
    """The raw vectors of recordings, by name."""

    def __init__(self, by: voices.Maker):
        self._by, self._found, self._waiting = by, {}, {}

    def add(self, name: str, audio_N: np.ndarray, rate: float) -> None:
        """A recording, (N,) float samples at `rate`."""
        if not hasattr(self._by, "many"):
            self._found[name] = voices.heard(self._by, audio_N, rate)
            return
        audio_N = resampled(audio_N, rate, self._by.sample_rate)
        if not self._by.hears(audio_N):
            self._found[name] = np.full(self._by.width, np.nan, np.float32)
            return
        self._waiting[name] = audio_N
        if len(self._waiting) == _AT_ONCE:
            self._hear()

    def finish(self) -> dict[str, np.ndarray]:
        """{name: raw vector}, NaN where too little is heard."""
        self._hear()
        return self._found

    def _hear(self) -> None:
        if self._waiting:
            raw_UE = self._by.many(list(self._waiting.values()))
            self._found |= dict(zip(self._waiting, raw_UE, strict=True))
        self._waiting = {}


def weights(request: Request, recipe, workdir) -> str:
    """The file that makes the voice of --audio or --video; "" where none is needed or known.
    UserError: one is given that means nothing."""
    if request.voice and recipe.get("kind") != wavlm_ecapa.KIND:
        raise UserError("this model's voices need no such weights", where="--voice",
                        expected=f"a model of voices of kind {wavlm_ecapa.KIND}",
                        found=str(recipe.get("kind")), hint="leave it out")
    spoken = request.audio or request.video
    if request.voice and not spoken:
        raise UserError("--voice without --audio", where="--voice",
                        hint="leave it out, or give --audio, the recording of the voice")
    if request.voice or not spoken or workdir is None or paths.is_remote(workdir):
        return request.voice
    folder = pathlib.Path(workdir) / FOLDER
    return files.find_in_folder(str(folder))[0] if folder.is_dir() else ""
