"""Praat's TextGrid, in its long and its short form, as Praat reads both: in order, whatever stands
between them, the strings in quotes, the free-standing numbers and the flags in < >.

Each tier of intervals is a speaker: "Anna". Where aligners (MFA) name what a tier holds, "Anna -
words" has Anna's words and "Anna - phones" is passed over, as are "words" and "phones" alone. Tiers
of points are passed over.
"""

import re
from collections.abc import Iterator

from data_pipelines.media.transcripts.said import Rows

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|(?<!\S)([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)'
                    r'(?!\S)|(\n)|![^\n]*|"')
_HOLDS = re.compile(r"(?:(.*?)\s*[-_/:]\s*)?(words?|phones?|phonemes?|syllables?)", re.IGNORECASE)
_EXPECTED = "a TextGrid that Praat has saved as text"


def read(text: str, rows: Rows) -> None:
    """Adds what the intervals of the tiers say. Raises TranscriptError."""
    tokens = _Tokens(text, rows)
    if tokens.string() != "ooTextFile" or tokens.string() != "TextGrid":
        raise rows.error("not a TextGrid", 1, expected=_EXPECTED, found=repr(text[:40]))
    tokens.number(), tokens.number()  # of the whole: its start and end
    if tokens.flag() != "exists":
        return
    for _ in range(tokens.count()):
        _tier(tokens, rows)
    tokens.end()


def _tier(tokens: "_Tokens", rows: Rows) -> None:
    kind, name = tokens.string(), tokens.string().strip()
    tokens.number(), tokens.number()
    count, found = tokens.count(), []
    if kind not in ("IntervalTier", "TextTier"):
        raise rows.error("not a TextGrid", tokens.line, expected="IntervalTier or TextTier",
                         found=repr(kind))
    for _ in range(count):
        start, line = tokens.number(), tokens.line
        end = tokens.number() if kind == "IntervalTier" else start
        said = " ".join(tokens.string().split())
        if said:
            found.append((said, start, end, line))
    holds = _HOLDS.fullmatch(name)
    if kind == "TextTier" or (holds and not holds[2].lower().startswith("word")):
        return
    speaker = (holds[1] or None) if holds else name
    if holds or (len(found) > 1 and not any(" " in said for said, *_ in found)):
        rows.add_words(speaker, found)
        return
    for said, start, end, line in found:
        rows.add(speaker, said, start, end, line)


class _Tokens:
    """The values of a text in order; `line` is that of the last one."""

    def __init__(self, text: str, rows: Rows):
        self.rows, self.line = rows, 1
        self._found = self._scan(text)

    def _scan(self, text: str) -> Iterator[tuple[str, str]]:
        line = 1
        for match in _TOKEN.finditer(text):
            self.line = line
            line += match[0].count("\n")
            if match[0] == '"':
                raise self.rows.error("not a TextGrid", self.line, found="a quote that is not "
                                      "closed", expected=_EXPECTED)
            if match.lastindex and match.lastindex < 4:
                yield ("string", "flag", "number")[match.lastindex - 1], match[match.lastindex]

    def _next(self, kind: str) -> str:
        found, value = next(self._found, ("the end", ""))
        if found != kind:
            raise self.rows.error("not a TextGrid", self.line, expected=f"a {kind}",
                                  found=f"{found} {value}".strip(),
                                  hint="was the file cut short?")
        return value

    def string(self) -> str:
        return self._next("string").replace('""', '"')

    def number(self) -> float:
        return float(self._next("number"))

    def count(self) -> int:
        return int(min(self.number(), 1e9))  # more than a file holds

    def end(self) -> None:
        kind, value = next(self._found, ("", ""))
        if kind:
            raise self.rows.error("not a TextGrid", self.line, expected="as many tiers and "
                                  "intervals as it says", found=f"{kind} {value} after them")

    def flag(self) -> str:
        return self._next("flag")
