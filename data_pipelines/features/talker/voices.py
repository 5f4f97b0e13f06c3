"""Whose voice an example has, and what makes it of sound: `--voice` of extraction and generation.

The weights of WavLM with ECAPA-TDNN stay in a file, which generation from a recording is given
again.
"""

import pathlib

import numpy as np

from avjax.encoders import voices
from avjax.encoders.voices import wavlm_ecapa
from avjax.encoders.voices.speech import TooLittle
from avjax.errors import UserError
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


def parsed(option: str) -> tuple[str, str]:
    """(what makes it, whose) of --voice."""
    kind, _, whose = option.rpartition(":")
    return (kind or voices.KINDS[0], whose) if whose in WHOSE else (option, "auto")


def maker(kind: str) -> voices.Maker:
    """See voices.maker. A network is spread over all accelerators of this process."""
    return voices.maker(kind, units.mesh())


def heard(front, audio_N: np.ndarray, rate: float, where: str) -> np.ndarray:
    """`frontend.Encoder.voice` of what was given as `where`, which its errors name."""
    try:
        return front.voice(audio_N, rate)
    except TooLittle as error:
        raise error.at(where) from error


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
