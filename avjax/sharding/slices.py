"""The order of devices in a mesh: within a slice by the fast interconnect, across slices by the
slow one (DCN).

The platform tells what a slice is (`slice_index`: a TPU slice, or GPU machines joined by NVLink).
Where it tells of one only, except on TPUs, every process counts as a slice, as on CPU.
"""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from avjax.errors import UserError

# Axes that may span slices: gradients and gathered parameters are sent a few times a step.
DCN_AXES = ("data", "fsdp")


def has_slice_index(devices: Sequence[jax.Device]) -> bool:
    """Whether slices are the platform's, not processes."""
    indices = {getattr(device, "slice_index", None) for device in devices}
    return devices[0].platform == "tpu" or len(indices) > 1


def devices_by_slice(devices: Sequence[jax.Device]) -> dict[int, list[jax.Device]]:
    """{slice: its devices}."""
    by_platform = has_slice_index(devices)
    found: dict[int, list] = {}
    for device in devices:
        index = getattr(device, "slice_index", 0) if by_platform else device.process_index
        found.setdefault(index, []).append(device)
    return found


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, str] | None:
    """XLA:TPU's options for a program on these devices (sizes measured on its programs, libtpu
    0.0.42).

    Gathered weights are multiplied at once: by default a product over fsdp is split into one per
    device, each of which reads and writes the sum again (Talker on v5e:4x4: 544 GB of memory
    traffic a step, instead of 235). Between slices several gradients are summed at once: by default
    they cross one by one (AV-Flow: 126 transfers of 10.6 MB in all, instead of 18 of 0.6).
    """
    if devices[0].platform != "tpu" or len(devices) == 1:
        return None
    options = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
    if len(devices_by_slice(devices)) > 1:
        options["xla_tpu_dcn_all_reduce_combiner_threshold_bytes"] = str(2**30)
    return options


def fill_in(sizes: Sequence[int], total: int) -> list[int] | None:
    """`sizes` with -1 replaced so that their product is `total`; None where that is impossible."""
    fixed = math.prod(size for size in sizes if size != -1)
    if total % fixed or (-1 not in sizes and fixed != total):
        return None
    return [total // fixed if size == -1 else size for size in sizes]


def device_grid(shape: Sequence[int], across: Sequence[int],
                devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices as an array of shape `shape` x `across`, with slices outermost on every axis.

    Args:
      shape: sizes within a slice; their product is a slice's number of devices.
      across: sizes across slices, of as many axes; their product is the number of slices, or 1.
    """
    if len(devices) == 1:
        return np.asarray(devices).reshape(shape)
    if math.prod(across) == 1:
        make = functools.partial(mesh_utils.create_device_mesh, shape, devices)
    else:
        make = functools.partial(mesh_utils.create_hybrid_device_mesh, shape, across, devices,
                                 process_is_granule=not has_slice_index(devices))
    try:
        return make()
    except NotImplementedError:  # an axis needs part of a physical one: v5e 4 x 4 as 8 x 2
        return make(allow_split_physical_axes=True)


def across_slices(sizes: dict[str, int], axes: Sequence[str],
                  devices: Sequence[jax.Device]) -> list[int]:
    """Sizes across slices for `axes`, from config.dcn. Raises UserError, see `make_mesh`."""
    unknown = sorted(set(sizes) - set(DCN_AXES))
    if unknown:
        raise UserError("not an axis across slices", where=f"config.dcn.{unknown[0]}",
                        expected=", ".join(DCN_AXES), hint="seq and tensor talk in every layer: "
                        "keep them within a slice, in config.mesh")
    wanted = [int(sizes.get(axis, 1)) for axis in axes]
    described = ", ".join(f"{axis}={sizes[axis]}" for axis in DCN_AXES if axis in sizes)
    if any(size < 1 and size != -1 for size in wanted) or wanted.count(-1) > 1:
        raise UserError("axes across slices are not valid", where="config.dcn",
                        expected="sizes >= 1, at most one -1", found=described)
    groups = devices_by_slice(devices)
    if wanted == [1] * len(wanted) and not has_slice_index(devices):
        return wanted  # processes of one slice
    found = fill_in(wanted, len(groups))
    if found is None:
        raise UserError("the slices do not fit", where="config.dcn",
                        found=described or "data=1, fsdp=1",
                        expected=f"axes whose product is {len(groups)}, the number of "
                        + ("slices" if has_slice_index(devices) else "processes"),
                        hint="config.dcn.data=-1 takes all of them")
    if len({len(group) for group in groups.values()}) > 1:
        raise UserError("slices of different sizes", where="devices",
                        expected="as many devices in each",
                        found=", ".join(f"slice {i}: {len(group)}"
                                        for i, group in sorted(groups.items())))
    return found
