"""The contract between a paper's model and everything else in the house.

A *System* is one trainable thing. The loader makes batches of `batch_spec` from examples of
`example_spec`, the sharding rules place its parameters, the loop differentiates `loss`, the
evaluator calls `generate`; none of them knows which paper it is.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from avjax.errors import UserError

Params = Any  # a pytree of arrays, named as flax names them
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Spec:
    """One named array of a batch, a condition or an output stream.

    `shape` leads with the axis names "batch" and, for sequences, "time"; other entries are sizes.
    `rate` is frames per second for anything with a time axis. `recipe` is the exact definition of
    the feature (sample rate, FFT size, normalisation, ...) that a feature shard must have been made
    with; None accepts any.

    `sequence` marks the axis that is a sequence where its size is fixed and so has no name ("time"
    is one without being marked): the mesh axis `seq` splits it. A shape alone cannot say which of
    its sizes is time, and two sequences of a row (tokens, patches) have different lengths.
    `together` entries of it are never split (the two units of a frame).
    """

    shape: tuple[str | int, ...]
    dtype: str
    meaning: str
    unit: str = ""
    rate: float | None = None
    recipe: dict | None = None
    sequence: int | None = None
    together: int = 1

    @property
    def sequence_axis(self) -> int | None:
        """Which axis the mesh axis `seq` splits, if any."""
        return (self.shape.index("time") if self.sequence is None and "time" in self.shape
                else self.sequence)

    def resolve(self, **sizes: int) -> jax.ShapeDtypeStruct:
        """The concrete shape, e.g. `spec.resolve(batch=8, time=172)`."""
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in self.shape)
        return jax.ShapeDtypeStruct(shape, np.dtype(self.dtype))


class Rows(Protocol):
    """How a System that trains on whole examples lays them out in a batch's rows. All numpy, all
    pure.

    A row is one entry of the batch axis and holds one or several examples, as many as fit. Where a
    System has no `rows`, the loader cuts a random segment of `config.data.segment` frames out of
    every example instead.
    """

    # what a row holds of each resource, e.g. {"tokens": 512, "patches": 128}
    capacity: dict[str, int]

    def cost(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """What an example takes of each resource, from the lengths of its sequence features."""

    def kind(self, lengths: Mapping[str, int]) -> str:
        """Examples of all kinds are drawn equally often: the smaller sets are repeated."""

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of the batch (no batch axis) from examples that fit; `rng` decides random
        crops."""


class System(Protocol):
    """What every paper provides. Built once from its config by `build`; holds no arrays."""

    batch_spec: dict[str, Spec]  # what `loss` is given
    example_spec: dict[str, Spec]  # what a dataset's examples must hold for that
    conditions_spec: dict[str, Spec]  # what `generate` is given
    streams_spec: dict[str, Spec]  # what `generate` returns
    # (regex over "a/b/c" path, mesh axes per dim); exactly one must match
    param_rules: tuple[tuple[str, tuple], ...]
    tasks: tuple[str, ...]  # what `generate` can be asked for; the first is the default
    # {task: streams that it makes}; others that it returns are those it was given
    makes: dict[str, tuple[str, ...]]
    rows: Rows | None

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters (float32)."""

    def loss(self, params: Params, batch: Batch,
             key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scalar loss and scalar metrics. Pure; `key` is the only randomness."""

    def conditions(self, example: Mapping[str, Any],
                   task: str) -> tuple[dict[str, np.ndarray], int]:
        """(conditions of `generate` for one example of a dataset, without batch axis; frames to
        make room for). The caller pads the axes that `conditions_spec` names ("time" to at least
        that number) and adds "mask"."""

    def generate(self, params: Params, conditions: Batch, keys: jax.Array, task: str = "") -> Batch:
        """Streams for a batch of conditions; `keys` is (batch,) typed keys, one an example, so that
        an example's noise does not depend on its neighbours or on padding. Pure and jittable. A
        System that decides lengths itself has no "mask" among its conditions, and "<stream>_length"
        (batch,) int32 says how many frames are real.

        A System may also have `in_steps(task)`: a function of a batch of one's (params, conditions,
        keys) that does the same in steps driven from the host and yields (None, seconds made) after
        each, last (what `generate` returns, all seconds). It is
        then used instead: nothing is spent on, or compiled for, the longest answer that `generate`
        must make room for."""


def build(config) -> System:
    """The System that `config.name` picks: the class `System` of `avjax.systems.<name>`."""
    try:
        module = importlib.import_module(f"avjax.systems.{config.name}")
    except ModuleNotFoundError as error:
        raise UserError("unknown system", where="config.system.name",
                        expected="a folder or file of avjax/systems", found=repr(config.name),
                        hint="check the name's spelling") from error
    return module.System(config)


def example_batch(system: System, *, batch: int, time: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one training batch, without data."""
    return {name: spec.resolve(batch=batch, time=time) for name, spec in system.batch_spec.items()}


def bucket(length: int, quantum: int = 64) -> int:
    """Padded length: quantum times 1, 3/2, 2, 3, 4, 6, 8, ...: few shapes to compile, at most a
    third of it padding."""
    size = quantum
    while length > size * 3 // 2:
        size *= 2
    return size if length <= size else size * 3 // 2


def stream_names(system: System) -> tuple[str, ...]:
    """The streams of a system, without the lengths and other numbers that `generate` may return
    beside them: what has a time axis, and what a task says it makes."""
    made = {name for names in system.makes.values() for name in names}
    return tuple(name for name, spec in system.streams_spec.items() if "time" in spec.shape
                 or name in made)


def real_streams(system: System, out: Mapping[str, Any], row: int, frames: int) -> dict[str, Any]:
    """The streams that `generate` returned for one row of a batch, without padding:
    "<stream>_length" frames where the system decides lengths, else `frames`."""
    def real(name):
        if "time" not in system.streams_spec[name].shape:
            return out[name][row]
        return out[name][row, :int(out[f"{name}_length"][row]) if f"{name}_length" in out
                         else frames]

    return {name: real(name) for name in stream_names(system) if name in out}
