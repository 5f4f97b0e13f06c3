"""Slices by name: "v5e:16x16", "h100:8".

A name is CHIP:SHAPE. With TPUs the shape is the slice's grid of chips, with GPUs the number of
cards in one machine; several slices are joined by the data-center network (DCN). Where libtpu is at
hand, `slice_devices` gives compile-only devices of the real topology, else stand-ins with the same
coordinates.
"""

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import math
import os
import re
from pathlib import Path
from typing import Any

from avjax.errors import UserError
from avjax.hardware.chips import CHIPS, Chip

# every slice of v5e and v6e
FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
LARGEST = {"v4": 4096, "v5p": 6144, "tpu7x": 9216}  # chips of one slice
EXAMPLES = "v4:4x4x4, v5e:16x16, v5p:4x4x8, v6e:8x8, tpu7x:2x2x2, h100:8"


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
        unit = "chips" if self.chip.is_tpu else "GPUs"
        one = f"{self.name}, {math.prod(self.shape)} {unit}"
        return one if self.slices == 1 else f"{self.slices} slices of {one} each"

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
    wrong = _wrong_shape(chip, shape)
    if wrong:
        raise UserError("there is no such slice", where=f"topology {name!r}", expected=wrong,
                        found=text or "no shape")
    if slices < 1:
        raise UserError("not a number of slices", where="slices", expected=">= 1",
                        found=str(slices))
    return Topology(chip, shape, int(slices))


def _wrong_shape(chip: Chip, shape: tuple[int, ...]) -> str:
    """The shapes that are expected; "" where the shape is right."""
    if chip.dims == 0:
        good = len(shape) == 1 and (shape[0] in (1, 2, 4) or shape[0] == chip.host)
        return ("" if good else f"1, 2, 4 or {chip.host} GPUs, one machine's; more machines are "
                                "--slices")
    if chip.dims == 2:
        return "" if shape in FLAT else f"one of {', '.join(f'{a}x{b}' for a, b in FLAT)}"
    good = len(shape) == 3 and all(d in (1, 2) or d % 4 == 0
                                   for d in shape) and shape[0] >= 2 and shape[1] >= 2
    if good and math.prod(shape) <= LARGEST[chip.name]:
        return ""
    return f"AxBxC, each 1, 2 or a multiple of 4, from 2x2x1 to {LARGEST[chip.name]} chips"


def find_libtpu(path: str = "") -> str | None:
    """Finds libtpu.so: at `path` (a file or folder), else by the variables AVJAX_LIBTPU and
    TPU_LIBRARY_PATH, else in the installed package; None where there is none. Raises UserError
    where a path has none."""
    variables = {name: os.environ.get(name, "") for name in ("AVJAX_LIBTPU", "TPU_LIBRARY_PATH")}
    for where, text in {"--libtpu": path, **variables}.items():
        if text:
            place = Path(text)
            tried = [place, place / "libtpu.so", place / "libtpu" / "libtpu.so"]
            found = next((str(p) for p in tried if p.is_file()), None)
            if found is None:
                raise UserError("no libtpu there", where=f"{where}={text}",
                                expected="libtpu.so or the folder it was installed to")
            return found
    spec = importlib.util.find_spec("libtpu")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "libtpu.so"
    return str(path) if path.is_file() else None


def libtpu_version(path: str) -> str:
    """The version of a libtpu.so, by the metadata of its package; "" = unknown."""
    found = sorted(Path(path).parents[1].glob("libtpu-*.dist-info"))
    return found[-1].name.removeprefix("libtpu-").removesuffix(".dist-info") if found else ""


def libtpu_wanted() -> str:
    """The version for which the installed JAX is built, by its metadata, e.g. "0.0.42.*"; "" =
    unknown."""
    found = (re.match(r"libtpu\s*==\s*([\w.*]+)", text)
             for text in importlib.metadata.requires("jax") or ())
    return next((match.group(1) for match in found if match), "")


def other_libtpu(path: str) -> str:
    """A remark about a libtpu for which this JAX is not built; "" for its own."""
    version, wanted = libtpu_version(path), libtpu_wanted()
    if not wanted or version == wanted or version.startswith(wanted.removesuffix("*")):
        return ""
    jax_version = importlib.metadata.version("jax")
    return (f"libtpu {version or 'of unknown version'}, where jax {jax_version} reads the programs "
            f"of libtpu {wanted}")


# libtpu without a TPU: query no metadata server, allow several processes, and name some TPU, or it
# fails because there is none.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
         "TPU_ACCELERATOR_TYPE": "v5litepod-4",
         "TPU_WORKER_HOSTNAMES": "localhost"}


def prepare_environment() -> None:
    """Call before JAX is imported: the planner runs on CPU, even where there is a TPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)


def slice_devices(topology: Topology, *, libtpu: str | None = None) -> list[Any]:
    """The devices of all slices: XLA:TPU's compile-only devices for TPUs with `libtpu`, else
    stand-ins."""
    if libtpu is None or not topology.chip.is_tpu:
        return stand_ins(topology)
    os.environ["TPU_LIBRARY_PATH"] = libtpu
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name,
                                             **options).devices)


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
