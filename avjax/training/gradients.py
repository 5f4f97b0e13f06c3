"""Gradients of a step: of one loss for all parameters, or of several losses in turns; averaged over
micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from avjax.sharding.mesh import batch_partition
from avjax.systems.api import Turn
from avjax.training.optimizer import Optimizer


def make_gradients(system, optimizer: Optimizer, *, accumulate: int = 1) -> Callable:
    """A function (params, batch, key) -> (loss, metrics, gradients), averaged over `accumulate`
    micro-batches in one scan.

    Micro-batches are weighted so that the result is that of the large batch: by the metric "weight"
    if the system returns it (the denominator of its mean), else by the number of real frames
    (batch["mask"]), else equally. Of a system with turns: of all of them at the same parameters, as
    a step without updates between them would have it, and the loss of the last.
    """

    def loss_of(params, batch, key):
        params = without_frozen(params, optimizer)
        return weighed(*system.loss(params, batch, key), batch)

    def gradients(params, batch, key):
        if system.turns:
            return _all_turns(system, optimizer, accumulate, params, batch, key)

        def of_part(part, key):
            (_, (metrics, weight)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, part,
                                                                                       key)
            return metrics, weight, grads

        metrics, grads = averaged(system, of_part, batch, key, accumulate)
        return metrics["loss"], metrics, grads

    return gradients


def without_frozen(params: Any, optimizer: Optimizer) -> Any:
    """Frozen parameters take no gradient, so XLA drops their half of the backward pass."""
    return jax.tree.map(lambda p, train: p if train else jax.lax.stop_gradient(p), params,
                        optimizer.trainable)


def weighed(loss, metrics: dict, batch) -> tuple:
    """(loss, (metrics with the loss, weight of this micro-batch))."""
    metrics = {"loss": loss} | {k: v for k, v in metrics.items() if k != "loss"}
    weight = metrics.pop("weight", batch["mask"].sum() if "mask" in batch else 1.0)
    return loss, (metrics, jnp.asarray(weight, jnp.float32))


def averaged(system, of_part: Callable, batch, key, accumulate: int) -> tuple[dict, Any]:
    """(metrics, gradients) of a batch by `of_part`(part, key) -> (metrics, weight, gradients)."""
    if accumulate == 1:
        metrics, _, grads = of_part(batch, key)
        return metrics, grads

    def micro(name, x):  # strided, not contiguous: every device keeps its own examples
        split = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:])
        split = jnp.swapaxes(split, 0, 1)
        places = PartitionSpec(None, *batch_partition(system.batch_spec[name]))
        return jax.lax.with_sharding_constraint(split, places)

    def body(total, inputs):
        index, part = inputs
        metrics, weight, grads = of_part(part, jax.random.fold_in(key, index))
        return jax.tree.map(lambda a, b: a + weight * b, total,
                            (metrics, grads, jnp.ones(()))), None

    parts = {name: micro(name, x) for name, x in batch.items()}
    metrics, _, grads = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), (metrics, grads, jnp.ones(())))
    (metrics, grads, weight), _ = jax.lax.scan(body, zeros, (jnp.arange(accumulate), parts))
    return jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-9), (metrics, grads))


class TurnGradients:
    """Gradients of one step's turns.

    What the turns share is made once, from the parameters before the step, and what each turn's
    loss wants changed of it goes back to the parameters by one pull-back. With micro-batches it is
    made anew in every turn: keeping it would keep all of them.
    """

    def __init__(self, system, optimizer: Optimizer, accumulate: int, params, batch, key, step):
        self.system, self.optimizer, self.accumulate = system, optimizer, accumulate
        self.before, self.batch, self.key, self.step = params, batch, key, step
        self._whole = self._share(batch, key) if accumulate == 1 else None

    def _share(self, batch, key):
        return jax.vjp(lambda p: self.system.shared(without_frozen(p, self.optimizer), batch, key),
                       self.before)

    def __call__(self, turn: Turn, params) -> tuple[dict, dict]:
        """(metrics with "loss", {group: gradients}) of a turn at `params`."""
        def of_part(part, key):
            shared, pull_back = self._whole or self._share(part, key)

            def loss_of(own, shared):
                given = without_frozen(params | own, self.optimizer)
                return weighed(*self.system.turn_loss(turn.name, given, shared, part, key,
                                                      self.step), part)

            own = {group: params[group] for group in turn.groups}
            (_, (metrics, weight)), (direct, wanted) = jax.value_and_grad(
                loss_of, argnums=(0, 1), has_aux=True)(own, shared)
            (through,) = pull_back(wanted)
            return metrics, weight, jax.tree.map(jnp.add, direct, {g: through[g] for g in own})

        return averaged(self.system, of_part, self.batch, self.key, self.accumulate)


def _all_turns(system, optimizer, accumulate, params, batch, key):
    turns = TurnGradients(system, optimizer, accumulate, params, batch, key, jnp.int32(2**30))
    metrics, grads = {}, {}
    for turn in system.turns:
        found, of_groups = turns(turn, params)
        metrics, grads = metrics | found, grads | of_groups
    return metrics["loss"], metrics, {name: grads[name] for name in params}
