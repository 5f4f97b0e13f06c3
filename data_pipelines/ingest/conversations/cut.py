"""How conversations are cut into clips, and which are held out.

A clip ends where nobody speaks, as late as its longest duration allows; where somebody always
speaks, in the last tenth of it where fewest do. Held out (split "valid"): with five conversations
or more, the last tenth of those whose speakers are all heard in others, too; else the end (15 %, at
least 1.5 s, and with something of everybody, if that takes no more than half) of every one of 5 s
or more; else a second at the end of the longest.
"""

import math
from collections.abc import Sequence

import numpy as np

from avjax.errors import UserError
from data_pipelines.ingest.clips.holdout import GAP
from data_pipelines.ingest.common.recordings import FPS
from data_pipelines.ingest.conversations.read import Decoded

_HEARD = 0.3  # seconds of speech
_LEAST_TRAINING = 1.2  # seconds that are left to train on of one that is all there is
_END = 1.2  # seconds at its end that are not: a gap, and the second that is held out
BRIEF = "a second held out: its scores mean nothing"
Piece = tuple[int, int, int]  # index of the conversation, first frame, last + 1


def plan(found: Sequence[Decoded], max_seconds: float) -> tuple[dict[str, list[Piece]], str]:
    """({split: pieces}, a remark or ""). Raises UserError: nothing can be held out."""
    whole, remark = _held_whole(found), ""
    splits: dict[str, list[Piece]] = {"train": [], "valid": []}
    for index, one in enumerate(found):
        held = math.ceil(max(1.5, 0.15 * one.seconds) * FPS) if one.seconds >= 5 else 0
        if whole:
            _add(splits["valid" if index in whole else "train"], index, one, 0, one.frames,
                 max_seconds)
        elif held:
            last = _quiet(one, min(one.frames - held, _everybody(one)))
            _add(splits["train"], index, one, 0, last - round(GAP * FPS), max_seconds)
            _add(splits["valid"], index, one, last, one.frames, max_seconds)
        else:
            _add(splits["train"], index, one, 0, one.frames, max_seconds)
    if not splits["valid"]:
        remark = BRIEF
        index = max(range(len(found)), key=lambda i: found[i].frames)
        one = found[index]
        if one.seconds < _LEAST_TRAINING + _END:
            raise UserError("nothing to hold out", where="the accepted conversations",
                            expected=f"one of {_LEAST_TRAINING + _END:g} s or more",
                            found=f"{one.seconds:.1f} s at most", hint="add longer ones")
        splits["train"] = [p for p in splits["train"] if p[0] != index]
        _add(splits["train"], index, one, 0, one.frames - round(_END * FPS), max_seconds)
        _add(splits["valid"], index, one, one.frames - FPS, one.frames, max_seconds)
    return splits, remark


def _held_whole(found: Sequence[Decoded]) -> set[int]:
    """The conversations that are held out as a whole; none where that would leave a speaker
    unheard in training."""
    wanted = math.ceil(len(found) / 10) if len(found) >= 5 else 0
    held: set[int] = set()
    for index in reversed(range(len(found))):
        others = {name for i, one in enumerate(found) if i not in held and i != index
                  for name in one.names}
        if len(held) < wanted and set(found[index].names) <= others:
            held.add(index)
    return held if len(held) == wanted else set()


def _everybody(one: Decoded) -> int:
    """The latest frame after which everybody speaks once more, but not before the middle; the last
    frame where that is not to be had. Nobody learns from, or is scored by, a silent channel."""
    latest = [max((start for k, _, start, end in one.utterances if k == speaker
                   and end - start > _HEARD), default=0.0) for speaker in range(len(one.names))]
    frame = math.floor(min(latest) * FPS)
    return frame if frame >= one.frames / 2 else one.frames


def speaking(one: Decoded) -> np.ndarray:
    """(frames,) how many speak."""
    out = np.zeros(one.frames, int)
    for _, _, start, end in one.utterances:
        out[max(math.floor(start * FPS), 0):math.ceil(end * FPS)] += 1
    return out


def _quiet(one: Decoded, frame: int) -> int:
    """The nearest frame, within a second, at which nobody speaks; else the frame itself."""
    silent = np.flatnonzero(speaking(one)[max(frame - FPS, 1):frame + FPS] == 0)
    silent = silent + max(frame - FPS, 1)
    silent = silent[silent < one.frames - FPS]
    return int(silent[np.abs(silent - frame).argmin()]) if len(silent) else frame


def _add(found: list[Piece], index: int, one: Decoded, first: int, last: int,
         max_seconds: float) -> None:
    found += [(index, a, b) for a, b in pieces(one, first, last, max_seconds)]


def pieces(one: Decoded, first: int, last: int, max_seconds: float) -> list[tuple[int, int]]:
    """[(first frame, last + 1)] of the clips that frames [first, last) of a conversation make."""
    out = []
    count, most = speaking(one), int(min(max_seconds * FPS, one.frames))
    while last - first > most:
        # equal pieces are better than a long one and a scrap
        parts = math.ceil((last - first) / most)
        wanted = first + math.ceil((last - first) / parts)
        late = np.arange(max(first + most // 2, 1), first + most)
        silent = late[count[late] == 0]
        if len(silent):
            at = int(silent[np.abs(silent - wanted).argmin()])
        else:
            late = np.arange(first + most - most // 10, first + most)
            at = int(late[count[late].argmin()]) if len(late) else first + most
        out.append((first, at))
        first = at
    if last > first:
        out.append((first, last))
    return out
