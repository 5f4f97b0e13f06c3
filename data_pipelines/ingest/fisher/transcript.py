"""Fisher's transcripts: `start end A: text`, a line an utterance, below a header of comments.

Marks of the transcribers: ((what they were not sure of)), [laughter], [noise] and other brackets.
"""

import re

from data_pipelines.ingest.conversations import turns
from data_pipelines.media import text_file
from data_pipelines.media.transcripts.said import Rows

CHANNELS = ("A", "B")
HEADER = 3  # lines, which the owners' readers skip unread
TYPO = "start of an utterance in session 11487"
MARKS = "marks left out of the transcript"
UNSURE = "words that the transcribers were not sure of"
INSTANTS = "utterances that end where they begin, left out of the transcript"
_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\w+)\s*:(.*)")
_TIME = re.compile(r"\d+(\.\d*)?")
_TYPOS = {("11487", "31.09", "234.06"): "231.09"}  # (session, start, end): the start that is meant


def read(path, session: str, seconds: float) -> tuple[list[tuple], list[str]]:
    """([(channel 0 or 1, text, start, end)] in order of time, what was mended).

    Args:
      session: five digits.
      seconds: of the sound.

    Raises TranscriptError, with the line: a line of another form, a channel that is not A or B,
    times that are none, past the end or before their start. TextError: no text.
    """
    rows, mended, found = Rows(path, CHANNELS, seconds), [], []
    content = text_file.read(path, what="transcript")
    for line, said in enumerate(content.splitlines(), 1):
        if not said.strip() or said.startswith("#"):
            continue
        match = _LINE.fullmatch(said.strip())
        if not match or not all(map(_TIME.fullmatch, match.groups()[:2])):
            if line <= HEADER:
                continue
            raise rows.error("not a line of a transcript", line, expected="start end A: text",
                             found=repr(said[:60]))
        start, end, channel, text = match.groups()
        if meant := _TYPOS.get((session, start, end)):
            start = meant
            mended.append(TYPO)
        who = CHANNELS.index(rows.speaker(channel, line))
        times = rows.times(float(start), float(end), line)
        if "((" in text:
            mended.append(UNSURE)
        text, dropped = turns.spoken(text.replace("((", " ").replace("))", " "))
        mended += [MARKS] if dropped else []
        if text and times[1] <= times[0]:
            mended.append(INSTANTS)
        elif text:
            found.append((who, text, *times))
    return sorted(found, key=lambda u: u[2:]), list(dict.fromkeys(mended))
