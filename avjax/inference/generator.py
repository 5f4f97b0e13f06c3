"""The one generator: `launch.generate`, `launch.evaluate`, the evaluation during training and the
samples after it all generate here.

Every example has its own noise key and padding is hidden by masks and lengths, so its streams
depend neither on the batch size nor on the order nor on what else is generated.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from avjax.errors import UserError
from avjax.hardware.compilations import count_compilations
from avjax.inference import padding
from avjax.inference.keys import example_keys
from avjax.inference.progress import Progress
from avjax.sharding import mesh as meshes
from avjax.storage import failures
from avjax.systems.api import Chunk, System, Utterance, bucket, real_streams

Example = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
Failed = Callable[[Any, Exception], None] | None  # (which one, why it cannot be generated)


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to generate.

    Attributes:
      name: names the noise (see `avjax.inference.keys`).
      make: () -> (conditions without batch axis and padding, frames to make room for); called once
        for the lengths and once more to generate, so that nothing is held meanwhile.
      bounded: `frames` bounds what the system makes, so the axis "time" is not padded.
      tag: comes back with what was generated; default the name.
    """

    name: str
    make: Callable[[], tuple[padding.Conditions, int]]
    bounded: bool = False
    tag: str = ""

    @property
    def label(self) -> str:
        """What comes back with what was generated."""
        return self.tag or self.name


class Speech(NamedTuple):
    """One thing to stream; see `Generator.stream`."""

    name: str
    pieces: Sequence[padding.Conditions]
    frames: Sequence[int] = ()
    bounded: bool = False


class Generator:
    """`system.generate` in batches of one size; compiles once a task and bucket. A system that
    generates in steps (`System.steps`) is run one example at a time.

    Args:
      batch_size: examples at a time; rounded up to what `mesh` divides.
      seed: of the noise.
      mesh: of devices of this process: the batch is split over its axes data and fsdp. None = one
        device.
      everywhere: several processes call alike within their common mesh, with parameters that are
        sharded over it: they share the work and all get the streams.

    Attributes:
      seconds: {name: its share of the seconds that its last batch took}, of batches for which
        nothing had to be compiled.
    """

    def __init__(self, system: System, *, seed: int, batch_size: int = 1, mesh=None,
                 everywhere: bool = False):
        if batch_size < 1:
            raise UserError("no batch", where="config.evaluate.batch_size", expected=">= 1",
                            found=str(batch_size))
        self.system, self.seed, self.mesh = system, seed, mesh
        self.seconds: dict[str, float] = {}
        self.names = tuple(system.example_spec)  # what is read of an example
        self._steps = functools.cache(system.steps)
        self._steps_allowed = not everywhere  # steps are driven, and read, by one process
        self.batch_size = batch_size
        out = jax.sharding.PartitionSpec() if everywhere else None  # replicated
        if mesh is not None:
            shards = int(np.prod([mesh.shape[axis] for axis in meshes.BATCH_AXES]))
            self.batch_size = -(-batch_size // shards) * shards
            out = meshes.batch_sharding(mesh)
        self._generate = jax.jit(system.generate, static_argnames="task", out_shardings=out)
        self._placed = (None, None)  # parameters, and themselves on the mesh

    def of(self, system: System) -> "Generator":
        """The same of another system, for parameters that it shares."""
        return Generator(system, seed=self.seed, batch_size=self.batch_size, mesh=self.mesh,
                         everywhere=not self._steps_allowed)

    def __call__(self, params, examples: Iterable[tuple[str, Example]], task: str = "", *,
                 failed: Failed = None) -> Iterator[tuple[str, dict]]:
        """Yields (id, {stream: (length, dims) float32}) for (id, example), bucket by bucket.

        An example may be a callable that returns it, so that nothing is held before it is needed.
        `task` is one of the system's, its first by default. `failed` is told (id, error) of an
        example that cannot be generated, and the others are; without it, the error is raised.
        """
        task = self._task(task)
        items = (Item(name, functools.partial(self._conditions, example, task))
                 for name, example in examples)
        for name, out, frames in self.batches(params, items, task, failed=failed):
            streams = None
            with failures.tolerated(name, failed):
                streams = self.streams(name, out, frames)
            if streams is not None:
                yield name, {stream: x.astype(np.float32) for stream, x in streams.items()}

    def batches(self, params, items: Iterable[Item], task: str = "", *,
                failed: Failed = None) -> Iterator[tuple[str, dict[str, np.ndarray], int]]:
        """Yields (tag, what `System.generate` returns for it as a batch of one, frames), bucket
        by bucket. `failed`: see `__call__`, of tags."""
        task = self._task(task)
        buckets: dict[int, list] = {}
        for item in items:
            with failures.tolerated(item.label, failed):
                conditions, frames = item.make()
                sizes = padding.sizes(self.system, conditions)
                longest = max(frames, sizes.pop(padding.TIME, 0))
                time = longest if item.bounded else bucket(longest)
                buckets.setdefault(time, []).append((item, frames, sizes))
        count = 1 if self._steps_of(task) else self.batch_size
        for time, members in sorted(buckets.items(), key=lambda pair: pair[0]):
            room = padding.room([sizes for *_, sizes in members], time)
            for first in range(0, len(members), count):
                yield from self._batch_or_each(params, members[first:first + count], count, room,
                                               task, failed)

    def stream(self, params, pieces: Sequence[padding.Conditions], name: str, task: str = "", *,
               frames: Sequence[int] = (), bounded: bool = False,
               keep: bool = True) -> Progress:
        """One example, chunk by chunk as it is made.

        Args:
          pieces: conditions (without batch axis) of consecutive pieces, usually of one; all are
            padded to the same lengths.
          name: names the noise.
          frames: to make room for, of each piece; default what the conditions take.
          bounded: see `Item`.
          keep: see `Progress`.
        """
        task = self._task(task)
        one = Speech(name, pieces, frames, bounded)
        return Progress(self.system, self.system.stream(
            params, self._prompts(one, self._room([one])), example_keys(self.seed, [name]), task),
            keep=keep)

    def stream_several(self, params, speeches: Iterable[Speech], task: str = "", *,
                       rows: int = 0) -> Iterator[tuple[int, Chunk | None]]:
        """Several examples at once: (number of the example, chunk), None after its last; each as
        `stream` makes it alone. See `System.stream_several`.

        Args:
          speeches: a sequence.
          rows: so many at a time; 0 = the batch size.
        """
        speeches = list(speeches)
        room = self._room(speeches)
        utterances = (Utterance(self._prompts(one, room), example_keys(self.seed, [one.name]),
                                max(one.frames, default=0) if one.bounded else 0)
                      for one in speeches)
        rows = min(rows or self.batch_size, len(speeches))
        return self.system.stream_several(params, utterances, self._task(task), rows)

    def _room(self, speeches: Sequence[Speech]) -> dict[str, int]:
        """Padded lengths for all pieces of all."""
        sizes = [padding.sizes(self.system, piece) for one in speeches for piece in one.pieces]
        longest = max([size.get(padding.TIME, 0) for size in sizes]
                      + [frames for one in speeches for frames in one.frames])
        bounded = all(one.bounded for one in speeches)
        return padding.room(sizes, longest if bounded else bucket(longest))

    def _prompts(self, one: Speech, room: Mapping[str, int]) -> Iterator[dict[str, np.ndarray]]:
        """Its pieces as padded batches of one."""
        frames = one.frames or [padding.sizes(self.system, piece).get(padding.TIME, 0)
                                for piece in one.pieces]
        return (padding.batch(self.system, [piece], [count], room)
                for piece, count in zip(one.pieces, frames, strict=True))

    def streams(self, name: str, out: Mapping[str, Any], frames: int) -> dict[str, np.ndarray]:
        """{stream: (length, dims)} of what was generated as a batch of one. UserError for numbers
        that are not finite."""
        return {stream: _finite(np.asarray(x), name, stream)
                for stream, x in real_streams(self.system, out, 0, frames).items()}

    def _task(self, task: str) -> str:
        task = task or self.system.tasks[0]
        if task not in self.system.tasks:
            raise UserError("unknown task", where="generate",
                            expected=" or ".join(self.system.tasks), found=repr(task))
        return task

    def _steps_of(self, task: str):
        return self._steps(task) if self._steps_allowed else None

    def _conditions(self, example: Example, task: str):
        return self.system.conditions(example() if callable(example) else example, task)

    def _batch_or_each(self, params, members, count: int, room: Mapping[str, int], task: str,
                       failed: Failed):
        """A batch; each of its examples by itself where it cannot be made and `failed` is told."""
        args = count, room, task
        if failed is not None and len(members) > 1:
            try:
                made = list(self._batch(params, members, *args))
            except Exception:  # whose fault it is shows when each is made by itself
                made = itertools.chain.from_iterable(
                    self._batch_or_each(params, [member], *args, failed) for member in members)
        else:
            made = []
            with failures.tolerated(members[0][0].label, failed):
                made = list(self._batch(params, members, *args))
        yield from made

    def _batch(self, params, members, count: int, room: Mapping[str, int], task: str):
        filled = members + members[-1:] * (count - len(members))  # one size, one compilation
        rows = [item.make()[0] for item, *_ in members]
        rows += rows[-1:] * (count - len(rows))
        conditions = padding.batch(self.system, rows, [frames for _, frames, _ in filled], room)
        keys = example_keys(self.seed, [item.name for item, *_ in filled])
        out = self._timed(members, params, conditions, keys, task)
        for row, (item, frames, _) in enumerate(members):
            yield item.label, {name: x[row:row + 1] for name, x in out.items()}, frames

    def _timed(self, members, params, conditions, keys, task: str) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        with count_compilations() as compiled:
            out = self._run(params, conditions, keys, task)
        seconds = (time.perf_counter() - began) / len(members)
        for item, *_ in members:
            self.seconds.pop(item.name, None)
            if not compiled.stages:
                self.seconds[item.name] = seconds
        return out

    def _run(self, params, conditions, keys, task: str) -> dict[str, np.ndarray]:
        steps = self._steps_of(task)
        if steps is not None:
            return Progress(self.system, steps(params, conditions, keys)).result
        if self.mesh is None:
            return jax.device_get(self._generate(params, conditions, keys, task=task))
        return self._run_on_mesh(params, conditions, keys, task)

    def _run_on_mesh(self, params, conditions, keys, task: str) -> dict[str, np.ndarray]:
        if self._placed[0] is not params:
            self._placed = params, jax.device_put(params, meshes.replicated(self.mesh))
        conditions, keys = jax.device_put((conditions, keys), meshes.batch_sharding(self.mesh))
        with jax.set_mesh(self.mesh):
            return jax.device_get(self._generate(self._placed[1], conditions, keys, task=task))


def generate_split(generator: Generator, params, dataset, split: str, indices: Iterable[int],
                   task: str = "", given=None, *, failed: Failed = None):
    """Yields (index, streams) for chosen examples of a split, in buckets; `given` changes an
    example before. `failed`: see `Generator.__call__`, of indices."""
    indices = list(indices)
    if not indices:
        return
    source = dataset.source(split, dict.fromkeys(("id", *generator.names)))
    where = {source.ids[i]: i for i in indices}

    def read(index):
        return given(source[index]) if given else source[index]

    examples = ((name, functools.partial(read, index)) for name, index in where.items())
    told = failed and (lambda name, error: failed(where[name], error))
    for name, streams in generator(params, examples, task, failed=told):
        yield where[name], streams


def _finite(value: np.ndarray, name: str, stream: str) -> np.ndarray:
    if not np.isfinite(value).all():
        raise UserError("the model generated values that are not finite",
                        where=f"example {name}, {stream}", expected="finite numbers",
                        found=f"{np.count_nonzero(~np.isfinite(value))} others",
                        hint="the training diverged: use an earlier checkpoint")
    return value
