"""The clouds' names of accelerators, and their machines.

For the slices themselves see avjax.planning.topologies. Names are those of Cloud TPU's and GKE's
documentation and of xpk 1.9's table of systems (2026-06).
"""

import dataclasses
import math

from avjax.errors import UserError
from avjax.planning import topologies


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A slice of TPUs, a machine with GPUs, or a number of machines without ("cpu:4").

    `accelerator_type` and `tpu_type` are Cloud TPU's names; `label` and `shape_text` are labels of
    GKE's nodes.
    """

    topology: str
    platform: str  # tpu | gpu | cpu
    shape: tuple[int, ...]
    hosts: int  # machines, of one slice
    chips_per_host: int
    accelerator_type: str = ""
    tpu_type: str = ""
    label: str = ""
    runtime_version: str = ""

    @property
    def shape_text(self) -> str:
        return "x".join(map(str, self.shape))


@dataclasses.dataclass(frozen=True)
class _Tpu:
    prefix: str  # of the accelerator type
    cores: int  # by which the accelerator type counts, a chip
    label: str
    runtime_version: str  # of a TPU VM; "" = no TPU VM API (cloud.google.com/tpu/docs/runtimes)


TPUS = {
    "v4": _Tpu("v4", 2, "tpu-v4-podslice", "tpu-ubuntu2204-base"),
    "v5e": _Tpu("v5litepod", 1, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
    "v5p": _Tpu("v5p", 2, "tpu-v5p-slice", "v2-alpha-tpuv5"),
    "v6e": _Tpu("v6e", 1, "tpu-v6e-slice", "v2-alpha-tpuv6e"),
    "tpu7x": _Tpu("tpu7x", 2, "tpu7x", ""),
}
# Of every machine type in slices of several hosts (ct5lp-hightpu-4t, ct6e-standard-4t, ...).
CHIPS_PER_HOST = 4
GPUS = {"a100": "nvidia-a100-80gb", "h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}
EXAMPLES = f"{topologies.EXAMPLES}, or cpu:4 (hosts)"


def one_host(name: str) -> str:
    """The topology of one machine with the same chips."""
    found = find(name)
    sides = {1: "1x1", 2: "2x2", 3: "2x2x1"}[len(found.shape)]
    if found.hosts == 1:
        return name
    return "cpu:1" if found.platform == "cpu" else f"{name.partition(':')[0]}:{sides}"


def find(name: str) -> Accelerator:
    """The accelerator of a topology's name. Raises UserError for an unknown chip or shape."""
    kind, _, text = name.partition(":")
    if kind == "cpu":
        if not text.isdigit() or int(text) < 1:
            raise UserError("not a number of hosts", where="--topology", expected="cpu:4",
                            found=name)
        return Accelerator(name, "cpu", (int(text),), int(text), 1)
    topology = topologies.parse(name)
    chips = math.prod(topology.shape)
    if not topology.chip.is_tpu:
        return Accelerator(name, "gpu", topology.shape, 1, chips, label=GPUS[kind])
    tpu = TPUS[kind]
    per_host = min(chips, CHIPS_PER_HOST)
    return Accelerator(name, "tpu", topology.shape, chips // per_host, per_host,
                       f"{tpu.prefix}-{chips * tpu.cores}", tpu.prefix, tpu.label,
                       tpu.runtime_version)
