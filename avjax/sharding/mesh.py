"""The device mesh: four named axes, always all present, so that rules and configs never ask which ones exist.

data: examples, parameters replicated. fsdp: examples and parameters. seq: time. tensor: width.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avjax.errors import UserError

AXES = ("data", "fsdp", "seq", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch's first dimension is split over both


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all `devices` (default: every device of every process).

    Args:
      sizes: axis name -> number of devices; missing axes are 1; one axis may be -1, "whatever is left".

    Raises:
      UserError: unknown axis, a size below 1, two -1, or sizes whose product is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    given = dict(sizes)
    unknown = sorted(set(given) - set(AXES))
    if unknown:
        raise UserError("unknown mesh axis", where=f"config.mesh.{unknown[0]}", expected=", ".join(AXES))
    shape = [int(given.get(axis, 1)) for axis in AXES]
    described = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise UserError("mesh axes are not valid", where="config.mesh", expected="sizes >= 1, at most one -1",
                        found=described)
    fixed = math.prod(size for size in shape if size != -1)
    if len(devices) % fixed or (-1 not in shape and fixed != len(devices)):
        raise UserError("the mesh does not divide the devices", where="config.mesh",
                        expected=f"axes whose product is {len(devices)}, the number of devices",
                        found=f"{described} (product {fixed})", way_out="set one axis to -1 to take what is left")
    shape = [len(devices) // fixed if size == -1 else size for size in shape]
    if len(devices) == 1:
        return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How every array of a batch lies on the mesh: examples over (data, fsdp), the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size: int, mesh: Mesh, *, accumulate: int = 1, where: str = "config.data.batch_size") -> None:
    """UserError unless every device gets the same number of examples in every micro-batch."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size < 1 or accumulate < 1 or batch_size % (shards * accumulate):
        raise UserError("the batch does not divide", where=where,
                        expected=f"a multiple of {shards * accumulate} = data {mesh.shape['data']} x fsdp "
                                 f"{mesh.shape['fsdp']} x config.optimizer.accumulate {accumulate}",
                        found=str(batch_size), way_out="change the batch size, the mesh or the micro-batches")


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's share of a batch (its own examples only) as global arrays on the mesh."""
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
