"""A system's `generate` over examples of any length, in padded batches.

Every example has its own noise key, fold_in(key(seed), crc32(id)), whatever the task, and padding
is hidden by masks and lengths, so streams do not depend on batch size, order or what else is
generated.
"""

import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.systems.api import bucket, real_streams

BATCH, TIME, MASK = "batch", "time", "mask"
Example = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


def example_keys(seed: int, ids: Iterable[str]) -> jax.Array:
    """(batch,) typed keys, one an example: a function of seed and id alone."""
    checksums = np.array([zlib.crc32(i.encode()) for i in ids], np.uint32)
    return jax.vmap(lambda c: jax.random.fold_in(jax.random.key(seed), c))(jnp.asarray(checksums))


class Generator:
    """`system.generate` in batches of one size; compiles once a task and bucket. A system that goes
    in steps goes one by one.

    With `everywhere`, several processes call it alike, within their common mesh, with parameters
    that are spread over it: they share the work and every one gets the streams.
    """

    def __init__(self, system, *, batch_size: int, seed: int, everywhere: bool = False):
        if batch_size < 1:
            raise UserError("no batch", where="config.evaluate.batch_size", expected=">= 1",
                            found=str(batch_size))
        self.system, self.batch_size, self.seed = system, batch_size, seed
        self.names = tuple(system.example_spec)  # what is read of an example
        whole = jax.sharding.PartitionSpec() if everywhere else None
        self._generate = jax.jit(system.generate, static_argnames="task", out_shardings=whole)
        self._steps = None
        # steps are driven, and their results read, by one process
        if not everywhere and any(map(system.steps, system.tasks)):
            self.batch_size = 1
            self._steps = functools.cache(system.steps)

    def __call__(self, params, examples: Iterable[tuple[str, Example]],
                 task: str = "") -> Iterator[tuple[str, dict]]:
        """Yields (id, {stream: (length, dims) float32}) for (id, example), bucket by bucket.

        `example` may be a callable, so that nothing is held before it is needed: it is called once
        to learn its lengths and once more to be generated. `task` is one of the system's, its first
        by default.
        """
        task = task or self.system.tasks[0]
        if task not in self.system.tasks:
            raise UserError("unknown task", where="generate",
                            expected=" or ".join(self.system.tasks), found=repr(task))
        buckets: dict[int, list] = {}
        for name, example in examples:
            conditions, frames = self._conditions(example, task)
            sizes = self._sizes(conditions) | {"frames": frames}
            room = bucket(max(frames, sizes.pop(TIME, 0)))
            buckets.setdefault(room, []).append((name, example, sizes))
        for frames, members in sorted(buckets.items()):
            axes = {axis for _, _, sizes in members for axis in sizes} - {"frames"}
            room = {axis: bucket(max(sizes[axis] for *_, sizes in members))
                    for axis in axes} | {TIME: frames}
            for first in range(0, len(members), self.batch_size):
                yield from self._batch(params, members[first:first + self.batch_size], room, task)

    def _conditions(self, example: Example, task: str):
        return self.system.conditions(example() if callable(example) else example, task)

    def _sizes(self, conditions: dict) -> dict[str, int]:
        """{named axis: the longest}."""
        sizes: dict[str, int] = {}
        for name, value in conditions.items():
            axes = self.system.conditions_spec[name].shape[1:]
            for axis, size in zip(axes, np.shape(value), strict=True):
                if isinstance(axis, str):
                    sizes[axis] = max(sizes.get(axis, 0), size)
        return sizes

    def _batch(self, params, members, room: dict[str, int], task: str):
        rows = [self._conditions(example, task)[0] for _, example, _ in members]
        rows += rows[-1:] * (self.batch_size - len(rows))  # one batch size, one compilation
        ids = [name for name, *_ in members]
        ids += ids[-1:] * (self.batch_size - len(ids))
        frames = [sizes["frames"] for *_, sizes in members]
        conditions = {name: np.stack([self._pad(name, row[name], room) for row in rows])
                      for name in rows[0]}
        if MASK in self.system.conditions_spec:
            lengths = np.array(frames + frames[-1:] * (self.batch_size - len(frames)))
            conditions[MASK] = (np.arange(room[TIME]) < lengths[:, None]).astype(np.float32)
        out = self._run(params, conditions, example_keys(self.seed, ids), task)
        for row, (name, *_) in enumerate(members):
            streams = real_streams(self.system, out, row, frames[row])
            yield name, {stream: _finite(np.asarray(x, np.float32), name, stream) for stream,
                         x in streams.items()}

    def _run(self, params, conditions, keys, task: str) -> dict[str, np.ndarray]:
        if self._steps is None or self._steps(task) is None:
            return jax.device_get(self._generate(params, conditions, keys, task=task))
        for made, _ in self._steps(task)(params, conditions, keys):  # noqa: B007
            pass
        return made

    def _pad(self, name: str, value, room: dict[str, int]) -> np.ndarray:
        """Named axes to their room, by their last entry (zeros where there is none)."""
        spec = self.system.conditions_spec[name]
        value = np.asarray(value, spec.dtype)
        missing = [(0, room[a] - n if isinstance(a, str) else 0) for a,
                   n in zip(spec.shape[1:], value.shape, strict=True)]
        if not any(after for _, after in missing):
            return value
        return np.pad(value, missing, mode="edge" if value.size else "constant")


def generate_split(generator: Generator, params, dataset, split: str, indices: Iterable[int],
                   task: str = "", given=None):
    """Yields (index, streams) for chosen examples of a split, in buckets; `given` changes an
    example before."""
    indices = list(indices)
    if not indices:
        return
    source = dataset.source(split, dict.fromkeys(("id", *generator.names)))
    where = {source.ids[i]: i for i in indices}

    def read(index):
        return given(source[index]) if given else source[index]

    for name, streams in generator(params,
                                   ((n, functools.partial(read, i)) for n, i in where.items()),
                                   task):
        yield where[name], streams


def _finite(value: np.ndarray, name: str, stream: str) -> np.ndarray:
    if not np.isfinite(value).all():
        raise UserError("the model generated values that are not finite",
                        where=f"example {name}, {stream}", expected="finite numbers",
                        found=f"{np.count_nonzero(~np.isfinite(value))} others",
                        hint="the training diverged: use an earlier checkpoint")
    return value
