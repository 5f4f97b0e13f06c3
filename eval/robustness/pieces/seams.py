"""Where a dialogue would be cut into pieces, and the two pieces that meet there.

A seam lies between two turns that do not overlap. Before it is the longest run of turns that a
piece of a script has room for, after it the longest that follows: both are what `avjax generate`
would make one after the other (data_pipelines/features/tavid/prompt.py), with the true units in the
place of made ones.

Suffixes: K turns, T units, S speakers, N text ids.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from avjax.systems.tavid.text import plan
from avjax.systems.tavid.text.rows import END, FIRST, KIND, LAST, SPEAKER, START, TURN
from data_pipelines.features.tavid.prompt import PIECE

UNITS_A_FRAME = 2  # cuts are whole frames of video


@dataclasses.dataclass(frozen=True)
class Seam:
    """Two pieces of a dialogue.

    Attributes:
      turns: rows of the turns before and after, (K, 6) each, back-channels included.
      begin, seam, end: units; the pieces are [begin, seam) and [seam, end).
      speaker: who speaks first after it.
    """

    turns: tuple[np.ndarray, np.ndarray]
    begin: int
    seam: int
    end: int
    speaker: int

    def speaking(self) -> np.ndarray:
        """(T, S) bool of the piece after the seam: whose turns they are in; S as many as have
        any."""
        most = max(rows[:, SPEAKER].max() for rows in self.turns)
        out_TS = np.zeros((self.end - self.seam, most + 1), bool)
        for who, _, _, start, end, _ in self.turns[1]:
            out_TS[start - self.seam:end - self.seam, who] = True
        return out_TS


@dataclasses.dataclass(frozen=True)
class Text:
    """tokens, token_speaker, times (N,) from the first of units (T, S) on; `said` of the ids and
    `length` of the units were said before."""

    tokens: np.ndarray
    token_speaker: np.ndarray
    times: np.ndarray
    units: np.ndarray
    said: int
    length: int


def seams(turns_K6: np.ndarray, row_frames: int, row_tokens: int) -> Iterator[Seam]:
    """Those of one dialogue for a text model of rows of that size. Where one of the two turns that
    meet is too long to be told the other there is none."""
    frames, tokens = int(PIECE * row_frames), (row_tokens - 1) // 2
    main = turns_K6[turns_K6[:, KIND] == TURN]
    main = main[np.argsort(main[:, FIRST], kind="stable")]

    def rows(first: int, last: int) -> np.ndarray:
        inside = ((turns_K6[:, FIRST] >= main[first, FIRST])
                  & (turns_K6[:, LAST] <= main[last - 1, LAST]))
        return turns_K6[inside]

    def fits(first: int, last: int, begin: int, end: int) -> bool:
        return (end - begin <= frames
                and main[last - 1, LAST] - main[first, FIRST] <= tokens)

    for at in range(1, len(main)):
        seam = int(rows(0, at)[:, END].max())
        seam += seam % UNITS_A_FRAME
        if rows(at, len(main))[:, START].min() < seam:
            continue
        first, last = at, at
        while first and fits(first - 1, at, int(rows(first - 1, at)[:, START].min()), seam):
            first -= 1
        while last < len(main) and fits(at, last + 1, seam, int(rows(at, last + 1)[:, END].max())):
            last += 1
        if first == at or last == at:
            continue
        before, after = rows(first, at), rows(at, last)
        begin = int(before[:, START].min())
        end = int(after[:, END].max())
        yield Seam((before, after), begin + (seam - begin) % UNITS_A_FRAME, seam,
                   end - (end - seam) % UNITS_A_FRAME, int(main[at, SPEAKER]))


def text(example: Mapping, seam: Seam, told: bool, filler: int) -> Text:
    """What the text model reads of the piece after the seam and is to say, after the piece before
    where that is `told`. What other turns say in these units is filler, as in training."""
    turns_K6, before, after = example["turns"], *seam.turns
    start = seam.begin if told else seam.seam
    inside = [*map(tuple, before)] * told + [*map(tuple, after)]
    units_TS = np.array(example["units"])
    for row in map(tuple, turns_K6):
        if row not in inside:
            units_TS[row[START]:row[END], row[SPEAKER]] = filler
    for row in inside:
        units_TS[row[START]:row[END], row[SPEAKER]] = \
            example["units"][row[START]:row[END], row[SPEAKER]]
    first, new = (int(rows[:, FIRST].min()) for rows in (before if told else after, after))
    ids = slice(first, int(after[:, LAST].max()))
    said = int(before[:, LAST].max()) - first if told else 0
    times_N = plan.token_times(example["token_speaker"], turns_K6)[ids] - start
    return Text(example["tokens"][ids], example["token_speaker"][ids], times_N,
                units_TS[start:seam.end], said, seam.seam - start)
