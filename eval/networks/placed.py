"""A network's parameters on the devices that share its rows."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from avjax.sharding import rows
from avjax.sharding.mesh import make_mesh, replicated


class Placed:
    """Parameters of a frozen network, on every device of a mesh.

    Args:
      params: a tree of arrays.
      together: rows that a device takes at once; numbers do not depend on it.
      mesh: over whose data axes rows are split; None = all devices of this process.
    """

    def __init__(self, params: Any, together: int, mesh: Mesh | None = None):
        self._mesh = mesh or make_mesh({"data": -1}, jax.local_devices())
        self._params = jax.device_put(params, replicated(self._mesh))
        self._together = together

    def __call__(self, function: Callable, some: Iterable[np.ndarray],
                 each: int = 1) -> list[np.ndarray]:
        """What a jitted `function(params, x_B)` gives of each of any number of rows of one shape,
        in their order; a device takes `each` times as many at once."""
        return list(rows.stream(functools.partial(function, self._params), some, self._mesh,
                                self._together * each))
