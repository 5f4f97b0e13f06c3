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
from avjax.systems.talker import sampler
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


def cut(request, text: str, task: str, c, given: int,
        tokens: Callable[[str], int]) -> tuple[list[str], int]:
    """The pieces of a text, usually one, and the patches that each behind the first goes on from.

    Args:
      c: config.system.
      given: patches of a prefix.
      tokens: how many a text becomes.

    Raises UserError: a word that does not fit, --piece_seconds or --context_seconds that do not.
    """
    patch, seen = c.patch / c.frame_rate, most(task, c)
    longest = seen - c.min_patches
    context = int((request.context_seconds or CONTEXT) / patch + 1e-6)
    for name, least in (("context_seconds", patch), ("piece_seconds", c.min_patches * patch)):
        value, greatest = getattr(request, name), (longest if "context" in name else seen) * patch
        if value and not least - 1e-6 <= value <= greatest + 1e-6:
            raise UserError("seconds out of range", where=f"--{name}", found=f"{value:g} s",
                            expected=f"{least:.2f} to {greatest:.2f} s")
    context = max(min(context, longest), 1)

    def cost(part: str, before: int = context) -> float:
        free = min(seen, c.row_tokens - 1 - behind(task, c) - tokens(part)) - before
        share = seconds(part) / (request.piece_seconds or math.inf)
        return max(share, seconds(part) * SLACK / patch / free) if free > 0 else math.inf

    if cost(text, given) <= 1:
        return [" ".join(text.split()) if request.text_file else text], context
    try:
        return [" ".join(part.split())
                for part in sentences.pieces(text, lambda part: cost(part, max(context, given)))
                ], context
    except ValueError as error:
        raise UserError("text over the context", where=f"--text, {str(error)[:40]!r}",
                        expected=f"words of at most {c.row_tokens} tokens and {seen} patches "
                        "(config.system.row_tokens, row_patches and max_frames)",
                        found="one that does not fit", hint="break it with spaces") from error


def behind(task: str, c) -> int:
    """Slots of motion after the last of speech."""
    return 0 if task == "tts" else c.delay


def most(task: str, c) -> int:
    """Patches of one utterance that the model was trained to see."""
    return min(min(c.row_patches, c.row_tokens - 1) - behind(task, c), -(-c.max_frames // c.patch))


def patches(use, c) -> int:
    """What is given, in patches."""
    return max((-(-len(x) // c.patch) for x in use.values()), default=0)


def room(request, task: str, c, prompt: int, given: int, flags: str) -> int:
    """Patches to make room for: what the model was trained to see (a row of at most `max_frames` of
    one utterance), less the prompt; `given` of them are there already, by these flags. Nothing is
    cut silently."""
    after, seen = behind(task, c), most(task, c)
    free = min(seen, c.row_tokens - 1 - prompt - after)
    least = max(given + (0 if task in sampler.GIVEN else c.min_patches), 1)
    context = (f"{c.row_tokens} tokens, at most {seen + after} patches of them "
               "(config.system.row_tokens, row_patches and max_frames)")
    if least > seen:
        raise UserError("the clip is over the context",
                        where=flags, expected=context,
                        found=f"{given} patches", hint="cut it into sentences and generate each")
    if least > free:
        raise UserError("text over the context", where="--text", expected=context,
                        found=f"{prompt} tokens of text and "
                        f"at least {least + after} patches",
                        hint="split it into sentences and generate each")
    if task in sampler.GIVEN or not request.max_seconds:
        return free
    seconds = c.patch / c.frame_rate
    wanted = int(np.ceil(request.max_seconds / seconds - 1e-6))
    if not least <= wanted <= free:
        raise UserError("bound out of range", where="--max_seconds",
                        found=f"{request.max_seconds:g} s",
                        expected=f"{least * seconds:.2f} to {free * seconds:.2f} s for this text; "
                        f"the context is {context}")
    return wanted


def steps(x_TC: np.ndarray, frames_K: Sequence[int]) -> tuple[float, float]:
    """The mean distance from a frame to the next, across the joints of pieces of so many frames and
    within them."""
    steps_T = np.linalg.norm(np.diff(np.asarray(x_TC, np.float64), axis=0), axis=-1)
    joints = np.cumsum(frames_K)[:-1] - 1
    joints = joints[joints < len(steps_T)]
    return float(steps_T[joints].mean()), float(np.delete(steps_T, joints).mean())
