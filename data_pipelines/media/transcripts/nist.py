"""NIST's tables of segments, a line each.

    RTTM  SPEAKER file channel start duration <NA> <NA> speaker ...    who speaks when
          LEXEME file channel start duration word type speaker ...     a word
    STM   file channel speaker start end [<labels>] text               who says what, when
`;;` begins a comment. Other types of RTTM's lines are passed over, and so are STM's lines of
IGNORE_TIME_SEGMENT_IN_SCORING and inter_segment_gap.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from data_pipelines.media.transcripts.said import Rows, Said

_NOTHING = ("ignore_time_segment_in_scoring", "inter_segment_gap")
_COVERED = 0.5  # share of an RTTM segment beyond which STM's lines say it all (ours)
_LABELS = re.compile(r"<[^<>]*>")


def read_rttm(text: str, rows: Rows) -> None:
    """Adds segments without words, and words where there are any. Raises TranscriptError."""
    words: dict[str, list] = {}
    for line, fields in _table(text, rows, column=1):
        kind = fields[0].upper()
        if kind not in ("SPEAKER", "LEXEME"):
            continue
        if len(fields) < 8:
            raise rows.error("not RTTM", line, found=" ".join(fields)[:60],
                             expected="SPEAKER file channel start duration <NA> <NA> speaker")
        start, length = (_number(rows, x, line) for x in fields[3:5])
        start, end = rows.times(start, round(start + length, 6), line)
        if kind == "LEXEME":
            words.setdefault(fields[7], []).append((fields[5], start, end, line))
        else:
            rows.add(fields[7], "", start, end, line)
    for speaker, own in words.items():
        rows.add_words(speaker, sorted(own, key=lambda word: word[1:3]))
    if words:  # they say all that the segments say
        rows.said = [s for s in rows.said if s.text]


def read_stm(text: str, rows: Rows) -> None:
    """Adds what each line says. Raises TranscriptError."""
    for line, fields in _table(text, rows, column=0):
        if len(fields) < 5:
            raise rows.error("not STM", line, found=" ".join(fields)[:60],
                             expected="file channel speaker start end text")
        start, end = (_number(rows, x, line) for x in fields[3:5])
        said = fields[5:]
        if said and _LABELS.fullmatch(said[0]):  # <o,f0,male>
            said = said[1:]
        if not said or {fields[2].lower(), said[0].lower()} & set(_NOTHING):
            continue
        rows.add(fields[2], " ".join(said), start, end, line)


def beside(rttm: Sequence[Said], stm: Sequence[Said]) -> list[Said]:
    """RTTM's segments that STM's lines do not cover, under STM's names: those who speak at the
    same time most are one (labels of a diarisation such as "speaker90" get their name)."""
    labels, names = ([*dict.fromkeys(s.speaker for s in table)] for table in (rttm, stm))
    shared_LN = np.array([[sum(_shared(a, b) for a in rttm if a.speaker == label
                               for b in stm if b.speaker == name) for name in names]
                          for label in labels]).reshape(len(labels), len(names))
    pairs = zip(*linear_sum_assignment(-shared_LN), strict=True)
    called = {labels[i]: names[j] for i, j in pairs if shared_LN[i, j] > 0}
    out = []
    for segment in rttm:
        name = called.get(segment.speaker, segment.speaker)
        covered = sum(_shared(segment, line) for line in stm if line.speaker == name)
        if covered < _COVERED * (segment.end - segment.start):
            out.append(Said(name, segment.text, segment.start, segment.end, segment.words))
    return out


def _shared(a: Said, b: Said) -> float:
    return max(0.0, min(a.end, b.end) - max(a.start, b.start))


def _table(text: str, rows: Rows, column: int) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of what is no comment. Raises: several recordings, by the `column`."""
    recording = None
    for line, content in enumerate(text.splitlines(), 1):
        fields = content.split()
        if not fields or fields[0].startswith(";;"):
            continue
        if len(fields) > column:
            recording = recording or fields[column]
            if fields[column] != recording:
                raise rows.error("several recordings in one table", line, expected=recording,
                                 found=fields[column], hint="give each conversation its own lines")
        yield line, fields


def _number(rows: Rows, x: str, line: int) -> float:
    try:
        return float(x)
    except ValueError:
        raise rows.error("not a time", line, expected="seconds", found=repr(x)) from None
