"""Text that is longer than the model's context: in pieces, cut at sentences, each of which goes on
from the last sound and motion of the one before.

How long a text lasts is known only when it has been said. LETTERS is how fast people read aloud;
SLACK makes room for slower ones, so that the stop head ends a piece and not the room.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from avjax.encoders import sentences
from avjax.errors import UserError
from data_pipelines.media import text_file
from data_pipelines.prompting import Input

LETTERS, WIDE = 14.0, 4.5  # a second: letters and spaces; Chinese, Japanese and Korean characters
SLACK = 1.4  # ours
CONTEXT = 0.64  # seconds; ours: four patches, where the release's prefix is of 0.5 s
TAKES = (Input("text_file", "File of the text to speak, of any length; UTF-8."),
         Input("piece_seconds", "Text of more seconds (guessed of its letters) is made in pieces, "
               "by sentences; 0 = as many as the model's context holds.", float),
         Input("context_seconds", "Of pieces: so much of the sound and motion before is what each "
               f"goes on from; 0 = {CONTEXT}.", float))


def seconds(text: str) -> float:
    """About how long a text lasts."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return wide / WIDE + (len(text) - wide) / LETTERS


def of_file(request):
    """The request with the text of its --text_file: one line a paragraph. UserError: unreadable, or
    --text beside it."""
    if not request.text_file:
        return request
    if request.text:
        raise UserError("two texts", where="--text, --text_file", expected="one of them",
                        found="both")
    paragraphs = re.split(r"\n\s*\n", text_file.read(request.text_file))
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs).strip()
    if not text:
        raise UserError("nothing to say", where=f"--text_file={request.text_file}",
                        expected="the words to speak", found="no text")
    return type(request)(**vars(request) | {"text": text})


def cut(request, text: str, c, *, behind: int, most: int, given: int,
        tokens: Callable[[str], int]) -> tuple[list[str], int]:
    """The pieces of a text, usually one, and the patches that each behind the first goes on from.

    Args:
      c: config.system.
      behind: slots after the last of speech.
      most: patches of an utterance that the model has seen.
      given: patches of a prefix.
      tokens: how many a text becomes.

    Raises UserError: a word that does not fit, --piece_seconds or --context_seconds that do not.
    """
    patch = c.patch / c.frame_rate
    longest = most - c.min_patches
    context = int((request.context_seconds or CONTEXT) / patch + 1e-6)
    for name, least in (("context_seconds", patch), ("piece_seconds", c.min_patches * patch)):
        value, greatest = getattr(request, name), (longest if "context" in name else most) * patch
        if value and not least - 1e-6 <= value <= greatest + 1e-6:
            raise UserError("seconds out of range", where=f"--{name}", found=f"{value:g} s",
                            expected=f"{least:.2f} to {greatest:.2f} s")
    context = max(min(context, longest), 1)

    def cost(part: str, before: int = context) -> float:
        room = min(most, c.row_tokens - 1 - behind - tokens(part)) - before
        share = seconds(part) / (request.piece_seconds or math.inf)
        return max(share, seconds(part) * SLACK / patch / room) if room > 0 else math.inf

    if cost(text, given) <= 1:
        return [" ".join(text.split()) if request.text_file else text], context
    try:
        return [" ".join(part.split())
                for part in sentences.pieces(text, lambda part: cost(part, max(context, given)))
                ], context
    except ValueError as error:
        raise UserError("text over the context", where=f"--text, {str(error)[:40]!r}",
                        expected=f"words of at most {c.row_tokens} tokens and {most} patches "
                        "(config.system.row_tokens, row_patches and max_frames)",
                        found="one that does not fit", hint="break it with spaces") from error


def steps(x_TC: np.ndarray, frames_K: Sequence[int]) -> tuple[float, float]:
    """The mean distance from a frame to the next, across the joints of pieces of so many frames and
    within them."""
    steps_T = np.linalg.norm(np.diff(np.asarray(x_TC, np.float64), axis=0), axis=-1)
    joints = np.cumsum(frames_K)[:-1] - 1
    joints = joints[joints < len(steps_T)]
    return float(steps_T[joints].mean()), float(np.delete(steps_T, joints).mean())
