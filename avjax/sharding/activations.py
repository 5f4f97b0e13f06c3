"""Where activations lie on the mesh: the counterpart of the parameters' rules, said where a network
is written.

`shard(x, "batch", "time", None)` pins an array's axes; the partitioner of XLA finds the rest.
Places:
    batch  over (data, fsdp)      time  over seq      width  over tensor (heads, hidden units)
    rows   over all three of (data, fsdp, seq): batch and time folded by `fold_frames`
Without a mesh, or with one device, nothing happens, so that one-device programs are what they were.

Suffixes: B batch, F frames (a time axis), N = B F folded.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from avjax.sharding.mesh import AXES, BATCH_AXES, SEQUENCE_AXIS, WIDTH_AXIS

PLACES = {"batch": BATCH_AXES, "time": (SEQUENCE_AXIS,), "width": (WIDTH_AXIS,),
          "rows": (*BATCH_AXES, SEQUENCE_AXIS)}


FREE = PartitionSpec.UNCONSTRAINED  # as a place: the partitioner's choice


def active_mesh():
    """The mesh that the network is being compiled for (jax.set_mesh), or None where there is
    nothing to lay out."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.axis_names != AXES or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return None
    return mesh


def parts(place: str) -> int:
    """Over how many devices a place is split; 1 without a mesh."""
    mesh = active_mesh()
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in PLACES[place])


def axes_for(size: int, place: str | None) -> tuple[str, ...]:
    """The mesh axes of a place that divide `size`, the outer ones first. What is trained on divides
    by all of them (batches and parameters are checked); only evaluation has batches and lengths
    that do not, and then repeats work."""
    mesh, taken, product = active_mesh(), [], 1
    for axis in PLACES[place] if place and mesh is not None else ():
        if size % (product * mesh.shape[axis]) == 0:
            taken.append(axis)
            product *= mesh.shape[axis]
    return tuple(taken)


def partition(shape: tuple[int, ...], *places: str | None) -> PartitionSpec:
    """The placement of an array whose axes are given places; axes without one are whole."""
    return PartitionSpec(*(place if place is FREE else axes_for(size, place) or None
                           for size, place in zip(shape, places, strict=False)))


def shard(x, *places: str | None):
    """x, pinned to its places; trailing axes without one are whole."""
    if active_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition(x.shape, *places))


def fold_frames(x_BF):
    """(B, F, ...) -> (B F, ...), each device its own part of both axes: no array moves. The order
    of rows is the devices', so only `unfold_frames` knows which is which; without a split time axis
    it is the plain one."""
    (B, F), rest = x_BF.shape[:2], x_BF.shape[2:]
    b, f = _split(B, F)
    if f == 1:
        return x_BF.reshape(B * F, *rest)
    x = shard(x_BF, "batch", "time", *[FREE] * len(rest)).reshape(b, B // b, f, F // f,
                                                                  *rest).swapaxes(1, 2)
    return shard(x.reshape(B * F, *rest), "rows", *[FREE] * len(rest))


def unfold_frames(x_N, batch: int):
    """Inverse of `fold_frames`: (B F, ...) -> (B, F, ...)."""
    (N, *rest), B = x_N.shape, batch
    b, f = _split(B, N // B)
    if f == 1:
        return x_N.reshape(B, N // B, *rest)
    x = shard(x_N, "rows", *[FREE] * len(rest)).reshape(b, f, B // b, N // B // f,
                                                        *rest).swapaxes(1, 2)
    return shard(x.reshape(B, N // B, *rest), "batch", "time", *[FREE] * len(rest))


def each_frame(x_B, frames: int):
    """(B, ...) -> (B F, ...): every entry once for each of its frames, in the order of
    `fold_frames`."""
    return fold_frames(jnp.broadcast_to(x_B[:, None], (x_B.shape[0], frames, *x_B.shape[1:])))


def _split(B: int, F: int) -> tuple[int, int]:
    mesh = active_mesh()
    if mesh is None:
        return 1, 1
    return tuple(math.prod(mesh.shape[axis] for axis in axes_for(size, place))
                 for size, place in ((B, "batch"), (F, "time")))
