"""A host that lost its part of a state gets it from replicas on other hosts, over the devices' own
network.

Every array of a state is sharded over some mesh axes and replicated over the others. Each piece has
one source, a device that holds it; all others add zeros, and the sum over the replicated axes
leaves the piece everywhere. Bits are summed as integers, so nothing is rounded, and -0.0 and NaN
stay what they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

HasPieces = Callable[[jax.Device], bool]


def _sources(leaf: Any, has_pieces: HasPieces) -> dict[tuple, Any] | None:
    """{piece: the device to take it from}; None when no device has some piece."""
    sources: dict[tuple, Any] = {}
    pieces = leaf.sharding.devices_indices_map(leaf.shape)
    for device, index in pieces.items():
        if has_pieces(device):
            sources.setdefault(_key(index, leaf.shape), device)
    complete = {_key(index, leaf.shape) for index in pieces.values()} <= sources.keys()
    return sources if complete else None


def _key(index: tuple, shape: tuple) -> tuple:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def recoverable(target: Any, has_pieces: HasPieces) -> bool:
    """Whether the devices that have their pieces have, together, all of a state.

    Args:
      target: the abstract state, with shardings.
    """
    return all(_sources(leaf, has_pieces) is not None for leaf in jax.tree.leaves(target))


def restore_from_replicas(state: Any | None, target: Any, has_pieces: HasPieces) -> Any:
    """The complete state on every device; all processes call it.

    Args:
      state: this process' own, correct on devices that have their pieces; None = nothing.
    """
    leaves, tree = jax.tree.flatten(target)
    own = jax.tree.leaves(state) if state is not None else [None] * len(leaves)
    return jax.tree.unflatten(tree, [_restore(x, leaf, has_pieces)
                                     for x, leaf in zip(own, leaves, strict=True)])


def _restore(x: jax.Array | None, leaf: Any, has_pieces: HasPieces) -> jax.Array:
    mesh = leaf.sharding.mesh
    spec = leaf.sharding.spec
    used = {axis for part in spec for axis in ((part,) if isinstance(part, str) else part or ())}
    repeated = tuple(axis for axis in mesh.axis_names if axis not in used)
    sources = _sources(leaf, has_pieces)
    copies = NamedSharding(mesh, PartitionSpec(repeated, *spec))
    shape = (int(np.prod([mesh.shape[axis] for axis in repeated])), *leaf.shape)
    bits = np.dtype(f"uint{8 * leaf.dtype.itemsize}")
    here = {shard.device: shard.data for shard in x.addressable_shards} if x is not None else {}
    pieces = []
    for device, index in copies.addressable_devices_indices_map(shape).items():
        if sources[_key(index[1:], leaf.shape)] == device:
            piece = np.asarray(here[device]).view(bits)[None]
        else:
            piece = np.zeros((1, *copies.shard_shape(shape)[1:]), bits)
        pieces.append(jax.device_put(piece, device))
    stacked = jax.make_array_from_single_device_arrays(shape, copies, pieces)
    return _sum(stacked, leaf.dtype, leaf.sharding)


def _sum(stacked: jax.Array, dtype: Any, sharding: NamedSharding) -> jax.Array:
    def merge(bits):
        total = jnp.sum(bits, axis=0, dtype=bits.dtype)
        if np.issubdtype(dtype, np.bool_):
            return total.astype(dtype)
        return jax.lax.bitcast_convert_type(total, dtype)

    return jax.jit(merge, out_shardings=sharding)(stacked)
