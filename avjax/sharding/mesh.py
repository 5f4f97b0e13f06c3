"""The device mesh: four named axes, all of them always present.

data: examples, with replicated parameters. fsdp: examples and parameters. seq: time. tensor: width.
`config.mesh` gives the sizes within a slice, `config.dcn` those across slices; the mesh has their
products.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avjax.errors import UserError
from avjax.sharding.slices import across_slices, device_grid, fill_in

AXES = ("data", "fsdp", "seq", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch's first dimension is split over both
SEQUENCE_AXIS = "seq"
WIDTH_AXIS = "tensor"


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None,
              dcn: Mapping[str, int] | None = None) -> Mesh:
    """A mesh over all `devices` (default: every device of every process). The only way to make one.

    Args:
      sizes: axis name -> number of devices within a slice; missing axes are 1; one axis may be -1,
        "whatever is left".
      dcn: the same across slices, of the axes data and fsdp; -1 = the number of slices. Default:
        one slice.

    Raises:
      UserError: unknown axis, a size below 1, two -1, sizes whose product is not the number of
        devices of a slice, or slices that `dcn` does not account for.
    """
    devices = list(jax.devices() if devices is None else devices)
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise UserError("unknown mesh axis", where=f"config.mesh.{unknown[0]}",
                        expected=", ".join(AXES))
    shape = [int(sizes.get(axis, 1)) for axis in AXES]
    described = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise UserError("mesh axes are not valid", where="config.mesh",
                        expected="sizes >= 1, at most one -1", found=described)
    across = across_slices(dict(dcn or {}), AXES, devices)
    here = len(devices) // math.prod(across)
    found = fill_in(shape, here)
    if found is None:
        raise UserError("the mesh does not divide the devices", where="config.mesh",
                        expected=f"axes whose product is {here}, the number of devices"
                        + (" of a slice" if math.prod(across) > 1 else ""),
                        found=f"{described} (product {math.prod(s for s in shape if s != -1)})",
                        hint="set one axis to -1 to take what is left")
    return Mesh(device_grid(found, across, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the first axis over (data, fsdp): for arrays without a Spec. For a System's batch see
    `batch_shardings`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_partition(spec) -> PartitionSpec:
    """Shards an array of a batch: its first axis over (data, fsdp), its sequence over seq. spec:
    api.Spec."""
    axis = spec.sequence_axis
    if axis is None:
        return PartitionSpec(BATCH_AXES)
    return PartitionSpec(BATCH_AXES, *[None] * (axis - 1), SEQUENCE_AXIS)


def batch_shardings(mesh: Mesh, batch_spec: Mapping, *,
                    time: int | None = None) -> dict[str, NamedSharding]:
    """{name: sharding of that array of a batch}. `time`: the length of axes named "time"
    (config.data.segment).

    Raises:
      UserError: seq > 1 and a sequence does not divide, or there is none (the axis would only
        repeat work).
    """
    parts = mesh.shape[SEQUENCE_AXIS]
    if parts > 1:
        if all(spec.sequence_axis is None for spec in batch_spec.values()):
            raise UserError("no array of the batch has a sequence",
                            where=f"config.mesh.seq={parts}", expected="1",
                            found=", ".join(f"{name} {spec.shape}" for name,
                                            spec in batch_spec.items()),
                            hint="use the data, fsdp or tensor axis")
        for name, spec in batch_spec.items():
            check_sequence(name, spec, parts, time)
    return {name: NamedSharding(mesh, batch_partition(spec)) for name, spec in batch_spec.items()}


def check_sequence(name: str, spec, parts: int, time: int | None) -> None:
    """Raises UserError unless every device gets as many steps of the array's sequence."""
    if spec.sequence_axis is None:
        return
    length, fixed = spec.shape[spec.sequence_axis], True
    if isinstance(length, str):
        length, fixed = time, False
    unit = parts * spec.granularity
    if length is None or length % unit == 0:
        return
    near = [n for n in (length // unit * unit, (length // unit + 1) * unit) if n > 0]
    steps = length // spec.granularity if length % spec.granularity == 0 else 1
    fitting = [str(n) for n in range(1, 65) if steps % n == 0]
    raise UserError("a sequence does not divide over the mesh",
                    where=f"batch[{name!r}], axis {spec.sequence_axis}",
                    expected=f"a multiple of {unit} = config.mesh.seq {parts}"
                    + (f" x {spec.granularity} that stay together" if spec.granularity > 1 else "")
                    + f", for instance {' or '.join(map(str, near))}", found=str(length),
                    hint=f"change "
                    f"{'its length in config.system' if fixed else 'config.data.segment'}, or set "
                    f"config.mesh.seq to one of {', '.join(fitting)}")


def check_batch(batch_size: int, mesh: Mesh, *, accumulate: int = 1,
                where: str = "config.data.batch_size") -> None:
    """Raises UserError unless every device gets as many examples in every micro-batch."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size < 1 or accumulate < 1 or batch_size % (shards * accumulate):
        raise UserError("the batch does not divide", where=where,
                        expected=f"a multiple of {shards * accumulate} = data {mesh.shape['data']} "
                        f"x fsdp {mesh.shape['fsdp']} x config.optimizer.accumulate {accumulate}",
                        found=str(batch_size),
                        hint="change the batch size, the mesh or the micro-batches")


def batch_share(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """(h, n): this process reads share h of n of every batch. Processes whose devices hold the same
    examples (because seq or tensor spans them) read the same share; each keeps its part of the time
    axis.

    Raises:
      UserError: processes hold examples that overlap without being the same.
    """
    process = jax.process_index() if process is None else process
    rows: dict[int, set[int]] = {}
    blocks = mesh.devices.reshape(-1, *mesh.devices.shape[len(BATCH_AXES):])
    for block, devices in enumerate(blocks):
        for device in devices.flat:
            rows.setdefault(device.process_index, set()).add(block)
    shares = sorted({tuple(sorted(of)) for of in rows.values()})
    sizes = {len(share) for share in shares}
    if sum(map(len, shares)) != len(blocks) or len(sizes) > 1:
        raise UserError("processes hold overlapping examples", where="config.mesh",
                        expected="data x fsdp such that two processes hold the same examples or "
                        "different ones",
                        found="; ".join(f"process {p}: blocks {sorted(of)}"
                                        for p, of in sorted(rows.items())[:4]),
                        hint="make data x fsdp a multiple of the processes, or seq x tensor one of "
                        "a process's devices")
    return shares.index(tuple(sorted(rows[process]))), len(shares)


def put_batch(batch: Mapping[str, np.ndarray],
              shardings: NamedSharding | Mapping[str, NamedSharding]) -> dict[str, jax.Array]:
    """This process's share of a batch (see `batch_share`; whole sequences) as global arrays on the
    mesh."""
    def place(name):
        return shardings if isinstance(shardings, NamedSharding) else shardings[name]

    if jax.process_count() == 1:
        return jax.device_put(dict(batch), {name: place(name) for name in batch})
    return {name: _from_share(np.asarray(value), place(name)) for name, value in batch.items()}


def _from_share(share: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array from this process's examples. jax.make_array_from_process_local_data cannot be
    used where seq spans processes: it expects each to have only its piece of the time axis."""
    _, count = batch_share(sharding.mesh)
    shape = (len(share) * count, *share.shape[1:])
    pieces = sharding.addressable_devices_indices_map(shape)
    starts = sorted({index[0].indices(shape[0])[0] for index in pieces.values()})
    rows = sharding.shard_shape(shape)[0]

    def piece(index):
        first = starts.index(index[0].indices(shape[0])[0]) * rows
        return share[(slice(first, first + rows), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, piece)
