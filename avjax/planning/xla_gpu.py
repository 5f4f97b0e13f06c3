"""XLA:GPU, which is in JAX's CUDA plugin: whether it is installed and fits this JAX, what describes
a card to it, and its compile-only devices."""

import dataclasses
import importlib.metadata
import importlib.util
from typing import Any

from avjax.errors import UserError
from avjax.planning.topologies import Topology

PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")
INSTALL = ("pip install --no-deps jax-cuda13-plugin=={0} jax-cuda13-pjrt=={0} "
           "nvidia-cudnn-cu13, or 'avjax[aot-gpu]'")


@dataclasses.dataclass(frozen=True)
class Card:
    """What XLA:GPU asks about a card (GpuTargetConfigProto), as NVIDIA's driver reports it.

    Attributes:
      capability: CUDA's, (major, minor).
      cores: streaming multiprocessors.
      units: floating-point units of a core.
      shared: bytes of shared memory of a core; optin: that one block may ask for.
      cache: bytes of L2.
      clock: GHz.
      memory: bytes.
      rate: of memory, bytes a second.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    units: int
    shared: int
    optin: int
    cache: int
    clock: float
    memory: int
    rate: int

    def text(self, cudnn: tuple[int, ...]) -> str:
        """As a text proto. cudnn: its version."""
        major, minor = self.capability
        # "accelerated" instructions are those that a card of this very capability has
        extension = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
        library = " ".join(f"{name}: {n}" for name, n in zip(("major", "minor", "patch"), cudnn,
                                                             strict=False))
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              shared_memory_per_block: 49152 shared_memory_per_core: {self.shared}
              shared_memory_per_block_optin: {self.optin}
              core_count: {self.cores} fpus_per_core: {self.units} clock_rate_ghz: {self.clock}
              memory_bandwidth: {self.rate} l2_cache_size: {self.cache}
              device_memory_size: {self.memory}
              cuda_compute_capability {{
                major: {major} minor: {minor} feature_extension: {extension} }}
            }}
            platform_name: "CUDA" device_description_str: "{self.kind}"
            dnn_version_info {{ {library} }} runtime_version {{ major: 13 minor: 0 patch: 0 }}"""


_HOPPER = dict(capability=(9, 0), cores=132, units=128, shared=233472, optin=232448, cache=52428800,
               clock=1.98)
_BLACKWELL = dict(capability=(10, 0), units=128, shared=233472, optin=232448)
CARDS = {
    "a100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41,
                 85100068864, 2039040000000),
    "h100": Card("NVIDIA H100 80GB HBM3", memory=84942979072, rate=3352320000000, **_HOPPER),
    "h200": Card("NVIDIA H200", memory=151397597184, rate=4800000000000, **_HOPPER),
    "b200": Card("NVIDIA B200", cores=148, cache=132644864, clock=1.965, memory=191514411008,
                 rate=7672320000000, **_BLACKWELL),
    "gb200": Card("NVIDIA GB200", cores=152, cache=135528448, clock=2.062, memory=197897748480,
                  rate=7928064000000, **_BLACKWELL),
}


class XlaGpu:
    """See compilers.Compiler. cudnn: the version of NVIDIA's library of networks."""

    name = "XLA:GPU"
    # Kernels cannot be timed without a card; untimed, XLA's Triton products fail to compile where
    # they find no tiles (jax 0.10.2), and cuBLAS' are taken instead.
    options: dict[str, bool | int | str] = {"xla_gpu_autotune_level": 0,
                                            "xla_gpu_enable_triton_gemm": False}
    hurried: dict[str, bool | int | str] = {}

    def __init__(self, cudnn: tuple[int, ...]):
        self.cudnn = cudnn

    def devices(self, topology: Topology) -> list[Any]:
        from jax.experimental import topologies

        chip = topology.chip
        hosts = max(topology.devices_a_slice // chip.host, 1)
        shape = topology.slices, hosts, topology.devices_a_slice // hosts
        made = topologies.get_topology_desc(platform="cuda", topology="x".join(map(str, shape)),
                                            target_config=CARDS[chip.name].text(self.cudnn))
        return list(made.devices)

    def remark(self) -> str:
        told = " ".join(f"--{name}={str(value).lower()}" for name, value in self.options.items())
        return f"XLA:GPU compiles without a card: {told} (docs/scale.md)"

    def unreadable(self, error: Exception) -> UserError | None:
        return None


def find() -> XlaGpu | None:
    """The installed XLA:GPU; None where there is none. Raises UserError for one of another version
    than JAX's, or without cuDNN."""
    versions = {name: _version(name) for name in PLUGINS}
    plugin = next((name for name, version in versions.items() if version), None)
    if plugin is None:
        return None
    needed = importlib.metadata.version("jaxlib")
    if versions[plugin] != needed:
        raise UserError("XLA:GPU does not belong to this JAX", where=plugin,
                        expected=needed, found=versions[plugin],
                        hint=f"{INSTALL.format(needed)}; or --no_compile")
    cudnn = _version("nvidia-cudnn-" + ("cu13" if "13" in plugin else "cu12"))
    if not cudnn:
        raise UserError("XLA:GPU needs cuDNN for fused attention and convolutions", where=plugin,
                        expected="the package nvidia-cudnn-cu13", found="none",
                        hint=f"{INSTALL.format(needed)}; or --no_compile")
    return XlaGpu(tuple(int(n) for n in cudnn.split(".")[:3]))


def _version(package: str) -> str:
    """"" = not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
