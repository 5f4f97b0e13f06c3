"""Compiles, times and counts what a system's benchmark declares (avjax.systems.benchmarking)."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from functools import singledispatch

import jax
from jax.extend import core

from avjax.sharding.mesh import batch_shardings, check_batch, make_mesh, replicated
from avjax.systems.benchmarking import Case, Compiled, Driven, Plan, TrainStep, Work
from avjax.training.flops import count_flops
from avjax.training.memory import bytes_of, peak_bytes
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_params, abstract_state, init_state, state_shapes
from avjax.training.step import CompiledStep, make_gradients, plain_step, step_of


@dataclasses.dataclass
class Timed:
    """A case ready to run.

    Attributes:
      run: does it once and waits for the result; may return the seconds that count, else all of
        them do.
      flops: of one run.
      compile_s: seconds.
      temporary_mb: memory beside arguments and results, None where XLA does not say.
    """

    run: Callable[[], float | None]
    flops: int
    compile_s: float
    temporary_mb: float | None = None


@singledispatch
def prepare(case: Case, config) -> Timed:
    """`case` compiled under an experiment's config."""
    raise NotImplementedError(type(case))


@prepare.register
def _(case: TrainStep, config) -> Timed:
    system, batch = case.system, case.batch
    mesh = make_mesh(config.mesh, dcn=config.dcn)
    ema = config.optimizer.ema_decay > 0
    check_batch(len(next(iter(batch.values()))), mesh, accumulate=config.optimizer.accumulate,
                where="--batch")
    optimizer = make_optimizer(config.optimizer, config.train.steps, abstract_params(system),
                               system.turns)
    step = step_of(config, system, optimizer)
    places = batch_shardings(mesh, system.batch_spec)
    shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[n])
              for n, x in batch.items()}
    with jax.set_mesh(mesh):
        compiled = CompiledStep(step, abstract_state(system, optimizer, mesh, ema=ema), shapes,
                                mesh, plain_step(config, system, optimizer))
        state = init_state(system, optimizer, mesh, seed=config.seed, ema=ema)
        data = jax.device_put(batch, {n: places[n] for n in batch})

    def run():
        nonlocal state
        state, metrics = compiled(state, data)
        jax.block_until_ready((state, metrics))

    return Timed(run, compiled.model_flops, compiled.compile_seconds,
                 _temporary_mb(compiled.memory))


@prepare.register
def _(case: Compiled, config) -> Timed:
    arguments, placed = case.arguments, contextlib.nullcontext()
    if jax.default_backend() == "cpu" and config.mesh.seq > 1:
        mesh = make_mesh(config.mesh)
        arguments, placed = jax.device_put(arguments, replicated(mesh)), jax.set_mesh(mesh)
    start = time.perf_counter()
    with placed:
        traced = jax.jit(case.function).trace(*arguments)
        compiled = traced.lower().compile()
    compile_s = time.perf_counter() - start
    flops = count_flops(core.jaxpr_as_fun(traced.jaxpr), *jax.tree.leaves(arguments))

    def run():
        jax.block_until_ready(compiled(*arguments))

    return Timed(run, flops + count(case.loops), compile_s,
                 _temporary_mb(compiled.memory_analysis()))


@prepare.register
def _(case: Driven, config) -> Timed:
    start = time.perf_counter()
    run = case.make()
    return Timed(run, count(case.work), time.perf_counter() - start)


def count(work: tuple[Work, ...]) -> int:
    """FLOPs."""
    return sum(w.times * count_flops(w.function, *w.arguments) for w in work)


def plan_rows(plan: Plan, config) -> list[dict]:
    """[{"name", "value", "unit"}]: FLOPs and bytes of the training step, from shapes alone, for one
    device. Gradients and moments are of trainable parameters; "activations" is what the backward
    pass keeps and the largest layer's own needs (avjax.training.memory)."""
    system, batch = plan.system, plan.batch
    params = abstract_params(system)
    optimizer = make_optimizer(config.optimizer, config.train.steps, params, system.turns)
    params = state_shapes(params, optimizer, ema=False)["params"]
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
             "optimizer state": bytes_of(moments),
             "moving average": bytes_of(trained) if config.optimizer.ema_decay else 0,
             "batch": bytes_of(batch),
             "activations and gradients": peak_bytes(step, params, batch, key)}
    everything = sum(parts.values())
    rows = [("step", count_flops(step, params, batch, key) / 1e12, "TFLOP"),
            ("parameters", sum(x.size for x in leaves) / 1e9, "billion"),
            *((name, size / 1e9, "GB") for name, size in parts.items()),
            ("all bytes", everything / 1e9, "GB")]
    for name, (work, units) in plan.more.items():
        rows += [(f"{name}: a frame", count((work,)) / units / 1e12, "TFLOP"),
                 (f"{name}: all bytes", (bytes_of(work.arguments[0])
                                         + peak_bytes(work.function, *work.arguments)) / 1e9, "GB")]
    return [{"name": name, "value": value, "unit": unit} for name, value, unit in rows]


def _temporary_mb(memory) -> float | None:
    return memory.temp_size_in_bytes / 1e6 if memory is not None else None
