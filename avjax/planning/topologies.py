"""Slices by name: "v5e:16x16", "h100:8".

A name is CHIP:SHAPE. With TPUs the shape is the slice's grid of chips, with GPUs the number of
cards that NVLink joins (one machine's, or with gb200 a rack's); several slices are joined by the
data-center network (DCN). `stand_ins` are devices without a driver or compiler, with the
coordinates of real ones.
"""

import dataclasses
import itertools
import math
import os

from avjax.errors import UserError
from avjax.hardware.chips import CHIPS, Chip

# every slice of v5e and v6e
FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
LARGEST = {"v4": 4096, "v5p": 6144, "tpu7x": 9216}  # chips of one slice
EXAMPLES = "v4:4x4x4, v5e:16x16, v5p:4x4x8, v6e:8x8, tpu7x:2x2x2, h100:8, gb200:72"

# libtpu without a TPU: query no metadata server, allow several processes, and name some TPU, or it
# fails because there is none.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
         "TPU_ACCELERATOR_TYPE": "v5litepod-4",
         "TPU_WORKER_HOSTNAMES": "localhost"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` equal slices: "v5e:16x16" twice is 512 chips."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def devices_a_slice(self) -> int:
        return math.prod(self.shape) * self.chip.cores

    @property
    def devices(self) -> int:
        return self.devices_a_slice * self.slices

    @property
    def described(self) -> str:
        unit, slices = ("chips", "slices") if self.chip.is_tpu else ("GPUs", "machines")
        if self.chip.joined > self.chip.host:
            slices = "racks"
        one = f"{self.name}, {math.prod(self.shape)} {unit}"
        return one if self.slices == 1 else f"{self.slices} {slices} of {one} each"

    def rings(self) -> tuple[bool, ...]:
        """Which dimensions of a slice's grid are closed."""
        # Optical switches close only cubes of 4 x 4 x 4.
        if self.chip.ring == 4 and any(d % 4 for d in self.shape):
            return (False,) * len(self.shape)
        return tuple(bool(self.chip.ring) and d % self.chip.ring == 0 for d in self.shape)


@dataclasses.dataclass(frozen=True)
class StandIn:
    """The attributes of jax.Device that a mesh needs, for a position in a slice."""

    id: int
    process_index: int
    slice_index: int
    coords: tuple[int, ...]
    core_on_chip: int
    device_kind: str
    platform: str


def parse(name: str, slices: int = 1) -> Topology:
    """The topology of a name. Raises UserError for an unknown chip, or a shape that no slice
    has."""
    chip_name, _, text = name.partition(":")
    chip = CHIPS.get(chip_name)
    if chip is None:
        raise UserError("unknown chip", where=f"topology {name!r}",
                        expected=f"one of {', '.join(CHIPS)}, e.g. {EXAMPLES}",
                        found=repr(chip_name))
    sizes = text.split("x")
    shape = tuple(int(n) for n in sizes) if all(n.isdigit() and int(n) > 0 for n in sizes) else ()
    wrong = wrong_shape(chip, shape)
    if wrong:
        several = not chip.is_tpu and len(shape) == 1 and shape[0] % chip.joined == 0
        raise UserError("there is no such slice", where=f"topology {name!r}", expected=wrong,
                        found=text or "no shape",
                        hint=f"--topology={chip.name}:{chip.joined} "
                        f"--slices={shape[0] // chip.joined}" if several else "")
    if slices < 1:
        raise UserError("not a number of slices", where="slices", expected=">= 1",
                        found=str(slices))
    return Topology(chip, shape, int(slices))


def wrong_shape(chip: Chip, shape: tuple[int, ...]) -> str:
    """The shapes that are expected; "" where the shape is right."""
    if chip.dims == 0:
        whole = {1, 2, 4, *range(chip.host, chip.joined + 1, chip.host)}
        if len(shape) == 1 and shape[0] in whole:
            return ""
        if chip.joined == chip.host:
            return f"1, 2, 4 or {chip.host} GPUs, one machine's; more machines are --slices"
        return (f"1, 2 or a multiple of {chip.host} up to {chip.joined} GPUs, one rack's; more "
                "racks are --slices")
    if chip.dims == 2:
        return "" if shape in FLAT else f"one of {', '.join(f'{a}x{b}' for a, b in FLAT)}"
    good = len(shape) == 3 and all(d in (1, 2) or d % 4 == 0
                                   for d in shape) and shape[0] >= 2 and shape[1] >= 2
    if good and math.prod(shape) <= LARGEST[chip.name]:
        return ""
    return f"AxBxC, each 1, 2 or a multiple of 4, from 2x2x1 to {LARGEST[chip.name]} chips"


def stand_ins(topology: Topology) -> list[StandIn]:
    """Stand-ins, in the order in which JAX numbers real devices."""
    chip = topology.chip
    made: list[StandIn] = []
    platform = "tpu" if chip.is_tpu else "gpu"
    for index in range(topology.slices):
        for place in itertools.product(*(range(d) for d in reversed(topology.shape))):
            coords = (*reversed(place), 0, 0)[:3]
            for core in range(chip.cores):
                made.append(StandIn(len(made), len(made) // chip.host, index, coords, core,
                                    chip.kind, platform))
    return made


def prepare_environment() -> None:
    """Call before JAX is imported: the planner runs on CPU, even where there is an accelerator."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
