"""A recording, or logits of one, as the tokens of an AV-Flow that reads wav2vec 2.0's logits."""

import os

import numpy as np

from avjax.encoders import voice_activity
from avjax.errors import UserError
from data_pipelines.features.common import ctc
from data_pipelines.prompting import Input, Request

CTC = Input("ctc", "wav2vec 2.0 base 960h with its CTC head (torchaudio's, fairseq's or "
                   "transformers' file), for --audio where the model reads its logits; default "
                   f"WORKDIR/{ctc.NAME}.")
TOKENS = Input("tokens", "Instead of --audio: its logits, an .npy of (channels, frames, 29).")
RATE = Input("tokens_rate", "Frames a second of --tokens: 49.99 of wav2vec 2.0, 86.13 where they "
                            "are on the mel's clock already.", float)
CHANNEL = Input("channel", "Whose voice drives, of several channels of --audio or --tokens; 1 is "
                           "the first.", int)
ACTIVITY = Input("activity", "Keeps each channel of --audio to its own speech before its logits "
                             "are computed, where the model's tokens do not say how: "
                             + voice_activity.HELP)
INPUTS = (CTC, TOKENS, RATE, CHANNEL, ACTIVITY)
_NEEDS = {"ctc": "audio", "activity": "audio", "tokens_rate": "tokens"}


def check(request: Request, recipe) -> None:
    """UserError: inputs for models of CTC logits, given to another one; or one without what it is
    about."""
    given = [field.name for field in INPUTS if getattr(request, field.name)]
    if given and recipe["kind"] != ctc.KIND:
        raise UserError("this model does not read CTC logits", where=f"--{given[0]}",
                        expected=f"a model whose tokens are of kind {ctc.KIND}",
                        found=recipe["kind"], hint="leave it out")
    for name, needed in _NEEDS.items():
        if name in given and not (getattr(request, needed) or needed == "audio"
                                  and request.partner):
            raise UserError(f"--{name} without --{needed}", where=f"--{name}",
                            hint=f"leave it out, or give --{needed}")


def tokens(request: Request, recipe, workdir) -> tuple[np.ndarray, list[str]]:
    """(T, 29) tokens, and remarks. UserError: no weights, or as `ctc.of_sound` and `ctc.of_array`
    say."""
    if request.tokens:
        return ctc.of_array(request.tokens, recipe, channel=request.channel,
                            rate=request.tokens_rate), []
    return ctc.of_sound(request.audio, weights(request, workdir), recipe, channel=request.channel,
                        activity=request.activity)


def weights(request: Request, workdir) -> str:
    """Where the network of --ctc is. UserError: nowhere."""
    found = request.ctc or ctc.in_workdir(workdir)
    if not found or not os.path.exists(found):
        raise UserError("this model hears by wav2vec 2.0", where="--ctc",
                        expected=f"its weights, or a folder {ctc.NAME} with them in the workdir",
                        found=found or "none", hint="give the file; --tokens=FILE.npy needs none")
    return found
