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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avjax.errors import UserError
from avjax.sharding.mesh import batch_partition, batch_sharding, replicated
from avjax.sharding.slices import compiler_options
from avjax.systems import api
from avjax.training.flops import barriers, count_flops, flops_of, live, without_remat
from avjax.training.optimizer import Optimizer, ema_decay_at
from avjax.training.state import State

TrainStep = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


def make_gradients(system, optimizer: Optimizer, *, accumulate: int = 1) -> Callable:
    """A function (params, batch, key) -> (loss, metrics, gradients), averaged over `accumulate`
    micro-batches in one scan.

    Micro-batches are weighted so that the result is that of the large batch: by the metric "weight"
    if the system returns it (the denominator of its mean), else by the number of real frames
    (batch["mask"]), else equally.
    """

    def weighted_loss(params, batch, key):
        # Frozen parameters take no gradient, so XLA drops their half of the backward pass.
        params = jax.tree.map(lambda p, train: p if train else jax.lax.stop_gradient(p), params,
                              optimizer.trainable)
        loss, metrics = system.loss(params, batch, key)
        metrics = {"loss": loss} | {k: v for k, v in metrics.items() if k != "loss"}
        weight = metrics.pop("weight", batch["mask"].sum() if "mask" in batch else 1.0)
        return loss, (metrics, jnp.asarray(weight, jnp.float32))

    grad_fn = jax.value_and_grad(weighted_loss, has_aux=True)

    def gradients(params, batch, key):
        if accumulate == 1:
            (loss, (metrics, _)), grads = grad_fn(params, batch, key)
            return loss, metrics, grads

        def micro(name, x):  # strided, not contiguous: every device keeps its own examples
            split = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:])
            split = jnp.swapaxes(split, 0, 1)
            places = PartitionSpec(None, *batch_partition(system.batch_spec[name]))
            return jax.lax.with_sharding_constraint(split, places)

        def body(total, inputs):
            index, part = inputs
            (_, (metrics, weight)), grads = grad_fn(params, part, jax.random.fold_in(key, index))
            return jax.tree.map(lambda a, b: a + weight * b, total,
                                (metrics, grads, jnp.ones(()))), None

        parts = {name: micro(name, x) for name, x in batch.items()}
        shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32),
                             (shapes[0][1][0], shapes[1], jnp.ones(())))
        (metrics, grads, weight), _ = jax.lax.scan(body, zeros, (jnp.arange(accumulate), parts))
        metrics, grads = jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-9), (metrics, grads))
        return metrics["loss"], metrics, grads

    return gradients


def make_train_step(system, optimizer: Optimizer, *, seed: int, accumulate: int = 1,
                    ema_decay: float = 0.0, guard: bool = False) -> TrainStep:
    """A pure function (state, batch) -> (state, metrics).

    With `guard`, an update whose loss, gradient norm or own norm is not finite changes only the
    step counter, and the metric "skipped" is 1.
    """
    gradients = make_gradients(system, optimizer, accumulate=accumulate)

    def train_step(state: State, batch):
        step, params = state["step"], state["params"]
        loss, metrics, grads = gradients(params, batch,
                                         jax.random.fold_in(jax.random.key(seed), step))
        direction, opt_state = optimizer.transform.update(grads, state["opt_state"], params)
        rate = optimizer.schedule(step)

        # Frozen parameters are returned as they are, without the traffic of adding zeros.
        def each(change, old, *others):
            return jax.tree.map(lambda train, *x: change(*x) if train else x[0],
                                optimizer.trainable, old, *others)

        new = {"params": each(lambda p, d: p - rate * d, params, direction), "opt_state": opt_state}
        if "ema" in state:
            decay = ema_decay_at(ema_decay, step)
            new["ema"] = each(lambda e, p: decay * e + (1 - decay) * p, state["ema"], new["params"])
        norms = {"grad_norm": optax.tree.norm(grads),
                 "update_norm": rate * optax.tree.norm(direction)}
        metrics = metrics | norms | {"learning_rate": rate}
        if guard:
            good = jnp.isfinite(jnp.stack([loss, *norms.values()])).all()
            new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new,
                               {name: state[name] for name in new})
            metrics["skipped"] = 1.0 - good
        return new | {"step": step + 1}, metrics

    return train_step


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
                 mesh: Mesh, plain: TrainStep | None = None):
        """
        Args:
          state, batch: abstract, with shardings (`abstract_state`, `abstract_batch`); arrays of the
            batch without one are sharded over (data, fsdp).
          plain: see `plain_step`.
        """
        shardings = {k: v.sharding or batch_sharding(mesh) for k, v in batch.items()}
        batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=shardings[k])
                 for k, v in batch.items()}
        with jax.set_mesh(mesh):  # what the network does to activations depends on it
            self._compile(train_step, state, batch, shardings, mesh)
            self.model_flops = count_flops(plain, state, batch) if plain else self.flops

    def _compile(self, train_step, state, batch, shardings, mesh):
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
        self._compiled = traced.lower().compile(compiler_options(mesh.devices.ravel()))
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
