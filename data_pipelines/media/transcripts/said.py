"""What transcripts hold, and the checks that the readers of all formats share."""

import dataclasses
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from avjax.errors import UserError

ROUNDING = 0.02  # seconds by which words may overlap: aligners round
BEYOND = 0.25  # seconds by which the last word may end after the sound does; cut there (ours)
LONGEST = 1e7  # seconds; what is beyond is no time
PHRASE_GAP = 0.5  # seconds without a word that separate two phrases of a bare list of words (ours)
Word = tuple[str, float, float]


@dataclasses.dataclass(frozen=True)
class Said:
    """A turn, a sentence or a phrase of one speaker.

    Attributes:
      speaker: None where the file does not say.
      text: "" where only the time is known.
      start, end: seconds; None where unknown.
      words: (word, start, end) of the words whose times are known; others are in `text` alone.
      overlap: it is marked as beginning before the turn before it ends ("Ben+: But").
    """

    speaker: str | None
    text: str
    start: float | None = None
    end: float | None = None
    words: tuple[Word, ...] = ()
    overlap: bool = False


def folded(name: str) -> str:
    """A speaker's name as it is compared: whatever the case, "Ann-Lee" as "Ann Lee" or "Ann_Lee",
    and umlauts the same whether a letter or (as in names of macOS' files) a letter and a mark."""
    return re.sub(r"[-_. ]+", "_", unicodedata.normalize("NFC", name)).casefold().strip("_")


class TranscriptError(UserError):
    """A transcript that cannot be used; `reason` in few words. The message has file and line."""

    def __init__(self, reason: str, path, line: int = 0, *, expected: str = "", found: str = "",
                 hint: str = ""):
        self.reason = reason
        super().__init__(reason, where=f"{path}, line {line}" if line else str(path),
                         expected=expected, found=found, hint=hint)


class Rows:
    """Collects what a reader finds, checked. Lines count from 1 and are for messages.

    Args:
      path: the file.
      names: the speakers there may be, whatever the case; () for any. A file that names nobody
        belongs to the one of them that its own name holds (anna.json, talk_anna.words.json).
      duration: of the sound, seconds; None if unknown.
    """

    def __init__(self, path, names: Sequence[str] = (), duration: float | None = None):
        self.path, self.names, self.duration = path, tuple(names), duration
        self.said: list[Said] = []
        self._ends: dict[str | None, float] = {}  # of the last word of each speaker
        stem = pathlib.Path(path).name.split(".")[0].casefold()
        mine = [n for n in names if n.casefold() in (stem, *stem.replace("-", "_").split("_"))]
        self.owner = mine[0] if len(mine) == 1 else None

    def error(self, reason: str, line: int, **details) -> TranscriptError:
        return TranscriptError(reason, self.path, line, **details)

    def known(self, name: str) -> str | None:
        """The speaker of this name as `names` spells it; None if there is none."""
        if not self.names:
            return name
        return next((n for n in self.names if folded(n) == folded(name)), None)

    def speaker(self, name: str | None, line: int) -> str | None:
        """`known`, or the file's own speaker where nobody is named. Raises: unknown speaker."""
        if not name:
            return self.owner
        if (found := self.known(name)) is None:
            raise self.error("unknown speaker", line, expected=" or ".join(self.names),
                             found=repr(name), hint="correct the name")
        return found

    def times(self, start, end, line: int) -> tuple[float, float] | tuple[None, None]:
        """Seconds of a stretch, within the sound; None where one of them is not known.

        Raises: times that are no numbers, before 0, past the end; an end before its start.
        """
        if start is None or end is None:
            return None, None
        shown = f"{start} to {end}"
        if not all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < LONGEST
                   for x in (start, end)):  # which NaN is not either
            raise self.error("not a time", line, expected="seconds", found=shown[:60])
        start, end = float(start), float(end)
        if end < start:
            raise self.error("end before start", line, expected="a start, then an end, in seconds",
                             found=shown)
        if start < 0:
            raise self.error("a time before the start", line, expected="seconds from 0 on",
                             found=shown)
        if self.duration is None:
            return start, end
        if end > self.duration + BEYOND:
            raise self.error("times past the end", line, found=shown,
                             expected=f"at most {self.duration:.2f} s, as the sound lasts",
                             hint="is it another recording's transcript, or in milliseconds?")
        return min(start, self.duration), min(end, self.duration)

    def add(self, speaker: str | None, text: str, start, end, line: int, *,
            words: Sequence[tuple] = (), overlap: bool = False) -> None:
        """Adds a stretch of speech.

        Args:
          words: (word, start, end, line); those with a start or end of None are not timed.

        Raises TranscriptError: as `speaker` and `times`; words that overlap.
        """
        speaker, timed = self.speaker(speaker, line), []
        for word, *span, at in words:
            a, b = self.times(*span, at)
            if a is None:
                continue
            if a < self._ends.get(speaker, 0.0) - ROUNDING:
                raise self.error("overlapping words", at, found=f"{word!r} from {a} s on",
                                 expected=f"words of {speaker or 'a speaker'} one after another: "
                                          f"from {self._ends[speaker]} s on")
            self._ends[speaker] = max(b, self._ends.get(speaker, 0.0))
            timed.append((str(word), a, b))
        start, end = self.times(start, end, line)
        if start is None and timed:
            start, end = timed[0][1], timed[-1][2]
        text = " ".join(text.split())
        if text or start is not None:
            self.said.append(Said(speaker, text, start, end, tuple(timed), overlap))

    def add_words(self, speaker: str | None, words: Sequence[tuple]) -> None:
        """Adds (word, start, end, line) as phrases: cut where no word is for PHRASE_GAP."""
        phrase, latest = [], None
        for word in words:
            _, start, end, _ = word
            timed = isinstance(start, int | float) and isinstance(end, int | float)
            if phrase and timed and latest is not None and start - latest > PHRASE_GAP:
                self._add_phrase(speaker, phrase)
                phrase = []
            phrase.append(word)
            latest = end if timed else latest
        if phrase:
            self._add_phrase(speaker, phrase)

    def _add_phrase(self, speaker, phrase) -> None:
        self.add(speaker, " ".join(str(w[0]).strip() for w in phrase), None, None, phrase[0][3],
                 words=phrase)
