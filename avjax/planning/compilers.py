"""XLA's compilers for accelerators that are not here: which of them are installed, the devices that
they compile for, and what they must be told without any.

XLA:TPU is avjax.planning.libtpu, XLA:GPU is avjax.planning.xla_gpu.
"""

from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from avjax.errors import UserError
from avjax.hardware.chips import Chip
from avjax.planning import libtpu, xla_gpu
from avjax.planning.topologies import Topology


class Compiler(Protocol):
    """A compiler for the chips of a topology.

    Attributes:
      name: e.g. "XLA:TPU".
      options: of XLA, without which it does not compile where there is no device.
      hurried: options beside them that compile faster, for a slower program.
    """

    name: str
    options: dict[str, bool | int | str]
    hurried: dict[str, bool | int | str]

    def devices(self, topology: Topology) -> list[Any]:
        """Compile-only devices, in the order of `topologies.stand_ins`."""
        ...

    def remark(self) -> str:
        """What a user must know about its version; "" = nothing."""
        ...

    def unreadable(self, error: Exception) -> UserError | None:
        """What to do about a failure of this compiler; None where it is a defect of ours."""
        ...


EXTRAS = {"XLA:TPU": "aot", "XLA:GPU": "aot-gpu"}


def name_for(chip: Chip) -> str:
    """Of the compiler that a chip needs."""
    return "XLA:TPU" if chip.is_tpu else "XLA:GPU"


def find(chip: Chip, libtpu_path: str = "") -> Compiler | None:
    """The installed compiler for a chip; None where there is none. Raises UserError for one that
    the installed JAX cannot use."""
    if chip.is_tpu:
        path = libtpu.find(libtpu_path)
        return libtpu.XlaTpu(path) if path else None
    return xla_gpu.find()


def on_devices(mesh: Mesh, devices: list[Any]) -> Mesh:
    """The mesh of stand-ins over devices of the same numbers."""
    placed = np.asarray(devices, dtype=object)[np.vectorize(lambda d: d.id)(mesh.devices)]
    return Mesh(placed, mesh.axis_names, axis_types=mesh.axis_types)
