"""Who has the turn in a recorded dialogue, from the times of words.

Words with pauses of at most BRIDGED seconds make a phrase. A phrase of few words within the other's
speech is a back-channel; the other phrases, in order of their start, are turns, and neighbours of
one speaker are one turn. The events are those of data_pipelines/puppets/dialogue.py.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

BRIDGED = 0.5  # seconds, inside a phrase [ours; transcripts of Seamless Interaction suggest it]
# a back-channel has at most so many words and seconds [ours]
_FEW, _SHORT = 3, 1.2

Word = tuple[str, float, float]  # what, from, to: seconds


@dataclasses.dataclass
class _Phrase:
    speaker: int
    start: float
    end: float
    text: str
    words: int


def spans(words: Sequence[Word], bridged: float = BRIDGED) -> list[list[float]]:
    """[[start, end], ...] of speech: words, with pauses of up to `bridged` seconds filled."""
    return joined([(start, end) for _, start, end in words], bridged)


def joined(times: Sequence[tuple[float, float]], bridged: float = BRIDGED) -> list[list[float]]:
    """Intervals in order, those at most `bridged` seconds apart as one."""
    out: list[list[float]] = []
    for start, end in sorted(times):
        if out and start - out[-1][1] <= bridged:
            out[-1][1] = max(out[-1][1], end)
        else:
            out.append([start, end])
    return out


def events(words: Sequence[Sequence[Word]]) -> list[dict]:
    """Events of a dialogue, in order of time.

    Args:
      words: of each speaker, in order.
    """
    phrases = sorted((p for who, mine in enumerate(words) for p in _phrases(who, mine)),
                     key=lambda p: (p.start, p.speaker))
    small = [_is_small(p, phrases) for p in phrases]
    out = [_said("backchannel", p) for p, is_small in zip(phrases, small, strict=True) if is_small]
    turns: list[_Phrase] = []
    for phrase in (p for p, is_small in zip(phrases, small, strict=True) if not is_small):
        if turns and turns[-1].speaker == phrase.speaker:
            before = turns[-1]
            out.append(_between("pause", before.end, phrase.start))
            turns[-1] = _Phrase(before.speaker, before.start, max(before.end, phrase.end),
                                f"{before.text} {phrase.text}", before.words + phrase.words)
        else:
            turns.append(phrase)
    for before, after in zip(turns, turns[1:], strict=False):
        if after.start > before.end:
            out.append(_between("gap", before.end, after.start))
    for k, one in enumerate(phrases):
        for other in phrases[k + 1:]:
            start, end = max(one.start, other.start), min(one.end, other.end)
            if one.speaker != other.speaker and end > start:
                out.append(_between("overlap", start, end))
    return sorted(out + [_said("turn", t) for t in turns], key=lambda e: (e["start"], e["kind"]))


def text(found: Sequence[dict]) -> str:
    """What was said, as the puppets' dialogues have it: "[0] Hello. [1:yeah] [1] Hi." """
    marked = [f"[{e['speaker']}] {e['text']}" if e["kind"] == "turn" else
              f"[{e['speaker']}:{e['text']}]"
              for e in found if e["kind"] in ("turn", "backchannel")]
    return " ".join(marked)


def _phrases(who: int, words: Sequence[Word]) -> list[_Phrase]:
    out: list[_Phrase] = []
    for word, start, end in sorted(words, key=lambda w: w[1]):
        if out and start - out[-1].end <= BRIDGED:
            last = out[-1]
            out[-1] = _Phrase(who, last.start, max(last.end, end), f"{last.text} {word}",
                              last.words + 1)
        else:
            out.append(_Phrase(who, start, end, word, 1))
    return out


def _is_small(phrase: _Phrase, phrases: Sequence[_Phrase]) -> bool:
    """Whether somebody else speaks on: before it begins and after it ends, with a pause at most."""
    if phrase.words > _FEW or phrase.end - phrase.start > _SHORT:
        return False
    others = joined([(p.start, p.end) for p in phrases
                     if p.speaker != phrase.speaker and p.words > _FEW], 2 * BRIDGED)
    return any(a < phrase.start and phrase.end < b for a, b in others)


def _said(kind: str, phrase: _Phrase) -> dict:
    return {"kind": kind, "speaker": phrase.speaker, "start": _rounded(phrase.start),
            "end": _rounded(phrase.end), "text": phrase.text}


def _between(kind: str, start: float, end: float) -> dict:
    return {"kind": kind, "start": _rounded(start), "end": _rounded(end)}


def _rounded(seconds: float) -> float:
    return float(np.round(seconds, 4))
