"""Layers of equal sizes as one scan: compiled once, parameters stacked along a leading axis."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

SHARED = nn.broadcast  # an argument that all layers are given alike


def stack(layer: type[nn.Module], length: int, methods: Mapping[str, tuple], *,
          rngs: tuple[str, ...] = ("params",), unroll: int = 1) -> Any:
    """A module class of `length` layers, called as one of them.

    Args:
      layer: its methods take (x, arguments...) and return (x, what this layer returns).
      methods: {method: for each argument after x, 0 (stacked, one entry a layer) or SHARED}.
      rngs: random streams that differ from layer to layer.
      unroll: layers of one step of the scan.
    """
    return nn.scan(layer, methods={
        name: dict(variable_axes={"params": 0}, split_rngs=dict.fromkeys(rngs, True),
                   length=length, in_axes=axes, unroll=unroll)
        for name, axes in methods.items()})
