"""The script of a dialogue: who says what, in which order, where listeners chime in and where turns
overlap.

The file form, a line a turn, is also the text that datasets keep of a dialogue (`Script.text`):

    # a comment; blank lines are ignored
    Anna: I went home [Ben: yeah] and slept. [laughter]
    Ben+: But I thought...          the plus: it begins before the turn above ends

`Script.names` are the speakers in the order of portraits, channels and token streams: as
given, else the order of first speaking. Scripts of recorded dialogues (`of_events`) know when
everything was said, written ones do not.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from avjax.encoders import sentences
from avjax.encoders.plain_text import plain
from avjax.errors import UserError
from data_pipelines.media import text_file

LAUGHTER = "[laughter]"  # the one mark that may stand among the words
TURN, BACKCHANNEL = 0, 1  # kinds of rows in the datasets' column `turns`
_NAME = r"[^\W_](?:[\w .'-]*[\w.'-])?"
_LINE = re.compile(rf"({_NAME})[ \t]*(\+?)[ \t]*:(.*)")
_INSIDE = re.compile(rf"\[[ \t]*({_NAME})[ \t]*:([^\[\]]*)\]")
_LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class Backchannel:
    """What a listener says into another's turn, without taking it.

    at: number of characters of the turn's text before it. start, end: seconds, where known.
    """

    speaker: int
    text: str
    at: int
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn; `overlap`: it begins before the turn before it ends. start, end: seconds, where
    known."""

    speaker: int
    text: str
    overlap: bool = False
    backchannels: tuple[Backchannel, ...] = ()
    start: float | None = None
    end: float | None = None

    @property
    def pieces(self) -> list[str]:
        """The text, cut where the listeners chime in: one piece more than there are
        back-channels."""
        edges = [0, *(b.at for b in self.backchannels), len(self.text)]
        return [self.text[a:b].strip() for a, b in zip(edges[:-1], edges[1:], strict=True)]

    def sentences(self) -> list["Turn"]:
        """A written turn as turns of one sentence each, the listeners' words where they were."""
        out, start = [], 0
        for k, end in enumerate(sentences.split(self.text)):
            skipped = len(self.text[start:end]) - len(self.text[start:end].lstrip())
            inside = [dataclasses.replace(b, at=max(b.at - start - skipped, 0))
                      for b in self.backchannels
                      if (b.at > start or not k) and b.at <= end]
            out.append(Turn(self.speaker, self.text[start:end].strip(), self.overlap and not k,
                            tuple(inside)))
            start = end
        return out


@dataclasses.dataclass(frozen=True)
class Script:
    """A dialogue of `names`, whose indices the turns speak of."""

    turns: tuple[Turn, ...]
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The file form; `parse(text, names=names)` gives the script back, without times."""
        return "\n".join(map(self._line, self.turns))

    def _line(self, turn: Turn) -> str:
        said = [turn.pieces[0]]
        for small, after in zip(turn.backchannels, turn.pieces[1:], strict=True):
            said += [f"[{self.names[small.speaker]}: {small.text}]", after]
        return f"{self.names[turn.speaker]}{'+' * turn.overlap}: {' '.join(filter(None, said))}"

    def part(self, first: int, last: int, *, origin: float = 0.0) -> "Script":
        """Turns first..last-1 as a script of its own, of the same speakers; times count from
        `origin` seconds."""
        def moved(x, **kw):
            times = {} if x.start is None else {"start": x.start - origin, "end": x.end - origin}
            return dataclasses.replace(x, **times, **kw)

        turns = [moved(t, backchannels=tuple(map(moved, t.backchannels)), overlap=t.overlap and k
                       > 0)
                 for k, t in enumerate(self.turns[first:last])]
        return Script(tuple(turns), self.names)


def read(path, *, names: Sequence[str] = ()) -> Script:
    """The script of a file. UserError for what `parse` refuses, a missing file and one that is no
    text."""
    content = text_file.read(path, what="script", expected="a text file in UTF-8, a line a turn: "
                                                           "Anna: Hello.")
    return parse(content, names=names, where=str(path))


def parse(text: str, *, names: Sequence[str] = (), where: str = "script") -> Script:
    """The script of a text.

    Args:
      text: see the head of this file.
      names: the speakers, in the order of the portraits; empty = in the order of first speaking.
      where: what to call the text in errors.

    Raises UserError, with the line: no turn, an empty one, a name that is not among `names`,
    brackets that do not close or hold no back-channel, a back-channel of oneself, an overlap with
    nobody, and a script where fewer than two (or not all of `names`) speak.
    """
    _check_names(names)
    known, turns = list(map(plain, names)), []
    for number, line in enumerate(plain(text).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            turns.append(_turn(line.strip(), known, bool(names), turns, f"{where}, line {number}"))
    if not turns:
        raise UserError("an empty script", where=where, expected="a line a turn: Anna: Hello.",
                        found="no turns")
    spoken = {t.speaker for t in turns} | {b.speaker for t in turns for b in t.backchannels}
    silent = [name for i, name in enumerate(known) if i not in spoken]
    if len(spoken) < 2:
        raise UserError("a script with one speaker", where=where,
                        expected="a dialogue of two or more",
                        found=f"only {known[spoken.pop()]} speaks",
                        hint="give the others turns, or [Name: yeah] in them")
    if silent:
        raise UserError("a speaker who never speaks", where="--speakers",
                        expected=f"names of {where}", found=", ".join(silent),
                        hint="leave the name out, or give it a turn")
    return Script(tuple(turns), tuple(known))


def of_events(events: Sequence[Mapping], *, names: Sequence[str] = ("0", "1"),
              words: Sequence = ()) -> Script:
    """The timed script of a recorded dialogue, from its events {"kind": "turn" | "backchannel",
    "speaker": index, "start", "end", "text"}; other kinds are passed over. Turns are in the order
    of their start.

    Args:
      names: of the speakers.
      words: [(word, start, end), ...] of every speaker, where known: back-channels are between the
        words that they were heard between; else they are placed by the share of the turn's time.
    """
    said = sorted((e for e in events if e["kind"] in ("turn", "backchannel")
                   and plain(e["text"]).strip()),
                  key=lambda e: (e["start"], e["kind"] == "backchannel"))
    turns, latest = [], 0.0
    for e in said:
        text, who = " ".join(plain(e["text"]).split()), int(e["speaker"])
        inside = [k for k, t in enumerate(turns) if t.speaker != who and t.start
                  <= e["start"] < t.end]
        if e["kind"] == "backchannel" and inside:
            turn = turns[inside[-1]]
            small = Backchannel(who, text, _place(turn, e["start"], words), e["start"], e["end"])
            turns[inside[-1]] = dataclasses.replace(turn, backchannels=(*turn.backchannels, small))
        else:  # a back-channel after the turn that it answers is a small turn
            turns.append(Turn(who, text, bool(turns) and who != turns[-1].speaker
                              and e["start"] < latest, (),
                              e["start"], e["end"]))
            latest = max(latest, e["end"])
    return Script(tuple(turns), tuple(names))


def of_puppet(text: str, events: Sequence[Mapping] = (), *, names: Sequence[str] = ("0", "1"),
              words: Sequence = ()) -> Script:
    """The script of a puppets' dialogue: of its events where there are any, else of its text "[0]
    Hi. [1] Hm. [0:yeah]", which does not say where in the turn before it a back-channel was heard
    (it is put at its end)."""
    if events:
        return of_events(events, names=names, words=words)
    turns = []
    for who, small, words_of_turn in re.findall(r"\[(\d+)(?::([^\]]*))?\]([^\[]*)", plain(text)):
        if small:
            turns[-1] = dataclasses.replace(turns[-1], backchannels=(
                *turns[-1].backchannels, Backchannel(int(who), small.strip(), len(turns[-1].text))))
        else:
            turns.append(Turn(int(who), words_of_turn.strip()))
    return Script(tuple(turns), tuple(names))


def _place(turn: Turn, time: float, words: Sequence) -> int:
    """Characters of the turn's text before what is heard at `time`: always a word's end."""
    ends = [m.end() for m in re.finditer(r"\S+", turn.text)]
    own = [w for w in (words[turn.speaker] if len(words) else ()) if turn.start <= (w[1] + w[2]) / 2
           < turn.end]
    if len(own) == len(ends):
        before = sum(w[1] < time for w in own)
    else:
        before = round((time - turn.start) / max(turn.end - turn.start, 1e-6) * len(ends))
    before = max(before, 1)
    # they are in order of time, so in order of place
    earlier = turn.backchannels[-1].at if turn.backchannels else 0
    return max(ends[min(before, len(ends)) - 1], earlier)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
            raise UserError("not a name", where="--speakers",
                            expected="letters and digits, e.g. Anna,Ben", found=repr(name))
    if len(set(map(str.casefold, names))) < len(names):
        raise UserError("a name twice", where="--speakers", expected="different names",
                        found=", ".join(names))
    if len(names) == 1:
        raise UserError("one speaker", where="--speakers", expected="two or more names",
                        found=names[0])


def _who(name: str, known: list[str], closed: bool, where: str) -> int:
    """Index of a name, whatever its case; new names join `known` unless it is closed."""
    folded = [k.casefold() for k in known]
    if name.casefold() in folded:
        return folded.index(name.casefold())
    if closed:
        raise UserError("unknown speaker", where=where, expected=" or ".join(known),
                        found=repr(name), hint="correct the name, or name everyone in --speakers")
    if len(name) > _LONGEST_NAME:
        raise UserError("not a turn", where=where, expected="Name: words",
                        found=repr(name[:_LONGEST_NAME] + "..."))
    known.append(name)
    return len(known) - 1


def _turn(line: str, known: list[str], closed: bool, before: list[Turn], where: str) -> Turn:
    match = _LINE.fullmatch(line)
    if not match:
        raise UserError("not a turn", where=where, found=repr(line[:60]),
                        expected="Name: words, with the whole turn on one line")
    speaker, overlap = _who(match[1].strip(), known, closed, where), bool(match[2])
    if overlap and (not before or before[-1].speaker == speaker):
        raise UserError("an overlap with nobody", where=where,
                        expected="a turn of another above it", found="the first turn" if not before
                        else "one's own turn", hint="leave the + out")
    text, smalls, rest = "", [], match[3]
    while inside := _INSIDE.search(rest):
        text = _joined(text, _plain(rest[:inside.start()], where))
        who, words = _who(inside[1].strip(), known, closed, where), _plain(inside[2], where)
        _check_said(words, known[who], where)
        if who == speaker:
            raise UserError("a back-channel in one's own turn", where=where,
                            expected="another's name", found=inside[0])
        smalls.append(Backchannel(who, words, len(text)))
        rest = rest[inside.end():]
    text = _joined(text, _plain(rest, where))
    _check_said(text, known[speaker], where)
    return Turn(speaker, text, overlap, tuple(smalls))


def _joined(text: str, more: str) -> str:
    """One string of two, with a space where words need one."""
    return text + " " * bool(text and more and more[0] not in ",.;:!?") + more


def _plain(text: str, where: str) -> str:
    """Words with single spaces. UserError for brackets that mean nothing."""
    text = " ".join(text.split())
    if re.search(r"[\[\]]", text.replace(LAUGHTER, "")):
        raise UserError("brackets that mean nothing", where=where,
                        expected=f"[Name: words] or {LAUGHTER}", found=repr(text[:60]))
    return text


def _check_said(text: str, name: str, where: str) -> None:
    if not any(c.isalnum() for c in text) and LAUGHTER not in text:
        raise UserError("an empty turn", where=where, expected=f"words for {name} to say",
                        found=repr(text),
                        hint="write them, or delete the turn")
