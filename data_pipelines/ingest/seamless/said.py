"""Transcripts, voice activity and annotations of one side, as times within its recording.

Their JSON: {"metadata:transcript": [{"words": [{"word", "start", "end", "score"?}], "start", "end",
"transcript"}], "metadata:vad": [{"start", "end"}], "annotations:3P-IS"?: [{"annotation",
"start_ts", "end_ts"}]}; seconds, words' times may be null.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.ingest.conversations.turns import joined, spoken
from data_pipelines.ingest.seamless import phrases
from data_pipelines.ingest.seamless.phrases import Word
from data_pipelines.store.dataset import Unusable

INTERPOLATED = "words without times: interpolated within their phrase"
TIMELESS = "phrases without any time: left out"
BEYOND = "words beyond the end of the sound: left out"
NO_VAD = "no voice activity: spans of words instead"
MARKS = "marks in the transcript that nobody says: left out"
TWISTED = "times that go backwards: put in order"


def words(transcript: Any, seconds: float, notes: set[str]) -> list[Word]:
    """[(word, start, end)] in order of time, all within the sound.

    Args:
      transcript: of the JSON.
      seconds: of sound.
      notes: gets what was mended.
    """
    out: list[Word] = []
    for phrase in _list(transcript, "metadata:transcript"):
        said = [w for w in phrase.get("words") or [] if str(w.get("word") or "").strip()]
        said = said or [{"word": w} for w in str(phrase.get("transcript") or "").split()]
        names = [" ".join(str(w["word"]).split()) for w in said]
        if not names:
            continue
        starts, ends = ([_time(w.get(k)) for w in said] for k in ("start", "end"))
        edges = _edges(starts, ends, names, _time(phrase.get("start")), _time(phrase.get("end")))
        if edges is None:
            notes.add(TIMELESS)
            continue
        if any(t is None for t in starts + ends):
            notes.add(INTERPOLATED)
        if any(b < a for a, b in edges):
            notes.add(TWISTED)
        out += [(name, *sorted(edge)) for name, edge in zip(names, edges, strict=True)]
    aloud = [(spoken(name)[0], a, b) for name, a, b in out]
    if any(now != name for (now, *_), (name, *_) in zip(aloud, out, strict=True)):
        notes.add(MARKS)
    out = [w for w in aloud if w[0]]
    inside = [(name, max(0.0, a), min(b, seconds)) for name, a, b in out if a < seconds and b >= 0]
    if len(inside) < len(out):
        notes.add(BEYOND)
    return sorted(inside, key=lambda w: (w[1], w[2]))


def activity(vad: Any, found: Sequence[Word], seconds: float, notes: set[str]) -> list[list[float]]:
    """[[start, end], ...] of speech, in order and apart from each other; see `words`."""
    times = []
    for one in _list(vad, "metadata:vad"):
        start, end = _time(one.get("start")), _time(one.get("end"))
        if start is not None and end is not None and min(end, seconds) > max(start, 0.0):
            times.append((max(start, 0.0), min(end, seconds)))
    if not times:
        notes.add(NO_VAD)
        return phrases.spans(found)
    return joined(times, 0.0)


def annotations(content: Mapping[str, Any]) -> dict[str, list]:
    """{kind: its annotations}, those that are there."""
    found = {k.partition(":")[2]: v for k, v in content.items() if k.startswith("annotations:")}
    return {kind: list(_list(all, f"annotations:{kind}")) for kind, all in sorted(found.items())}


def within(kinds: Mapping[str, list], begin: float, end: float) -> str:
    """JSON of the annotations of a stretch, their times from its begin on."""
    out: dict[str, list] = {}
    for kind, all in kinds.items():
        for one in all:
            start, stop = _time(one.get("start_ts")), _time(one.get("end_ts"))
            if start is None or stop is None:  # of the whole interaction
                out.setdefault(kind, []).append(one)
            elif start < end and stop > begin:
                times = {"start_ts": round(start - begin, 4), "end_ts": round(stop - begin, 4)}
                out.setdefault(kind, []).append(one | times)
    return json.dumps(out, ensure_ascii=False)


def _edges(starts, ends, names, begin, end) -> list[tuple[float, float]] | None:
    """(start, end) of each word; those unknown share the time between known ones by letters."""
    places = np.concatenate([[0], np.cumsum([len(name) for name in names])]).astype(float)
    points: dict[float, float] = {}
    for k, (a, b) in enumerate(zip(starts, ends, strict=True)):
        if a is not None:
            points.setdefault(places[k], a)
        if b is not None:
            points[places[k + 1]] = b
    if begin is not None:
        points.setdefault(0.0, begin)
    if end is not None:
        points.setdefault(places[-1], end)
    if not points or (len(points) == 1 and None in starts + ends):
        return None
    at = sorted(points)
    guessed = np.interp(places, at, np.maximum.accumulate([points[x] for x in at]))
    return [(float(guessed[k]) if a is None else a, float(guessed[k + 1]) if b is None else b)
            for k, (a, b) in enumerate(zip(starts, ends, strict=True))]


def _list(value: Any, what: str) -> list[dict]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Unusable("unreadable json", expected=f"{what}: a list of objects",
                       found=repr(value)[:80])
    return value


def _time(value: Any) -> float | None:
    """Seconds, where that is what it is."""
    if isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None
