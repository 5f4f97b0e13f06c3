"""Words with times as JSON.

    {"segments": [{"start", "end", "text", "speaker"?, "words": [{"word", "start", "end",
                   "speaker"?}]}]}                                    Whisper, WhisperX
    {"metadata:transcript": [{"transcript", "start", "end", "words": [...]}]}   Seamless Interaction
    {"words": [...]}, or the list alone: of [word, start, end], or of {"word" or "text", "start",
                   "end", "speaker"?}
Times are seconds; null, or none at all, where an aligner found none.
"""

import json
import re
from collections.abc import Sequence

from data_pipelines.media.transcripts.said import Rows

_SEGMENTS = ("segments", "metadata:transcript")
_EXPECTED = ('{"segments": [{"words": [{"word", "start", "end"}]}]}, '
             '{"metadata:transcript": [...]} or [[word, start, end], ...]')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:\n]|[^\s\[\]{},:"]+')


def read(text: str, rows: Rows) -> None:
    """Adds what the file says to `rows`. Raises TranscriptError: no JSON, none of these forms."""
    try:
        document = json.loads(text)
    except ValueError as error:  # of Python's too, for numbers of thousands of digits
        raise rows.error("not JSON", getattr(error, "lineno", 0), expected=_EXPECTED,
                         found=getattr(error, "msg", str(error))) from error
    except RecursionError as error:
        raise rows.error("not a transcript", 0, expected=_EXPECTED,
                         found="lists within lists") from error
    reader = _Reader(text, rows)
    if isinstance(document, dict):
        key = next((k for k in (*_SEGMENTS, "words") if k in document), None)
        if key is None:
            raise rows.error("not a transcript", 1, expected=_EXPECTED,
                             found=", ".join(map(repr, list(document)[:6])) or "{}")
        reader.several(document[key], [key], words=key == "words")
    else:
        reader.several(document, [], words=True)


class _Reader:
    def __init__(self, text: str, rows: Rows):
        self.rows, self.lines = rows, _lines(text)

    def several(self, items, path: list, *, words: bool) -> None:
        """A list of segments, or of words where that is what it holds."""
        if not isinstance(items, list):
            raise self.error("not a transcript", path, "a list", items)
        if not words or (any(map(_is_segment, items)) and not any(map(_has_word, items))):
            for i, one in enumerate(items):
                self.segment(one, [*path, i])
            return
        for speaker, own in self.by_speaker([self.word(x, [*path, i])
                                             for i, x in enumerate(items)]):
            self.rows.add_words(speaker, own)

    def segment(self, one, path: list) -> None:
        if not isinstance(one, dict):
            raise self.error("not a segment", path, '{"start", "end", "text", "words"}', one)
        words = one.get("words") or []
        if not isinstance(words, list):
            raise self.error("not a list of words", [*path, "words"], "a list", words)
        found = [self.word(x, [*path, "words", i]) for i, x in enumerate(words)]
        speaker = self.name(one, path)
        groups = self.by_speaker([(*w[:4], w[4] or speaker) for w in found])
        if len(groups) > 1:  # speakers were told apart word by word
            for name, own in groups:
                self.rows.add_words(name, own)
            return
        said = one.get("text", one.get("transcript"))
        said = " ".join(str(w[0]).strip() for w in found) if said is None else str(said)
        self.rows.add(groups[0][0] if groups else speaker, said, one.get("start"), one.get("end"),
                      self.line(path), words=[w[:4] for w in found])

    def word(self, x, path: list) -> tuple:
        """(word, start, end, line, speaker or None)"""
        line = self.line(path)
        if isinstance(x, dict) and isinstance(x.get("word", x.get("text")), str):
            return (x.get("word", x.get("text")).strip(), x.get("start"), x.get("end"), line,
                    self.name(x, path))
        if isinstance(x, list) and len(x) == 3 and isinstance(x[0], str):
            return (x[0].strip(), x[1], x[2], line, None)
        raise self.error("not a word", path, '[word, start, end] or {"word", "start", "end"}', x)

    def name(self, x: dict, path: list) -> str | None:
        name = x.get("speaker")
        if not isinstance(name, str | int | None):
            raise self.error("not a speaker", path, "a name", name)
        return None if name is None else str(name).strip()

    @staticmethod
    def by_speaker(words: Sequence[tuple]) -> list[tuple]:
        """[(speaker, their words)], in the order of first speaking."""
        found: dict[str | None, list] = {}
        for *word, speaker in words:
            found.setdefault(speaker, []).append(tuple(word))
        return list(found.items())

    def error(self, reason: str, path: list, expected: str, found):
        return self.rows.error(reason, self.line(path), expected=expected,
                               found=json.dumps(found)[:60])

    def line(self, path: list) -> int:
        """Of the value at a path, or of what it would be in."""
        while path and tuple(path) not in self.lines:
            path = path[:-1]
        return self.lines[tuple(path)]


def _has_word(x) -> bool:
    return isinstance(x, list) or (isinstance(x, dict) and "word" in x)


def _is_segment(x) -> bool:
    return isinstance(x, dict) and (
        "words" in x or "transcript" in x or " " in str(x.get("text", "")).strip())


def _lines(text: str) -> dict[tuple, int]:
    """{path of keys and indices: line} of every value of a valid JSON text."""
    lines, line, path, key_next = {}, 1, [], False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token in "]}":
            path.pop()
        elif token == ",":
            key_next = isinstance(path[-1], str)
            path[-1] = "" if key_next else path[-1] + 1
        elif key_next and token != ":":
            path[-1], key_next = json.loads(token), False
        elif token != ":":
            lines[tuple(path)] = line
            if token in "[{":
                path.append(0 if token == "[" else "")
                key_next = token == "{"
    return lines
