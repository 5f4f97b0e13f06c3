"""Sharding of activations, stated where a network is written: the counterpart of the parameters'
rules.

`shard(x, "batch", "time", None)` constrains the axes of an array; XLA's partitioner finds the rest.
Places:
    batch  over (data, fsdp)      time  over seq      width  over tensor (heads, hidden units)
    rows   over all three of (data, fsdp, seq): batch and time folded by `fold_frames`
Without a mesh, or with one device, nothing is constrained.

Suffixes: B batch, F frames (a time axis), N = B F folded.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from avjax.sharding.mesh import AXES, BATCH_AXES, SEQUENCE_AXIS, WIDTH_AXIS

PLACES = {"batch": BATCH_AXES, "time": (SEQUENCE_AXIS,), "width": (WIDTH_AXIS,),
          "rows": (*BATCH_AXES, SEQUENCE_AXIS)}
UNCONSTRAINED = PartitionSpec.UNCONSTRAINED  # as a place: the partitioner's choice


def active_mesh():
    """The mesh that the network is compiled for (jax.set_mesh); None where nothing is to shard."""
    mesh = jax.sharding.get_abstract_mesh()
    if (mesh.empty or mesh.axis_names != AXES or mesh.size == 1
            or AxisType.Manual in mesh.axis_types):
        return None
    return mesh


def platform() -> str:
    """"cpu", "gpu" or "tpu": of the mesh's devices (jax.set_mesh), for which a program may be
    compiled without them; else this process's."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def num_shards(place: str) -> int:
    """Over how many devices a place is sharded; 1 without a mesh."""
    mesh = active_mesh()
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in PLACES[place])


def axes_for(size: int, place: str | None) -> tuple[str, ...]:
    """The mesh axes of a place that divide `size`, outer axes first. In training all of them do
    (batches and parameters are checked); batches and lengths of evaluation may not, and then work
    is repeated."""
    mesh = active_mesh()
    taken: list[str] = []
    product = 1
    for axis in PLACES[place] if place and mesh is not None else ():
        if size % (product * mesh.shape[axis]) == 0:
            taken.append(axis)
            product *= mesh.shape[axis]
    return tuple(taken)


def partition(shape: tuple[int, ...], *places: str | None) -> PartitionSpec:
    """The PartitionSpec of an array from the places of its axes; None = not sharded."""
    return PartitionSpec(*(place if place is UNCONSTRAINED else axes_for(size, place) or None
                           for size, place in zip(shape, places, strict=False)))


def shard(x, *places: str | None):
    """Constrains x to the places of its axes; trailing axes without one are not sharded."""
    if active_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition(x.shape, *places))


def fold_frames(x_BF):
    """(B, F, ...) -> (B F, ...), within each device's part of both axes, so that no data moves.
    Where the time axis is sharded, rows are ordered by device; `unfold_frames` undoes that."""
    (B, F), rest = x_BF.shape[:2], x_BF.shape[2:]
    b, f = _split(B, F)
    if f == 1:
        return x_BF.reshape(B * F, *rest)
    x = shard(x_BF, "batch", "time", *[UNCONSTRAINED] * len(rest))
    x = x.reshape(b, B // b, f, F // f, *rest).swapaxes(1, 2)
    return shard(x.reshape(B * F, *rest), "rows", *[UNCONSTRAINED] * len(rest))


def unfold_frames(x_N, batch: int):
    """Inverse of `fold_frames`: (B F, ...) -> (B, F, ...)."""
    (N, *rest), B = x_N.shape, batch
    b, f = _split(B, N // B)
    if f == 1:
        return x_N.reshape(B, N // B, *rest)
    x = shard(x_N, "rows", *[UNCONSTRAINED] * len(rest))
    x = x.reshape(b, f, B // b, N // B // f, *rest).swapaxes(1, 2)
    return shard(x.reshape(B, N // B, *rest), "batch", "time", *[UNCONSTRAINED] * len(rest))


def each_frame(x_B, frames: int):
    """(B, ...) -> (B F, ...): repeats every entry for each of its frames, in the order of
    `fold_frames`."""
    return fold_frames(jnp.broadcast_to(x_B[:, None], (x_B.shape[0], frames, *x_B.shape[1:])))


def _split(B: int, F: int) -> tuple[int, int]:
    mesh = active_mesh()
    if mesh is None:
        return 1, 1
    return tuple(math.prod(mesh.shape[axis] for axis in axes_for(size, place))
                 for size, place in ((B, "batch"), (F, "time")))
