"""What `launch.benchmark` times of a system, as declarations; avjax.training.timing runs them.

A system says more than the default by a class `Benchmark` in its own `benchmark.py`, a subclass of
the one here; `avjax.systems.registry.benchmark` finds it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from avjax.errors import UserError
from avjax.systems import api


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes to measure; what a system does not know it ignores."""

    batch: int = 4  # examples in a training step
    frames: int = 345  # of each
    text: int = 30  # text tokens of each
    lengths: tuple[int, ...] = ()  # frames to sample, one example each
    steps: int = 8  # solver steps of a sample


@dataclasses.dataclass(frozen=True)
class Work:
    """A pure function of arrays (or of shapes), `times` over: only its FLOPs are counted."""

    function: Callable
    arguments: tuple
    times: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to time.

    Attributes:
      name: the table's first column.
      describe: what a peer program gets, as JSON.
      parts: what a run's time is also divided by, e.g. {"ms_a_patch": 20 / 1000} or
        {"realtime_factor": seconds made}.
    """

    name: str
    describe: dict
    parts: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep(Case):
    """The loop's own training step of `system` on a batch {name: array}."""

    system: api.System
    batch: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled(Case):
    """A pure function of arrays, compiled before it is timed. `loops`: what it computes beside what
    FLOP counting sees, in loops that turn as often as data decide and are counted once."""

    function: Callable
    arguments: tuple
    loops: tuple[Work, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Driven(Case):
    """Work driven from the host: `make()` gives a function that does it once and returns the
    seconds that count (or None: all of them). `work` is what that computes."""

    make: Callable[[], Callable[[], float | None]]
    work: tuple[Work, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What can be counted without running anything: a training step of `system` on shapes, and
    {name: (work, units that it makes)} of more, whose FLOPs are given per unit."""

    system: api.System
    batch: dict[str, jax.ShapeDtypeStruct]
    more: dict[str, tuple[Work, int]] = dataclasses.field(default_factory=dict)


class Benchmark:
    """The default: a training step on random arrays of `batch_spec`, then `generate` for one
    example of each of `options.lengths`."""

    options = Options()

    def cases(self, config, system: api.System, options: Options) -> Iterator[Case]:
        """What is timed, made one after the other so that one's arrays are freed before the next
        one's are made."""
        batch = random_arrays(api.example_batch(system, batch=options.batch, time=options.frames))
        yield TrainStep(name=f"train step {options.batch} x {options.frames}", system=system,
                        describe={"case": "train", "batch": options.batch,
                                  "frames": options.frames}, batch=batch)
        for frames in options.lengths:
            yield self.sample(config, frames, options.steps)

    def plan(self, config, system: api.System, options: Options) -> Plan:
        """What --plan counts from shapes alone."""
        return Plan(system, api.example_batch(system, batch=options.batch, time=options.frames))

    def sample(self, config, frames: int, steps: int) -> Case:
        """`generate` for one example of `frames` frames, in `steps` solver steps where the config
        has a field `euler_steps`. UserError where a condition has axes of other names."""
        settings = config.system.copy_and_resolve_references()
        if "euler_steps" in settings:
            settings.euler_steps = steps
        system = api.build(settings)
        for name, spec in system.conditions_spec.items():
            if others := {d for d in spec.shape if isinstance(d, str)} - {"batch", "time"}:
                raise UserError("no default sampling case for this system", where="--lengths",
                                expected="conditions of named axes batch and time alone, or a "
                                f"Benchmark in avjax/systems/{settings.name}/benchmark.py",
                                found=f"{name} with {', '.join(sorted(others))}",
                                hint="leave --lengths out")
        conditions = random_arrays({name: spec.resolve(batch=1, time=frames)
                                    for name, spec in system.conditions_spec.items()})
        return Compiled(name=f"sample {frames} frames", function=system.generate,
                        describe={"case": "sample", "frames": frames, "steps": steps},
                        arguments=(api.new_params(system), conditions, one_key()))


def drawn(system: api.System):
    """Parameters of the right shapes, normal with variance 1 / inputs (norms' scales and biases
    near 0): what is timed does not depend on values, and compiling the `init` of a large network
    takes minutes on a CPU."""
    rng = np.random.default_rng(0)

    def one(shape):
        deviation = (shape.shape[-1] / max(shape.size, 1)) ** 0.5 if len(shape.shape) > 1 else 0.02
        return deviation * rng.standard_normal(shape.shape, np.float32)

    return jax.tree.map(one, api.abstract_params(system))


def one_key() -> jax.Array:
    """The noise key of a single example."""
    return jax.random.split(jax.random.key(1), 1)


def random_arrays(shapes) -> dict[str, np.ndarray]:
    """Unit normal arrays; "mask" is all ones."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(s.shape, np.float32).astype(s.dtype)
              for name, s in shapes.items()}
    return {name: np.ones_like(a) if name == "mask" else a for name, a in arrays.items()}
