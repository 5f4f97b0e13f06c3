"""Rows and frames of CPU devices: each runs the program for one device on its own ones.

Under jax.shard_map nothing is left to XLA's partitioner, so a network takes the forms that it has
for one device (`active_mesh()` is None), whose loops over small pieces cannot be partitioned.
What crosses time says so by `exchanged`, `own` and `gathered`, which elsewhere do nothing.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from avjax.sharding.activations import active_mesh, num_shards, partition, platform
from avjax.sharding.mesh import SEQUENCE_AXIS


def pays(frames: int) -> bool:
    """Whether `by_device` can be taken, and is for the better: on several CPU devices, without
    split widths, for `frames` that the mesh divides."""
    return (active_mesh() is not None and platform() == "cpu" and num_shards("width") == 1
            and frames % num_shards("time") == 0)


def by_device(function, whole, rows):
    """function(whole, rows), trees of arrays: `whole` on every device, `rows` split by their first
    axis over (data, fsdp) where they divide, like the results. Devices that split time (seq) get
    the same rows, must share the work by `own` and come to the same results."""
    place = partition(jax.tree.leaves(rows)[0].shape[:1], "batch")
    return jax.shard_map(function, in_specs=(PartitionSpec(), place), out_specs=place,
                         check_vma=False)(whole, rows)


def parts() -> int:
    """Over how many devices time is split in `by_device`; 1 elsewhere."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[SEQUENCE_AXIS] if AxisType.Manual in mesh.axis_types else 1


def own(x, axis: int):
    """This device's part of an axis that all have; what does not divide is filled up with its
    last entry."""
    if parts() == 1:
        return x
    size = -(-x.shape[axis] // parts())
    x = jnp.pad(x, [(0, (i == axis) * (size * parts() - n)) for i, n in enumerate(x.shape)], "edge")
    first = size * jax.lax.axis_index(SEQUENCE_AXIS)
    return jax.lax.dynamic_slice_in_dim(x, first, size, axis)


def gathered(x, axis: int, size: int):
    """The `size` entries of the axis of which each device has a part: inverse of `own`."""
    if parts() == 1:
        return x
    x = jax.lax.all_gather(x, SEQUENCE_AXIS, axis=axis, tiled=True)
    return jax.lax.slice_in_dim(x, 0, size, axis=axis)


def exchanged(x, split: int, joined: int):
    """Axis `split` is what each device has a part of from here on, axis `joined` no more."""
    if parts() == 1:
        return x
    return jax.lax.all_to_all(x, SEQUENCE_AXIS, split, joined, tiled=True)
