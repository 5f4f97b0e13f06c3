"""What the benchmarks of all systems share: a case, its training step, random arrays."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes to measure; what a system does not know it ignores."""

    batch: int = 4  # examples in a training step
    frames: int = 345  # of each
    text: int = 30  # text tokens of each
    lengths: tuple[int, ...] = ()  # frames to sample, one example each
    steps: int = 8  # solver steps of a sample


@dataclasses.dataclass
class Case:
    """One thing to time.

    Attributes:
      name: what the table calls it.
      describe: what a peer is told, JSON.
      run: does it once and waits for the result; may return the seconds that count, else all of
        them do.
      flops: of one run; None where they cannot be told.
      compile_s: seconds.
      temporary_mb: memory beside arguments and results, None where XLA does not say.
      parts: what a run's time is also divided by, e.g. {"ms_a_patch": 20 / 1000} or
        {"realtime_factor": seconds made}.
    """

    name: str
    describe: dict
    run: Callable[[], float | None]
    flops: int | None
    compile_s: float
    temporary_mb: float | None = None
    parts: dict[str, float] = dataclasses.field(default_factory=dict)


def train_case(config, system, batch: dict, name: str, describe: dict,
               options_where: str = "--batch") -> Case:
    """The loop's own training step on a batch {name: array} that stays on the device."""
    from avjax.sharding.mesh import batch_shardings, check_batch, make_mesh
    from avjax.training.optimizer import make_optimizer
    from avjax.training.state import abstract_params, abstract_state, init_state
    from avjax.training.step import CompiledStep, make_train_step, plain_step

    mesh, ema = make_mesh(config.mesh, dcn=config.dcn), config.optimizer.ema_decay > 0
    check_batch(len(next(iter(batch.values()))), mesh, accumulate=config.optimizer.accumulate,
                where=options_where)
    optimizer = make_optimizer(config.optimizer, config.train.steps, abstract_params(system))
    step = make_train_step(system, optimizer, seed=config.seed,
                           accumulate=config.optimizer.accumulate,
                           ema_decay=config.optimizer.ema_decay)
    places = batch_shardings(mesh, system.batch_spec)
    shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[n]) for n,
              x in batch.items()}
    with jax.set_mesh(mesh):
        compiled = CompiledStep(step, abstract_state(system, optimizer, mesh, ema=ema), shapes,
                                mesh,
                                plain_step(config, system, optimizer))
        box = [init_state(system, optimizer, mesh, seed=config.seed, ema=ema)]
        data = jax.device_put(batch, {n: places[n] for n in batch})

    def run():
        box[0], metrics = compiled(box[0], data)
        jax.block_until_ready((box[0], metrics))

    return Case(name, describe, run, compiled.model_flops, compiled.compile_seconds,
                temporary_mb(compiled.memory))


def plan_step(config, system, batch: dict) -> list[dict]:
    """[{"name", "value", "unit"}]: FLOPs and bytes of the training step on a batch {name: shape},
    from shapes alone, for one device. Gradients and moments are of trainable parameters;
    "activations" is what the backward pass keeps and the largest layer's own needs
    (avjax.training.memory)."""
    from avjax.training.flops import count_flops
    from avjax.training.memory import bytes_of, peak_bytes
    from avjax.training.optimizer import make_optimizer
    from avjax.training.state import abstract_params
    from avjax.training.step import make_gradients

    params = abstract_params(system)
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)
    gradients = make_gradients(system, optimizer, accumulate=config.optimizer.accumulate)
    leaves, trains = jax.tree.leaves(params), jax.tree.leaves(optimizer.trainable)
    trained = [x for x, train in zip(leaves, trains, strict=True) if train]
    frozen = [x for x, train in zip(leaves, trains, strict=True) if not train]
    key = jax.eval_shape(lambda: jax.random.key(0))

    def step(params, batch, key):  # gradients of what is frozen are zeros that nobody reads
        loss, metrics, grads = gradients(params, batch, key)
        kept = [g for g, train in zip(jax.tree.leaves(grads), trains, strict=True) if train]
        return loss, metrics, kept

    moments = jax.eval_shape(optimizer.transform.init, params)
    parts = {"trainable parameters": bytes_of(trained), "frozen parameters": bytes_of(frozen),
             "optimizer state": bytes_of(moments), "moving average": bytes_of(leaves)
             if config.optimizer.ema_decay else 0, "batch": bytes_of(batch),
             "activations and gradients": peak_bytes(step, params, batch, key)}
    rows = [{"name": "step", "value": count_flops(step, params, batch, key) / 1e12,
             "unit": "TFLOP"},
            {"name": "parameters", "value": sum(x.size for x in leaves) / 1e9, "unit": "billion"}]
    rows += [{"name": name, "value": size / 1e9, "unit": "GB"} for name, size in parts.items()]
    return [*rows, {"name": "all bytes", "value": sum(parts.values()) / 1e9, "unit": "GB"},
            {"name": "with frozen parameters in 16 bits", "unit": "GB",
             "value": (sum(parts.values()) - bytes_of(frozen) / 2) / 1e9}]


def compiled_case(function, arguments: tuple, name: str, describe: dict, more_flops: int = 0,
                  **more) -> Case:
    """A pure function of arrays, compiled before it is timed. `more_flops`: of loops that turn as
    often as data say, which are counted once."""
    from avjax.training.flops import count_flops

    start = time.perf_counter()
    traced = jax.jit(function).trace(*arguments)
    compiled = traced.lower().compile()
    compile_s = time.perf_counter() - start
    flops = count_flops(core.jaxpr_as_fun(traced.jaxpr), *jax.tree.leaves(arguments)) + more_flops

    def run():
        jax.block_until_ready(compiled(*arguments))

    return Case(name, describe, run, flops, compile_s, temporary_mb(compiled.memory_analysis()),
                **more)


def temporary_mb(memory) -> float | None:
    return memory.temp_size_in_bytes / 1e6 if memory is not None else None


def random_arrays(shapes) -> dict[str, np.ndarray]:
    """Unit normal arrays; "mask" is all ones."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(s.shape, np.float32).astype(s.dtype) for name,
              s in shapes.items()}
    return {name: np.ones_like(a) if name == "mask" else a for name, a in arrays.items()}
