"""Plain text: a line a turn, "Anna: Hello.", without times.

The form of data_pipelines/features/tavid/script.py: "#" begins a comment, "Ben+: But" begins before
the turn above ends, and what listeners put in ("I went home [Ben: yeah] and slept.") stays in the
text. A file in which no line begins with a name holds one speaker's words.
"""

import re

from data_pipelines.media.transcripts.said import Rows

_LINE = re.compile(r"([^\W_](?:[\w .'-]{0,38}[\w.'-])?)[ \t]*(\+?)[ \t]*:(.*)")


def read(text: str, rows: Rows) -> None:
    """Adds the turns. Raises TranscriptError: some lines with a name and some without, a turn
    without words, a speaker who is not known."""
    lines = [(k, content.strip()) for k, content in enumerate(text.splitlines(), 1)
             if content.strip() and not content.lstrip().startswith("#")]
    if not lines:
        return
    found = [_LINE.fullmatch(content) for _, content in lines]
    known = [match is not None and rows.known(match[1]) is not None for match in found]
    if rows.names and all(found) and not any(known):
        rows.speaker(found[0][1], lines[0][0])  # raises
    # without names to go by, lines of which most begin with one; "Note: ..." alone is no dialogue
    if not (any(known) if rows.names else known[0] and sum(known) >= len(known) / 2):
        rows.add(None, " ".join(content for _, content in lines), None, None, lines[0][0])
        return
    for (line, content), match in zip(lines, found, strict=True):
        if match is None:
            raise rows.error("not a turn", line, expected="Name: words, as in the other lines",
                             found=repr(content[:60]))
        if not match[3].strip():
            raise rows.error("an empty turn", line, expected=f"words for {match[1]} to say",
                             found="none", hint="write them, or delete the turn")
        rows.add(match[1], match[3], None, None, line, overlap=bool(match[2]))
