"""Evaluation in the loop.

An evaluator is any object with `name`, `every` (steps) and `run(params, step)`, which returns {metric: value} or
({metric: value}, artefacts); see `Telemetry.artefacts` for the latter. `params` is the average when there is one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.sharding.mesh import batch_sharding, check_batch, put_batch


class Evaluator(Protocol):
    name: str
    every: int

    def run(self, params: Any, step: int) -> dict[str, float] | tuple[dict[str, float], dict[str, Any]]: ...


class HeldOutLoss:
    """The training loss and its terms on fixed held-out batches with fixed keys, so that only the model changes.

    Args:
      batches: numpy dicts like the loader's, all of one shape ("example" ids are ignored). Kept in memory.
      every: steps between runs.
    """

    def __init__(self, system, batches: Sequence[Mapping[str, np.ndarray]], mesh: Mesh, *, every: int,
                 name: str = "valid", seed: int = 0):
        self.name, self.every = name, every
        self._sharding = batch_sharding(mesh)
        self._batches = [{k: v for k, v in batch.items() if k != "example"} for batch in batches]
        rows = {len(next(iter(batch.values()))) * jax.process_count() for batch in self._batches}
        for size in rows:
            check_batch(size, mesh, where="held-out batch")

        def terms(params, batch, index):
            loss, metrics = system.loss(params, batch, jax.random.fold_in(jax.random.key(seed), index))
            metrics = {k: v for k, v in metrics.items() if k != "weight"} | {"loss": loss}
            return metrics, batch["mask"].sum() if "mask" in batch else jnp.ones(())

        self._terms = jax.jit(terms)

    def run(self, params: Any, step: int) -> dict[str, float]:
        del step
        results = [self._terms(params, put_batch(batch, self._sharding), np.int32(index))
                   for index, batch in enumerate(self._batches)]
        results = jax.device_get(results)
        weights = np.array([weight for _, weight in results])
        return {name: float(np.average([metrics[name] for metrics, _ in results], weights=weights))
                for name in sorted(results[0][0])}
