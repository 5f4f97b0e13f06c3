"""The answer of the planner: memory, arithmetic and communication of one batch on one mesh."""

import dataclasses
from collections.abc import Mapping

from jax.sharding import AbstractMesh, AxisType

from avjax.planning.collectives import Collective
from avjax.planning.roofline import Roofline
from avjax.planning.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The step as XLA compiled it. Bytes are of one device.

    Attributes:
      arguments: bytes of state and batch.
      peak: arguments, temporaries and code; results replace the state.
      seconds: to compile.
      kernels: kind -> launches a step, see avjax.planning.kernels.
    """

    arguments: int
    temporaries: int
    code: int
    peak: int
    seconds: float
    collectives: list[Collective]
    kernels: dict[str, int]
    roofline: Roofline


@dataclasses.dataclass(frozen=True)
class Plan:
    """One batch on one mesh.

    Attributes:
      mesh: axis -> size, over all slices.
      table: rows of (parameter, how many are alike, shape, axes of each dimension, bytes of all,
        bytes on a device).
      memory: planner.PARTS -> bytes on a device, from shapes.
      flops: of a step.
      expected: the roofline by shapes.
      compiled: None where no compiler was asked, or it ran out of memory.
      compiler: which one compiled it, or tried, e.g. "XLA:TPU"; "" = none.
      needed: bytes on a device, by the compiler if there is one (of a program that does not fit
        perhaps only its temporaries), else from shapes.
      largest_batch: that fits this mesh, by the estimate and, if compiled, corrected by it; 0 =
        none.
    """

    topology: Topology
    mesh: dict[str, int]
    batch: int
    table: list[tuple[str, int, tuple[int, ...], tuple, int, int]]
    memory: dict[str, int]
    flops: int
    expected: Roofline
    compiled: Compiled | None
    compiler: str
    needed: int
    largest_batch: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.topology.chip.hbm

    @property
    def roofline(self) -> Roofline:
        return self.compiled.roofline if self.compiled else self.expected


class TooLarge(Exception):
    """XLA ran out of memory. needed: bytes on a device, or of the temporaries only; 0 =
    unknown."""

    def __init__(self, needed: int):
        super().__init__(f"{needed / 2**30:.2f} GiB")
        self.needed = needed


def abstract_mesh_of(sizes: Mapping[str, int]) -> AbstractMesh:
    """A mesh without devices, for shardings of shapes. sizes: axis -> size."""
    return AbstractMesh(tuple(sizes.values()), tuple(sizes),
                        axis_types=(AxisType.Auto,) * len(sizes))


def mesh_text(sizes: Mapping[str, int]) -> str:
    """E.g. "data=2 fsdp=4"."""
    return " ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or "one device"
