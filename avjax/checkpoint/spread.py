"""A host that lost its part of a state gets it from replicas on other hosts, over the devices' own
network.

Every array of a state lies over some mesh axes and is repeated over the others. Where a host has
nothing, the devices of other hosts that hold the same piece give it: each piece has one giver, all
others add zeros, and the sum over the repeated axes leaves it everywhere. Bits are summed as
integers, so nothing is rounded and -0.0 and NaN stay what they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

Holds = Callable[[jax.Device], bool]  # whether a device has its pieces


def _givers(leaf: Any, holds: Holds) -> dict[tuple, Any] | None:
    """{piece: the device that gives it}; None when no device has some piece."""
    givers: dict[tuple, Any] = {}
    pieces = leaf.sharding.devices_indices_map(leaf.shape)
    for device, index in pieces.items():
        if holds(device):
            givers.setdefault(_key(index, leaf.shape), device)
    return givers if {_key(index, leaf.shape)
                      for index in pieces.values()} <= givers.keys() else None


def _key(index: tuple, shape: tuple) -> tuple:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def recoverable(target: Any, holds: Holds) -> bool:
    """Whether the devices that have their pieces have all of a state laid out like `target`
    (abstract, with shardings)."""
    return all(_givers(leaf, holds) is not None for leaf in jax.tree.leaves(target))


def spread(state: Any | None, target: Any, holds: Holds) -> Any:
    """The whole state on every device; all processes call it. `state`: this process' own, right
    where `holds`; None = nothing."""
    leaves, tree = jax.tree.flatten(target)
    own = jax.tree.leaves(state) if state is not None else [None] * len(leaves)
    return jax.tree.unflatten(tree,
                              [_spread(x, leaf, holds) for x,
                               leaf in zip(own, leaves, strict=True)])


def _spread(x: jax.Array | None, leaf: Any, holds: Holds) -> jax.Array:
    mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
    used = {axis for part in spec for axis in ((part,) if isinstance(part, str) else part or ())}
    repeated = tuple(axis for axis in mesh.axis_names if axis not in used)
    givers = _givers(leaf, holds)
    copies = NamedSharding(mesh, PartitionSpec(repeated, *spec))
    shape = (int(np.prod([mesh.shape[axis] for axis in repeated])), *leaf.shape)
    bits = np.dtype(f"uint{8 * leaf.dtype.itemsize}")
    here = {shard.device: shard.data for shard in x.addressable_shards} if x is not None else {}
    pieces = []
    for device, index in copies.addressable_devices_indices_map(shape).items():
        if givers[_key(index[1:], leaf.shape)] == device:
            piece = np.asarray(here[device]).view(bits)[None]
        else:
            piece = np.zeros((1, *copies.shard_shape(shape)[1:]), bits)
        pieces.append(jax.device_put(piece, device))
    stacked = jax.make_array_from_single_device_arrays(shape, copies, pieces)
    return _sum(stacked, leaf.dtype, leaf.sharding)


def _sum(stacked: jax.Array, dtype: Any, sharding: NamedSharding) -> jax.Array:
    def merge(bits):
        total = jnp.sum(bits, axis=0, dtype=bits.dtype)
        return total.astype(dtype) if np.issubdtype(dtype,
                                                    np.bool_) else jax.lax.bitcast_convert_type(
                                                        total, dtype)

    return jax.jit(merge, out_shardings=sharding)(stacked)
