"""Subtitles: WebVTT and SubRip (SRT).

Who speaks is in voice tags (<v Anna>Hello.) or in front of the words (Anna: Hello.). In front of
the words, capitalised words of a line's beginning count as a name; then a line without one goes on
with whoever spoke before. Other marks, notes and styles are passed over.
"""

import html
import re

from data_pipelines.media.transcripts.said import Rows

_TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]\d)[.,](\d{3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAG = re.compile(r"</?[^>]*>|\{\\[^}]*\}")
_PREFIX = re.compile(r"(?:-\s*)?([^\W\d_][\w.'-]*(?: [^\W\d_][\w.'-]*){0,2})\s*:\s+(.*)", re.DOTALL)
_LONGEST_NAME = 40


def read(text: str, rows: Rows) -> None:
    """Adds what the cues say. Raises TranscriptError."""
    lines = text.splitlines()
    webvtt = bool(lines) and lines[0].startswith("WEBVTT")
    if str(rows.path).lower().endswith(".vtt") and not webvtt:
        raise rows.error("not WebVTT", 1, expected="WEBVTT in the first line",
                         found=repr(lines[0][:40]) if lines else "an empty file")
    reader, number = _Cues(rows), 0
    while number < len(lines):
        begin = number
        while number < len(lines) and lines[number].strip():
            number += 1
        block = lines[begin:number]
        number += 1
        if begin == 0 and webvtt:  # the first cue may follow without an empty line
            begin = next((k for k, content in enumerate(block) if "-->" in content), len(block))
            block = block[begin:]
        elif webvtt and re.match(r"(NOTE|STYLE|REGION)\b", block[0] if block else "") and not (
                len(block) > 1 and _TIMING.fullmatch(block[1])):  # that is a cue's name
            continue
        if block:
            reader.add(block, begin + 1)


class _Cues:
    """Adds cues; remembers who spoke last."""

    def __init__(self, rows: Rows):
        self.rows, self.last = rows, None

    def add(self, block: list[str], line: int) -> None:
        """One of lines, from `line` on: a name or number at most, times, words."""
        at = next((k for k, content in enumerate(block[:2]) if "-->" in content), None)
        timing = _TIMING.fullmatch(block[at]) if at is not None else None
        if timing is None:
            bad = at if at is not None else int(len(block) > 1 and block[0].strip().isdigit())
            raise self.rows.error("not a cue", line + bad, found=repr(block[bad][:60]),
                                  expected="00:00:01.000 --> 00:00:02.500, then what is said")
        times = timing.groups()
        start, end = (int(h or 0) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000
                      for h, m, s, ms in (times[:4], times[4:]))
        for name, said in self.spoken(block[at + 1:]):
            self.rows.add(name, said, start, end, line + at)

    def spoken(self, content: list[str]) -> list[tuple[str | None, str]]:
        """(speaker, words) of a cue's lines."""
        text = "\n".join(content)
        first, *rest = _VOICE.split(text)
        if rest:
            voices = [(name.strip(), _plain(said)) for name, said in
                      zip(rest[::2], rest[1::2], strict=True)]
            return [(None, _plain(first)), *voices] if _plain(first) else voices
        out: list[tuple[str | None, str]] = []
        for said in map(_plain, content):
            match = _PREFIX.fullmatch(said)
            if match and self.is_name(match[1]):
                self.last = match[1]
                out.append((self.last, match[2]))
            elif out:
                out[-1] = (out[-1][0], f"{out[-1][1]} {said}")
            elif said:
                out.append((self.last, said))
        return out

    def is_name(self, name: str) -> bool:
        capital = all(word[0] == word[0].upper() for word in name.split())
        return (bool(self.rows.names) and self.rows.known(name) is not None) or (
            capital and len(name) <= _LONGEST_NAME)


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())
