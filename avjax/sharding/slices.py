"""How devices are laid out as a mesh: within a slice by the fast interconnect, across slices by the
slow one (DCN).

A slice is what the platform says it is (`slice_index`: a TPU slice; of GPUs the machines that
NVLink joins). Where it knows of one only, apart from TPUs, every process stands for a slice: so it
is on CPU.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from avjax.errors import UserError

# what may span slices: gradients and gathered parameters, a few times a step
DCN_AXES = ("data", "fsdp")


def told(devices: Sequence[jax.Device]) -> bool:
    """Whether slices are the platform's, not processes."""
    return devices[0].platform == "tpu" or len({getattr(device, "slice_index", None)
                                                for device in devices}) > 1


def slices(devices: Sequence[jax.Device]) -> dict[int, list[jax.Device]]:
    """{slice: its devices}."""
    found: dict[int, list] = {}
    for device in devices:
        found.setdefault(getattr(device, "slice_index", 0) if told(devices)
                         else device.process_index, []).append(device)
    return found


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, str] | None:
    """What XLA:TPU is told for a program on these devices (bytes are of its own programs, libtpu
    0.0.42).

    Gathered weights are multiplied whole: by default products over fsdp are cut into as many as
    there are devices, each reading and writing its sum again (Talker on v5e:4x4: 544 GB of memory
    traffic a step, instead of 235). Between slices
    gradients are summed a few at once: by default they cross one by one (AV-Flow: 126 transfers of
    10.6 MB in all, instead of 18 of 0.6).
    """
    if devices[0].platform != "tpu" or len(devices) == 1:
        return None
    options = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
    if len(slices(devices)) > 1:
        options["xla_tpu_dcn_all_reduce_combiner_threshold_bytes"] = str(2**30)
    return options


def filled(sizes: Sequence[int], total: int) -> list[int] | None:
    """`sizes` with -1 replaced so that their product is `total`; None where that cannot be."""
    fixed = math.prod(size for size in sizes if size != -1)
    if total % fixed or (-1 not in sizes and fixed != total):
        return None
    return [total // fixed if size == -1 else size for size in sizes]


def device_grid(shape: Sequence[int], across: Sequence[int],
                devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices as an array of shape x across, the slices outermost on every axis.

    Args:
      shape: sizes within a slice; their product is a slice's number of devices.
      across: sizes across slices, of as many axes; their product is the number of slices, or 1.
    """
    if math.prod(across) == 1:
        return _with_splits(lambda **kw: mesh_utils.create_device_mesh(shape, devices,
                                                                       **kw)) if len(
                                                                           devices) > 1 else \
            np.asarray(devices).reshape(shape)
    return _with_splits(lambda **kw: mesh_utils.create_hybrid_device_mesh(shape, across, devices,
                                                                          process_is_granule=not told(devices), **kw))


def _with_splits(make):
    """Logical axes that need part of a physical one (v5e 4 x 4 as 8 x 2) are only tried when whole
    ones do not do."""
    try:
        return make()
    except NotImplementedError:
        return make(allow_split_physical_axes=True)


def across_slices(sizes: dict[str, int], axes: Sequence[str],
                  devices: Sequence[jax.Device]) -> list[int]:
    """Sizes across slices for `axes`, from config.dcn. UserError as `make_mesh` says."""
    unknown = sorted(set(sizes) - set(DCN_AXES))
    if unknown:
        raise UserError("not an axis across slices", where=f"config.dcn.{unknown[0]}",
                        expected=", ".join(DCN_AXES), hint="seq and tensor talk in every layer: "
                                                           "keep them within a slice, in "
                                                           "config.mesh")
    wanted = [int(sizes.get(axis, 1)) for axis in axes]
    described = ", ".join(f"{axis}={sizes[axis]}" for axis in DCN_AXES if axis in sizes)
    if any(size < 1 and size != -1 for size in wanted) or wanted.count(-1) > 1:
        raise UserError("axes across slices are not valid", where="config.dcn",
                        expected="sizes >= 1, at most one -1",
                        found=described)
    groups = slices(devices)
    if wanted == [1] * len(wanted) and not told(devices):
        return wanted  # processes of one slice
    found = filled(wanted, len(groups))
    if found is None:
        raise UserError("the slices do not fit", where="config.dcn",
                        found=described or "data=1, fsdp=1",
                        expected=f"axes whose product is {len(groups)}, the number of "
                        + ("slices" if told(devices) else "processes"),
                        hint="config.dcn.data=-1 takes all of them")
    if len({len(group) for group in groups.values()}) > 1:
        raise UserError("slices of different sizes", where="devices",
                        expected="as many devices in each",
                        found=", ".join(f"slice {i}: {len(group)}" for i,
                                        group in sorted(groups.items())))
    return found
