"""Evaluation in the loop.

An evaluator is any object with `name`, `every` (steps) and `run(params, step)`, which returns
{metric: value} or ({metric: value}, artefacts); for artefacts see MetricsWriter.artefacts. `params`
is the average when there is one.

In a job of several processes each of them runs it, on the same examples in the same order, and gets
the same values. The loop sets its `should_stop`: an evaluator that takes long calls it between
batches, in every process alike, and raises Interrupted when it returns True. An interrupted
evaluator runs again when the job resumes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.sharding.mesh import batch_shardings, batch_share, check_batch, put_batch, replicated
from avjax.training.state import abstract_params


class Interrupted(Exception):
    """The job stops before the evaluation is done."""


def never() -> bool:
    """The `should_stop` of an evaluator outside a loop."""
    return False


class Evaluator(Protocol):
    """See the module's docstring."""

    name: str
    every: int
    should_stop: Callable[[], bool]

    def run(self, params: Any, step: int) -> (
            dict[str, float] | tuple[dict[str, float], dict[str, Any]]): ...


class HeldOutLoss:
    """The training loss and its terms on fixed held-out batches with fixed keys, so that only the
    model changes. Batches are weighted like micro-batches, see avjax.training.step.make_gradients.

    Args:
      batches: numpy dicts like the loader's, all of one shape, kept in memory ("example" ids are
        ignored).
      every: steps between runs.
    """

    def __init__(self, system, batches: Sequence[Mapping[str, np.ndarray]], mesh: Mesh, *,
                 every: int, name: str = "valid", seed: int = 0):
        self.name = name
        self.every = every
        self.should_stop: Callable[[], bool] = never
        self._shardings = batch_shardings(mesh, system.batch_spec)
        self._batches = [{k: v for k, v in batch.items() if k != "example"} for batch in batches]
        rows = {len(next(iter(batch.values()))) * batch_share(mesh)[1] for batch in self._batches}
        for size in rows:
            check_batch(size, mesh, where="held-out batch")

        def terms(params, batch, index):
            loss, metrics = system.loss(params, batch,
                                        jax.random.fold_in(jax.random.key(seed), index))
            metrics = metrics | {"loss": loss}
            frames = batch["mask"].sum() if "mask" in batch else jnp.ones(())
            return metrics, metrics.pop("weight", frames)

        self._system = system
        self._mesh = mesh
        self._terms = jax.jit(terms, out_shardings=replicated(mesh))

    @functools.cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names of what `run` returns, by a trace of the loss."""
        shares = batch_share(self._mesh)[1]
        batch = {k: jax.ShapeDtypeStruct((len(x) * shares, *x.shape[1:]), x.dtype)
                 for k, x in self._batches[0].items()}
        with jax.set_mesh(self._mesh):
            found, _ = jax.eval_shape(self._terms, abstract_params(self._system), batch,
                                      np.int32(0))
        return tuple(sorted(found))

    def run(self, params: Any, step: int) -> dict[str, float]:
        del step
        results = []
        for index, batch in enumerate(self._batches):
            if self.should_stop():
                raise Interrupted
            results.append(self._terms(params, put_batch(batch, self._shardings), np.int32(index)))
        results = jax.device_get(results)
        weights = np.array([weight for _, weight in results])
        return {name: float(np.average([metrics[name] for metrics, _ in results], weights=weights))
                for name in sorted(results[0][0])}
