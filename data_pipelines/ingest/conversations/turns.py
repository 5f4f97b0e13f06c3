"""Who speaks when -> turns and back-channels, and the gaps, overlaps and pauses between them.

The events are those of the puppets' dialogues (data_pipelines/puppets/dialogue.py). What counts as
a turn is ours: stretches of a speaker less than PAUSE apart are one; a short one that lies inside
another's is a back-channel.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.media.transcripts import Said

PAUSE = 1.0  # seconds of silence that a speaker's turn may have in it (ours)
_SMALL_WORDS, _SMALL_SECONDS = 3, 1.2  # of a back-channel, at most (ours)
_HEARD = 0.2  # seconds of silence inside a turn that make a pause: dGSLM's (arXiv:2203.16502)
_MARK = re.compile(r"\[([^\[\]]*)\]|<([^<>]*)>|\{([^{}]*)\}")
_LAUGHTER = re.compile(r"laugh", re.IGNORECASE)


@dataclasses.dataclass
class Stretch:
    """Speech of one speaker without a long pause; seconds. texts, spans: of what it is made of."""

    speaker: int
    start: float
    end: float
    texts: list[str]
    spans: list[tuple[float, float]]

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))


def spoken(text: str) -> tuple[str, bool]:
    """(what of a transcript is said aloud, whether marks were left out): [laughter] stays, other
    marks in brackets go."""
    dropped = []

    def mark(match):
        if _LAUGHTER.search(match[0]):
            return " [laughter] "
        dropped.append(match[0])
        return " "

    text = " ".join(_MARK.sub(mark, text).split())
    rest = text.replace("[laughter]", "")
    if re.search(r"[\[\]{}<>]", rest):  # brackets that do not close
        dropped.append(rest)
        text = " ".join(re.sub(r"[\[\]{}<>]|(?P<kept>\[laughter\])",
                               lambda m: m["kept"] or " ", text).split())
    return (text if "[laughter]" in text or any(c.isalnum() for c in text) else ""), bool(dropped)


def placed(said: Sequence[Said], speech_K2: np.ndarray) -> list[Said]:
    """What one speaker says, in order and without times, laid over the times (K, 2) at which the
    speaker is heard: every word takes the share of them that it has of the letters. A stretch of
    speech with the words in it becomes a Said of its own."""
    # stretches less than half a PAUSE apart are one
    spans_K2 = np.array(joined(speech_K2.tolist(), PAUSE / 2)).reshape(-1, 2)
    if not len(spans_K2) or not said:
        return []
    before_K = np.concatenate([[0.0], np.cumsum(np.diff(spans_K2, axis=1)[:, 0])])
    lengths = np.array([max(len(s.text), 1) for s in said], float)
    edges = np.concatenate([[0.0], np.cumsum(lengths) / lengths.sum()]) * before_K[-1]
    # a turn begins where the speaker does, if that is near
    for i in range(1, len(edges) - 1):
        near = before_K[np.abs(before_K - edges[i]).argmin()]
        room = 0.5 * min(edges[i] - edges[i - 1], edges[i + 1] - edges[i])
        edges[i] = near if abs(near - edges[i]) < room else edges[i]
    out = []
    for one, first, last in zip(said, edges[:-1], edges[1:], strict=True):
        words = one.text.split()
        ends = np.cumsum([len(w) + 1.0 for w in words])
        at = first + (last - first) * (ends - np.diff(ends, prepend=0.0) / 2) / ends[-1]
        for k, (start, end) in enumerate(spans_K2):
            inside = [w for w, t in zip(words, at, strict=True) if before_K[k] <= t
                      < before_K[k + 1]]
            if inside:
                a, b = max(first, before_K[k]), min(last, before_K[k + 1])
                out.append(dataclasses.replace(one, text=" ".join(inside),
                                               start=float(start + a - before_K[k]),
                                               end=float(end - before_K[k + 1] + b)))
    return out


def joined(times: Iterable[tuple[float, float]], bridged: float) -> list[list[float]]:
    """Intervals in order, those at most `bridged` seconds apart as one."""
    out: list[list[float]] = []
    for start, end in sorted(times):
        if out and start - out[-1][1] <= bridged:
            out[-1][1] = max(out[-1][1], end)
        else:
            out.append([start, end])
    return out


def events(utterances: Sequence[tuple[int, str, float, float]]) -> list[dict]:
    """The events of (speaker, text, start, end) utterances: {"kind", "start", "end"} and, of turns
    and back-channels, "speaker" and "text"."""
    stretches = _stretches(utterances)
    small = [s for s in stretches if _is_small(s) and any(
        o.speaker != s.speaker and o.start <= s.start and s.end <= o.end and not _is_small(o)
        for o in stretches)]
    turns: list[Stretch] = []
    for one in sorted((s for s in stretches if s not in small), key=lambda s: (s.start, s.end)):
        last = turns[-1] if turns else None
        if last and last.speaker == one.speaker and one.start - last.end <= 2 * PAUSE:
            last.texts += one.texts
            last.spans += one.spans
            last.end = max(last.end, one.end)
        else:
            turns.append(one)
    out = [_event(kind, s) for kind, group in (("turn", turns), ("backchannel", small))
           for s in group]
    heard = [*turns, *small]
    for i, a in enumerate(heard):
        for b in heard[i + 1:]:
            start, end = max(a.start, b.start), min(a.end, b.end)
            if a.speaker != b.speaker and end > start:
                out.append(_event("overlap", start=start, end=end))
    latest = None
    for turn in turns:
        if latest is not None and turn.start > latest:
            out.append(_event("gap", start=latest, end=turn.start))
        latest = max(latest or 0.0, turn.end)
        out += [_event("pause", start=a[1], end=b[0])
                for a, b in zip(turn.spans[:-1], turn.spans[1:], strict=True)
                if b[0] - a[1] > _HEARD]
    return sorted(out, key=lambda e: (e["start"], e["kind"]))


def _stretches(utterances) -> list[Stretch]:
    out: list[Stretch] = []
    last: dict[int, Stretch] = {}
    for speaker, text, start, end in sorted(utterances, key=lambda u: (u[2], u[3])):
        own = last.get(speaker)
        between = own and any(s.speaker != speaker and own.end <= s.start < start for s in out)
        if own and start - own.end <= PAUSE and not between:
            own.texts.append(text)
            own.spans.append((start, end))
            own.end = max(own.end, end)
        else:
            last[speaker] = Stretch(speaker, start, end, [text], [(start, end)])
            out.append(last[speaker])
    return out


def _is_small(one: Stretch) -> bool:
    return len(one.text.split()) <= _SMALL_WORDS and one.end - one.start <= _SMALL_SECONDS


def _event(kind: str, one: Stretch | None = None, *, start: float = 0.0, end: float = 0.0) -> dict:
    if one is None:
        return {"kind": kind, "start": round(start, 4), "end": round(end, 4)}
    return {"kind": kind, "speaker": one.speaker, "start": round(one.start, 4),
            "end": round(one.end, 4), "text": one.text}
