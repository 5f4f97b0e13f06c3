"""Talker-T2AV: several utterances at once, each of one piece or of many.

A row of the batch is an utterance's until that has ended, then that of the next which waits: rows
begin and end while others go on, and each gets what it would get alone. Pieces follow one another
in their row. A piece goes on from the last frames of sound and motion before it, as from a prefix;
voice and first motion frame stay those of the first piece.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avjax.systems.api import Batch, Chunk, Params, System, Utterance
from avjax.systems.talker import sampler
from avjax.systems.talker.config import MAKES

STREAMS = ("audio", "motion")


class Compiled(NamedTuple):
    """The sampler of one system and task, one call for each of its phases."""

    prepare: jax.stages.Wrapped
    begin: jax.stages.Wrapped
    advance: jax.stages.Wrapped  # its cache is donated
    finish: jax.stages.Wrapped
    place: jax.stages.Wrapped  # its batch is donated


@functools.lru_cache(maxsize=16)
def compiled(system: System, task: str) -> Compiled:
    """Kept, so that later utterances of the same shape compile nothing."""
    def begin(ready, conditions, keys):
        noise = sampler.draw(system, keys, sampler.patches(system, conditions, task))
        return sampler.begin(system, ready, conditions, task, noise)

    def advance(ready, given, state):
        state = sampler.advance(system, ready, given, state, task)
        return state, sampler.settled(system, given, state, task), sampler.finished(state)

    return Compiled(jax.jit(lambda params: sampler.prepare(system, params, task)),
                    jax.jit(begin), jax.jit(advance, donate_argnums=2),
                    jax.jit(lambda given, state: sampler.streams(system, given, state, task)),
                    jax.jit(_place, donate_argnums=0))


@functools.partial(jax.jit, static_argnums=2)
def _repeated(given, state, rows):
    """A batch of `rows` times the given and the state of one, none of which has slots to fill."""
    empty = state | {"slots": jnp.zeros_like(state["slots"])}
    return jax.tree.map(lambda a: jnp.repeat(a, rows, axis=0), (given, empty))


def _place(batch, one, row):
    """A batch of given and state, with `one` (a batch of one) in a row of it."""
    return jax.tree.map(lambda a, b: a.at[row].set(b[0]), batch, one)


def stream(system: System, params: Params, utterances: Iterable[Utterance], task: str,
           rows: int) -> Iterator[tuple[int, Chunk | None]]:
    """See avjax.systems.api.System.stream_several. All conditions have the same padded lengths.

    "audio_length" and "motion_length" of a piece behind the first are the frames before it that it
    goes on from; the arrays are filled in here. The last chunk of an utterance brings the lengths,
    the stop logits, "pieces" (1, K), the frames that each brought, and "unended" (1,), how many
    filled their bound without a stop.
    """
    programs = compiled(system, task)
    ready = programs.prepare(params)
    waiting = enumerate(utterances)
    running: list[_Row | None] = [None] * rows
    batch = None

    def begin(b: int):
        one = running[b].begin(programs, ready)
        if rows == 1:
            return one
        fresh = batch or _repeated(*one, rows)
        return programs.place(fresh, one, b)

    while True:
        for b in range(rows):
            if running[b] is None and (found := next(waiting, None)):
                running[b] = _Row(system, task, *found)
                yield running[b].index, Chunk({}, 0.0)
                batch = begin(b)
        if not any(running):
            return
        given, state = batch
        state, until, over = programs.advance(ready, given, state)
        batch = given, state
        until, over, made = jax.device_get((until, over, state["made"]))
        ended = any(row and end for row, end in zip(running, over, strict=True))
        stops = jax.device_get(state["stop"]) if ended else None
        for b, row in enumerate(running):
            if row is None:
                continue
            new = row.take({name: made[name][b].reshape(-1, made[name].shape[-1])
                            [:until[name][b]] for name in STREAMS})
            yield row.index, Chunk(new, row.seconds)
            if over[b] and row.goes_on(stops[b]):
                batch = begin(b)
            elif over[b]:
                running[b] = None
                yield row.index, Chunk(row.totals(), row.seconds)
                yield row.index, None


class _Row:
    """An utterance on its way.

    Attributes:
      seconds: made so far, without what was given as a prefix.
    """

    def __init__(self, system: System, task: str, index: int, utterance: Utterance):
        self.index, self._system, self._task = index, system, task
        self._prompts, self._keys = iter(utterance.prompts), utterance.keys
        self._next: Batch | None = next(self._prompts)
        self._most = utterance.frames
        self._first = None  # motion frame
        self._total = dict.fromkeys(STREAMS, 0)
        self._given = dict.fromkeys(MAKES[task], 0)  # as a prefix of all
        self._tail = {}  # the last frames of each stream
        self._taken = {}  # of this piece
        self._pieces: list[int] = []
        self._stops: list[np.ndarray] = []
        self._unended = 0

    def begin(self, programs: Compiled, ready):
        """The next piece as a batch of one: (given, state)."""
        c = self._system.config
        number, conditions = len(self._pieces), self._next
        context = self._context(conditions) if number else {}
        for name, frames in context.items():
            array = np.zeros_like(conditions[name])
            array[0, :len(frames)] = frames
            conditions = conditions | {name: array, f"{name}_length": np.array([len(frames)])}
        sampler.check_conditions(self._system, conditions, self._task)
        keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys, number)
        given, state = programs.begin(ready, conditions, keys if number else self._keys)
        if number == 0:
            self._first = given["globals"].get("motion")
            self._given = {name: int(given["frames"][name][0]) for name in MAKES[self._task]}
        elif self._first is not None:
            given = given | {"globals": given["globals"] | {"motion": self._first}}
        self._count = sampler.patches(self._system, conditions, self._task)
        self._bound = min(self._most // c.patch or self._count, self._count)
        if self._task not in sampler.GIVEN:  # there, what drives bounds the frames
            spare = self._count - self._bound
            state = state | {name: state[name] - spare for name in ("speech", "slots")}
        self._taken = {name: len(context.get(name, ())) for name in STREAMS}
        self._begun = dict(self._total)
        self._patches = self._taken["audio"] // c.patch
        return given, state

    def _context(self, conditions: Batch) -> dict[str, np.ndarray]:
        """The same seconds of each stream that the task makes, of motion what there is of them."""
        patch = self._system.config.patch
        frames = min(int(conditions["audio_length"][0]), self._total["audio"]) // patch * patch
        start = self._total["audio"] - frames
        found = {}
        for name in MAKES[self._task]:
            count = max(self._total[name] - start, 0) // patch * patch
            found[name] = self._tail[name][len(self._tail[name]) - count:]
        return found

    def take(self, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is settled of this piece so far -> what is new of it, a batch of one."""
        new = {}
        for name, frames in made.items():
            part = frames[self._taken[name]:].copy()
            self._taken[name] = max(self._taken[name], len(frames))
            self._total[name] += len(part)
            tail = np.concatenate([self._tail.get(name, part[:0]), part])
            self._tail[name] = tail[-self._system.config.max_frames:]
            new[name] = part[None]
        return new

    @property
    def seconds(self) -> float:
        made = min(self._total[name] - frames for name, frames in self._given.items())
        return max(made, 0) / self._system.config.frame_rate

    def goes_on(self, stop: np.ndarray) -> bool:
        """At the end of a piece: whether there is another. stop: its logits (J,)."""
        c = self._system.config
        end = -(-self._taken["audio"] // c.patch)
        self._pieces.append(self._total["audio"] - self._begun["audio"])
        last = stop[max(end - c.stop_streak, 0):end]
        free = self._task not in sampler.GIVEN
        self._unended += free and end >= self._bound and not is_end(c, last)
        self._next = next(self._prompts, None)
        made = stop[self._patches:end]
        if self._next is None and not self._stops:  # one piece: as `generate` has it
            made = np.pad(stop[:end], (0, self._count - end))
        self._stops.append(made)
        return self._next is not None

    def totals(self) -> Batch:
        """What is known at the end."""
        return {"stop": np.concatenate(self._stops)[None],
                "pieces": np.array([self._pieces], np.int32),
                "unended": np.array([self._unended], np.int32),
                **{f"{name}_length": np.array([n], np.int32) for name, n in self._total.items()}}


def is_end(c, logits_N: np.ndarray) -> bool:
    """Whether these stop logits, the last of an utterance, are its end."""
    return bool((1 / (1 + np.exp(-np.asarray(logits_N, np.float64))) >= c.stop_threshold).all())
