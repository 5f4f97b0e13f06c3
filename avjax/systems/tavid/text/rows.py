"""A training row from a dialogue: a piece of it cut at turns, or one speaker's turns alone. numpy,
no jax.

CoVoMix trains on 40 % first speaker, 40 % second speaker, 20 % dialogue: alone, a speaker's turns
follow each other and the other streams are filler. Of one corpus of dialogues, `single_share` draws
that mix; a mixture of sources (config.data.mixture) gives each a view instead, so that speech of
single speakers can be the 80 %. How a piece is cut is ours: it takes consecutive turns, in the
order of their start, until the row is as full as drawn; what turns outside the piece say in its
frames becomes filler.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.signal.runs import intervals
from avjax.systems.api import Rows
from avjax.systems.tavid.text import plan
from avjax.systems.tavid.text.config import RATE

TURN = 0  # kind of a row of `turns`; others are back-channels inside a turn's tokens
# seconds of silence before the first and after the last turn of a piece, at most; drawn. Ours
MARGIN = 0.3
# views of a source: its dialogues, or one stream, of single speakers too
DIALOGUE, STREAMS = "dialogue", ("first", "second", "third", "fourth")
SPEAKER, FIRST, LAST, START, END, KIND = range(6)  # columns of `turns`


@dataclasses.dataclass
class Piece:
    """Part of a dialogue: tokens, token_speaker (n,), times (n,) frames, units (T, S), and whether
    it ends where its text does."""

    tokens: np.ndarray
    token_speaker: np.ndarray
    times: np.ndarray
    units: np.ndarray
    ends: bool


@dataclasses.dataclass(frozen=True)
class TextRows(Rows):
    """Sizes of a row in tokens and frames, the end's frame included; `vocabulary` text ids and
    `num_units` units there are; `filler` the silent unit or -1, then counted in each example;
    `single_share`: rows of one speaker alone, any, or always the stream `alone` where that is not
    -1; a piece fills a share of the row that is drawn from [`fill`, 1]; `filler_seconds`,
    `filler_weight`: longer silence has that weight in the loss."""

    tokens: int
    frames: int
    streams: int
    vocabulary: int
    num_units: int
    filler: int
    single_share: float
    fill: float
    filler_seconds: float
    filler_weight: float
    alone: int = -1

    @property
    def views(self) -> tuple[str, ...]:
        """Dialogues as they are, or one stream alone."""
        return (DIALOGUE, *STREAMS[:self.streams])

    def view(self, name: str) -> "TextRows":
        """See Rows.view."""
        alone = STREAMS.index(name) if name in STREAMS else -1
        return dataclasses.replace(self, single_share=float(alone >= 0), alone=alone)

    @property
    def one_speaker(self) -> bool:
        """A stream alone needs one speaker."""
        return self.alone >= 0

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`. UserError for ids outside the vocabulary or the codebook
        and for turns outside the example."""
        (example,) = examples
        check_example(example, self.vocabulary, self.num_units, self.streams)
        filler = self.filler
        if filler < 0:
            filler = count_filler(example["units"], example["turns"])
        if self.alone >= 0:
            example = as_stream(example, self.alone, self.streams, filler)
        piece = self.piece(example, filler, rng)
        n, T = len(piece.tokens), len(piece.units)
        units_TS = np.zeros((self.frames, self.streams), np.int32)
        weight_TS = np.zeros((self.frames, self.streams), np.float32)
        units_TS[:T] = piece.units
        weight_TS[:T] = filler_weights(piece.units, filler, int(self.filler_seconds * RATE),
                                       self.filler_weight)
        weight_TS[T] = piece.ends  # the EOS frame

        def padded(x, dtype, value=0):
            return np.concatenate([np.asarray(x, dtype), np.full(self.tokens - n, value, dtype)])

        return {"tokens": padded(piece.tokens, np.int32),
                "token_speaker": padded(piece.token_speaker, np.int32, -1),
                "times": padded(piece.times, np.float32), "tokens_length": np.int32(n),
                "units": units_TS, "units_length": np.int32(T), "weight": weight_TS}

    def piece(self, example, filler: int, rng: np.random.Generator) -> Piece:
        """The part of the example that this row shows."""
        speaker = int(rng.integers(self.streams)) if rng.random() < self.single_share else None
        speaker = self.alone if self.alone >= 0 else speaker
        turns = example["turns"]
        if speaker is not None and (turns[turns[:, KIND] == TURN, SPEAKER] == speaker).any():
            return self._alone(example, speaker, filler, rng)
        return self._dialogue(example, filler, rng)

    def _dialogue(self, example, filler: int, rng) -> Piece:
        turns_K6, units_TS = example["turns"], example["units"]
        main = turns_K6[turns_K6[:, KIND] == TURN]
        room = int((self.frames - 1) * rng.uniform(self.fill, 1.0))
        first, last = _run(main, room, self.tokens, rng)
        inside = (turns_K6[:, FIRST] >= main[first,
                                             FIRST]) & (turns_K6[:, LAST] <= main[last - 1, LAST])
        start, end = turns_K6[inside, START].min(), turns_K6[inside, END].max()
        slack = max(self.frames - 1 - (end - start), 0)
        lead, tail = (int(rng.integers(min(int(MARGIN * RATE), slack // 2) + 1)) for _ in range(2))
        start = 0 if first == 0 and end < self.frames else max(start - lead, 0)
        if last == len(main) and len(units_TS) - start < self.frames:
            end = len(units_TS)
        else:
            end = max(end, min(end + tail, len(units_TS), start + self.frames - 1))
        units = units_TS.copy()
        for who, _, _, a, b, _ in turns_K6[~inside]:
            units[a:b, who] = filler
        # where one interrupts oneself, what is in the piece stays
        for who, _, _, a, b, _ in turns_K6[inside]:
            units[a:b, who] = units_TS[a:b, who]
        tokens = slice(main[first, FIRST], main[last - 1, LAST])
        whole = Piece(example["tokens"][tokens], example["token_speaker"][tokens],
                      plan.token_times(example["token_speaker"], turns_K6)[tokens] - start,
                      units[start:end], True)
        return self._cut(whole)

    def _alone(self, example, speaker: int, filler: int, rng) -> Piece:
        """A run of the speaker's turns, one after the other, without what is between them."""
        turns_K6, units_TS = example["turns"], example["units"]
        main = turns_K6[(turns_K6[:, KIND] == TURN) & (turns_K6[:, SPEAKER] == speaker)]
        # as if there were nothing but them, with the longest gaps
        gap = int(MARGIN * RATE)
        packed = main.copy()
        for begin, stop, more in ((START, END, gap), (FIRST, LAST, 0)):
            sizes = main[:, stop] - main[:, begin] + more
            packed[:, stop] = np.cumsum(sizes)
            packed[:, begin] = packed[:, stop] - sizes
        first, last = _run(packed, self.frames - 1 - gap, self.tokens, rng)
        times = plan.token_times(example["token_speaker"], turns_K6)
        parts = []
        clock = int(rng.integers(gap + 1))
        silence = [np.full((clock, self.streams), filler, np.int32)]
        for _, a, b, start, end, _ in main[first:last]:
            own = a + np.flatnonzero(example["token_speaker"][a:b] == speaker)
            units = np.full((end - start, self.streams), filler, np.int32)
            units[:, speaker] = units_TS[start:end, speaker]
            after = int(rng.integers(gap + 1))
            parts.append((example["tokens"][own], example["token_speaker"][own], times[own] - start
                          + clock, units, np.full((after, self.streams), filler, np.int32)))
            clock += len(units) + after
        tokens, who, when, units, after = zip(*parts, strict=True)
        spoken = [x for pair in zip(units, after, strict=True) for x in pair]
        return self._cut(Piece(np.concatenate(tokens), np.concatenate(who), np.concatenate(when),
                               np.concatenate([*silence, *spoken]), True))

    def _cut(self, piece: Piece) -> Piece:
        """A turn that is longer than the row loses its end; the row then does not say where it
        ends."""
        frames = self.frames - 1
        if len(piece.units) <= frames and len(piece.tokens) <= self.tokens:
            return piece
        if len(piece.tokens) > self.tokens:
            frames = min(frames, max(int(piece.times[self.tokens]), 1))
        keep = np.flatnonzero((piece.times
                               < frames) | (np.arange(len(piece.times)) == 0))[:self.tokens]
        return Piece(piece.tokens[keep], piece.token_speaker[keep], piece.times[keep],
                     piece.units[:frames], False)


def as_stream(example: Mapping[str, Any], stream: int, streams: int,
              filler: int) -> Mapping[str, Any]:
    """The example with the one who speaks as speaker `stream` of `streams`: that speaker, or, where
    they have no turn (a recording of one person), the first who has; streams without a recording
    are filler. Speakers' marks in the text change with them: their ids follow each other."""
    turns_K6, units_TS = example["turns"].copy(), example["units"]
    main = turns_K6[turns_K6[:, KIND] == TURN]
    who = stream if (main[:, SPEAKER] == stream).any() else int(main[0, SPEAKER])
    out_TS = np.full((len(units_TS), streams), filler, np.int32)
    out_TS[:, :units_TS.shape[1]] = units_TS
    if who == stream:
        return {**example, "units": out_TS}
    changed = np.arange(-1, streams)  # of speaker s at s + 1; -1 is nobody
    changed[[who + 1, stream + 1]] = stream, who
    tokens, token_speaker = example["tokens"].copy(), example["token_speaker"]
    mark = tokens[main[main[:, SPEAKER] == who][0, FIRST]]  # a turn begins with its speaker's
    for one in {who, stream}:
        is_mark = (token_speaker == one) & (tokens == mark + one - who)
        tokens[is_mark] += changed[one + 1] - one
    turns_K6[:, SPEAKER] = changed[turns_K6[:, SPEAKER] + 1]
    return {**example, "tokens": tokens, "turns": turns_K6, "units": out_TS[:, changed[1:]],
            "token_speaker": changed[token_speaker + 1].astype(np.int32)}


def _run(main_K6, frames: int, tokens: int, rng) -> tuple[int, int]:
    """Turns first..last-1 that fit, from a random one on; at least one. Starts from which the
    dialogue's end would leave the row half empty move back."""
    def fits(first, last):
        some = main_K6[first:last]
        length = some[:, END].max() - some[:, START].min()
        return length <= frames and some[-1, LAST] - some[0, FIRST] <= tokens

    first = int(rng.integers(len(main_K6)))
    last = first + 1
    while last < len(main_K6) and fits(first, last + 1):
        last += 1
    while last == len(main_K6) and first > 0 and fits(first - 1, last):
        first -= 1
    return first, last


def count_filler(units_TS: np.ndarray, turns_K6: np.ndarray) -> int:
    """The unit of silence: the commonest one where a stream's speaker is silent; in a dialogue
    without silence, the commonest of all."""
    silent_TS = np.ones(units_TS.shape, bool)
    for who, _, _, start, end, _ in turns_K6:
        silent_TS[start:end, who] = False
    found = units_TS[silent_TS] if silent_TS.any() else units_TS.ravel()
    return int(np.bincount(found).argmax()) if found.size else 0


def filler_weights(units_TS: np.ndarray, filler: int, longest: int, weight: float) -> np.ndarray:
    """(T, S) float32: `weight` in runs of more than `longest` fillers of a stream, 1 elsewhere."""
    out = np.ones(units_TS.shape, np.float32)
    for s in range(units_TS.shape[1]):
        for start, end in intervals(units_TS[:, s] == filler):
            if end - start > longest:
                out[start:end, s] = weight
    return out


def check_tokens(tokens: np.ndarray, vocabulary: int, where: str) -> np.ndarray:
    """The text ids, UserError if there are none or one is outside the vocabulary (the embedding
    would take its last row)."""
    if not len(tokens) or not 0 <= np.min(tokens) <= np.max(tokens) < vocabulary:
        raise UserError("text ids outside the model's vocabulary" if len(tokens) else "no text",
                        where=where, expected=f"0 to {vocabulary - 1}",
                        found=f"{np.min(tokens)} to {np.max(tokens)}" if len(tokens) else "",
                        hint="set config.system.vocab to the tokenizer's, or extract with that "
                        "tokenizer")
    return tokens


def check_example(example, vocabulary: int, num_units: int, streams: int) -> None:
    """UserError for an example that the System cannot learn from."""
    where = f"example {example.get('id', '')!r}"
    units = example["units"]
    turns = example["turns"]
    check_tokens(example["tokens"], vocabulary, where)
    if not len(units) or not 0 <= np.min(units) <= np.max(units) < num_units:
        raise UserError("units outside the codebook" if len(units) else "no units", where=where,
                        expected=f"0 to {num_units - 1}",
                        found=f"{np.min(units)} to {np.max(units)}" if len(units) else "",
                        hint="set config.system.num_units to the number of clusters, or extract "
                        "the units again")
    bounds = np.array([[0, 0, 0, 0, 0], [streams - 1, len(example["tokens"]),
                                         len(example["tokens"]), len(units), len(units)]])
    good = len(turns) > 0
    if good:
        spans = turns[:, :KIND]
        good = ((spans >= bounds[0]).all() and (spans <= bounds[1]).all()
                and (turns[:, FIRST] < turns[:, LAST]).all()
                and (turns[:, START] < turns[:, END]).all())
    if not good or not (turns[:, KIND] == TURN).any():
        raise UserError("turns that do not fit their dialogue", where=where,
                        expected=f"at least one of speakers 0 to {streams - 1} within "
                        f"{len(example['tokens'])} tokens and "
                        f"{len(units)} units",
                        found=np.array2string(np.asarray(turns), threshold=24).replace("\n", ","),
                        hint="extract the features again")
