"""XLA:TPU, which is in libtpu: where it is installed, whether this JAX reads what it compiles, and
its compile-only devices."""

import importlib.metadata
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

from avjax.errors import UserError
from avjax.hosts.peers import first_line
from avjax.planning.topologies import ALONE, Topology


class XlaTpu:
    """See compilers.Compiler. path: of libtpu.so."""

    name = "XLA:TPU"
    options: dict[str, bool | int | str] = {}
    # Half of what a core's kernels may use of its own memory: XLA compiles the smaller tiles in
    # less than half of the time. A quarter is too little for splash attention.
    hurried: dict[str, bool | int | str] = {"xla_tpu_scoped_vmem_limit_kib": "8192"}

    def __init__(self, path: str):
        self.path = path

    def devices(self, topology: Topology) -> list[Any]:
        os.environ["TPU_LIBRARY_PATH"] = self.path
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
        from jax.experimental import topologies

        options: dict[str, Any] = ({"chip_config_name": "megacore"} if topology.chip.name == "v4"
                                   else {})
        if math.prod(topology.shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if topology.slices > 1:
            options["num_slices"] = topology.slices
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name,
                                                 **options).devices)

    def remark(self) -> str:
        """About a libtpu for which this JAX is not built."""
        other = other_version(self.path)
        return f"by {other}: memory may differ (docs/scale.md)" if other else ""

    def unreadable(self, error: Exception) -> UserError | None:
        other = other_version(self.path)
        if not other:
            return None
        return UserError("XLA:TPU's program cannot be read", where=self.path,
                         found=f"{other}: {first_line(error)}", expected=f"libtpu {wanted()}",
                         hint=f"pip install --no-deps --target=FOLDER 'libtpu=={wanted()}' "
                         "and --libtpu=FOLDER, "
                         "or --no_compile")


def find(path: str = "") -> str | None:
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


def version(path: str) -> str:
    """The version of a libtpu.so, by the metadata of its package; "" = unknown."""
    found = sorted(Path(path).parents[1].glob("libtpu-*.dist-info"))
    return found[-1].name.removeprefix("libtpu-").removesuffix(".dist-info") if found else ""


def wanted() -> str:
    """The version for which the installed JAX is built, by its metadata, e.g. "0.0.42.*"; "" =
    unknown."""
    found = (re.match(r"libtpu\s*==\s*([\w.*]+)", text)
             for text in importlib.metadata.requires("jax") or ())
    return next((match.group(1) for match in found if match), "")


def other_version(path: str) -> str:
    """A remark about a libtpu for which this JAX is not built; "" for its own."""
    here, needed = version(path), wanted()
    if not needed or here == needed or here.startswith(needed.removesuffix("*")):
        return ""
    jax_version = importlib.metadata.version("jax")
    return (f"libtpu {here or 'of unknown version'}, where jax {jax_version} reads the programs "
            f"of libtpu {needed}")
