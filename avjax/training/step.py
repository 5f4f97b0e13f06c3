"""One update as a pure function of (state, batch), compiled once.

Its random key is fold_in(seed, step). Metrics are returned as one float32 vector, so that there is
one transfer a step.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from avjax.errors import UserError
from avjax.sharding.mesh import batch_sharding, replicated
from avjax.sharding.slices import compiler_options
from avjax.systems import api
from avjax.training.flops import barriers, count_flops, flops_of, live, without_remat
from avjax.training.gradients import TurnGradients, make_gradients
from avjax.training.optimizer import Optimizer, ema_decay_at
from avjax.training.state import State, trainable_part

TrainStep = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


def make_train_step(system, optimizer: Optimizer, *, seed: int, accumulate: int = 1,
                    ema_decay: float = 0.0, guard: bool = False) -> TrainStep:
    """A pure function (state, batch) -> (state, metrics).

    A system with turns has its groups of parameters updated one turn after the other, each by its
    own loss at the parameters as the turns before have left them. With `guard`, an update whose
    loss, gradient norm or own norm is not finite changes only the step counter, and the metric
    "skipped" is 1.
    """
    updates = _in_turns if system.turns else _at_once

    def train_step(state: State, batch):
        step = state["step"]
        key = jax.random.fold_in(jax.random.key(seed), step)
        params, opt_state, metrics = updates(system, optimizer, accumulate, state, batch, key)
        new = {"params": params, "opt_state": opt_state}
        if "ema" in state:
            decay = ema_decay_at(ema_decay, step)
            new["ema"] = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state["ema"],
                                      trainable_part(params, optimizer))
        metrics = metrics | {"learning_rate": optimizer.schedule(step)}
        if guard:
            watched = [v for k, v in metrics.items() if k == "loss"
                       or k.endswith(("/loss", "grad_norm", "update_norm"))]
            good = jnp.isfinite(jnp.stack(watched)).all()
            new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new,
                               {name: state[name] for name in new})
            metrics["skipped"] = 1.0 - good
        return new | {"step": step + 1}, metrics

    return train_step


def _each(change: Callable, trainable, old, *others):
    """Frozen parameters are returned as they are, without the traffic of adding zeros."""
    return jax.tree.map(lambda train, *x: change(*x) if train else x[0], trainable, old, *others)


def _at_once(system, optimizer, accumulate, state, batch, key):
    """(parameters, optimiser state, metrics) after one update of everything by one loss."""
    params = state["params"]
    _, metrics, grads = make_gradients(system, optimizer, accumulate=accumulate)(params, batch, key)
    direction, opt_state = optimizer.transform.update(grads, state["opt_state"], params)
    rate = optimizer.schedule(state["step"])
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": rate * optax.tree.norm(direction)}
    params = _each(lambda p, d: p - rate * d, optimizer.trainable, params, direction)
    return params, opt_state, metrics | norms


def _in_turns(system, optimizer, accumulate, state, batch, key):
    """The same, turn by turn. A turn's loss and norms are metrics under its name; the last turn's
    loss is "loss" as well."""
    step, params, opt_state = state["step"], state["params"], dict(state["opt_state"])
    gradients = TurnGradients(system, optimizer, accumulate, params, batch, key, step)
    metrics = {}
    for turn in system.turns:

        def take(given, turn=turn):
            params, moments = given
            found, grads = gradients(turn, params)
            own = {group: params[group] for group in turn.groups}
            direction, moments = optimizer.turns[turn.name].update(grads, moments, own)
            rate = optimizer.schedule(step) * optimizer.rates.get(turn.name, 1.0)
            found |= {"grad_norm": optax.tree.norm(grads),
                      "update_norm": rate * optax.tree.norm(direction)}
            own = _each(lambda p, d: p - rate * d, {g: optimizer.trainable[g] for g in own}, own,
                        direction)
            return own, moments, found

        def skip(given, turn=turn, take=take):
            params, moments = given
            found = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                                 jax.eval_shape(take, given)[2])
            return {group: params[group] for group in turn.groups}, moments, found

        given = params, opt_state[turn.name]
        own, opt_state[turn.name], found = jax.lax.cond(
            step >= turn.begins, take, skip, given) if turn.begins else take(given)
        params = params | own
        named = {name if name not in ("loss", "grad_norm", "update_norm") else f"{turn.name}/{name}"
                 : value for name, value in found.items()}
        metrics |= named | {"loss": found["loss"]}
    return params, opt_state, metrics


def step_of(config, system, optimizer: Optimizer) -> TrainStep:
    """The train step of an experiment's config."""
    return make_train_step(system, optimizer, seed=config.seed,
                           accumulate=config.optimizer.accumulate,
                           ema_decay=config.optimizer.ema_decay,
                           guard=config.train.nan_policy == "skip")


def plain_step(config, system, optimizer: Optimizer) -> TrainStep | None:
    """The same step without `remat`; None where the system has none."""
    plain = without_remat(getattr(system, "config", None))
    return None if plain is None else step_of(config, api.build(plain), optimizer)


class CompiledStep:
    """The train step, compiled ahead of time: it never compiles again, and a batch of another shape
    is an error.

    Attributes:
      names: of the metrics vector.
      flops: of a step, from the jaxpr, with recomputation by remat.
      model_flops: without it, for MFU.
      kept_anyway: how many parts should be recomputed but keep their values on this mesh's devices
        (see flops.barriers).
      memory: XLA's analysis or None.
      compile_seconds: of tracing and compiling.
    """

    def __init__(self, train_step: Callable, state: State, batch: dict[str, jax.ShapeDtypeStruct],
                 mesh: Mesh, plain: TrainStep | None = None, *,
                 options: dict[str, bool | int | str] | None = None):
        """
        Args:
          state, batch: abstract, with shardings (`abstract_state`, `abstract_batch`); arrays of the
            batch without one are sharded over (data, fsdp).
          plain: see `plain_step`.
          options: of XLA, beside those of the mesh's devices.
        """
        shardings = {k: v.sharding or batch_sharding(mesh) for k, v in batch.items()}
        batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=shardings[k])
                 for k, v in batch.items()}
        with jax.set_mesh(mesh):  # what the network does to activations depends on it
            self._compile(train_step, state, batch, shardings, mesh, options or {})
            self.model_flops = count_flops(plain, state, batch) if plain else self.flops

    def _compile(self, train_step, state, batch, shardings, mesh, options):
        self._shapes = {k: (v.shape, v.dtype) for k, v in batch.items()}

        def packed(state, batch):
            state, metrics = train_step(state, batch)
            self.names = tuple(sorted(metrics))
            for name in self.names:
                if jnp.shape(metrics[name]) != ():
                    raise UserError("a metric is not a scalar",
                                    where=f"metric {name!r} of the system's loss",
                                    expected="shape ()", found=str(jnp.shape(metrics[name])))
            return state, jnp.stack([jnp.asarray(metrics[name], jnp.float32)
                                     for name in self.names])

        places: Any = jax.tree.map(lambda x: x.sharding, state)
        start = time.perf_counter()
        jitted = jax.jit(packed, in_shardings=(places, shardings), donate_argnums=0,
                         out_shardings=(places, NamedSharding(mesh, replicated(mesh).spec)))
        traced = jitted.trace(state, batch)  # once: of large networks it takes many seconds
        jaxpr = live(traced.jaxpr.jaxpr)
        self.flops = flops_of(jaxpr)
        self.kept_anyway = barriers(jaxpr) if mesh.devices.flat[0].platform == "cpu" else 0
        options = {**(compiler_options(mesh.devices.ravel()) or {}), **options}
        self._compiled = traced.lower().compile(options or None)
        self.compile_seconds = time.perf_counter() - start
        self.memory = self._compiled.memory_analysis()

    def __call__(self, state: State, batch: dict[str, jax.Array]) -> tuple[State, jax.Array]:
        """(new state, metrics vector). `state` is donated."""
        try:
            return self._compiled(state, batch)
        except TypeError as error:
            found = {k: (v.shape, v.dtype) for k, v in batch.items()}
            for name in sorted(self._shapes.keys() | found.keys()):
                if self._shapes.get(name) != found.get(name):
                    raise UserError(
                        "the loader yields another batch than the step was compiled for",
                        where=f"batch[{name!r}]", expected=str(self._shapes.get(name)),
                        found=str(found.get(name))) from error
            raise

    def text(self) -> str:
        """The compiled program."""
        return self._compiled.as_text()

    def unpack(self, vector: jax.Array) -> dict[str, float]:
        """Metrics by name on the host; waits for the step that made them."""
        return dict(zip(self.names, np.asarray(vector).tolist(), strict=True))
