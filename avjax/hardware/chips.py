"""Data sheets: what one device of each accelerator can do."""

import dataclasses

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX sees it; rates are bytes or FLOPs a second.

    Attributes:
      kind: JAX's device_kind.
      hbm: bytes that a program may use: with TPUs what XLA:TPU itself allows, with GPUs the three
        quarters that XLA reserves unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
      flops: dense bfloat16, peak.
      hbm_rate: of the device's memory.
      link_rate: one way, of one link to a neighbour (TPU); into the machine's switch (GPU).
      dcn_rate: of the network between slices, this device's share of its host's cards.
      host: devices a host has.
      dims: dimensions of a TPU slice's grid; 0 = a GPU: every card that NVLink joins reaches every
        other directly.
      ring: a slice's dimension is closed to a ring where it is a multiple of this.
      cycles: clock by which XLA:TPU's estimated cycles are read as seconds; 0 = it makes none.
      cores: devices a chip of the grid has.
      joined: cards that NVLink joins at most: a machine's, or those of a rack.
      source: where the numbers come from.
    """

    name: str
    kind: str
    hbm: float
    flops: float
    hbm_rate: float
    link_rate: float
    dcn_rate: float
    host: int
    dims: int
    ring: int
    source: str
    cycles: float = 0.0
    cores: int = 1
    joined: int = 0

    @property
    def is_tpu(self) -> bool:
        return self.dims > 0

    @property
    def links(self) -> tuple[str, str]:
        """What joins the devices of a slice, and slices."""
        return ("ICI", "DCN") if self.is_tpu else ("NVLink", "network")


_SHEET = ("docs.cloud.google.com/tpu/docs/{}; hbm: libtpu 0.0.42; one-way link rate = "
          "bidirectional rate / ports / 2")
_NVIDIA = ("NVIDIA data sheet, SXM; NVLink one way = half of its rate; one {} Gb/s network card a "
           "GPU; memory as the driver reports it (XLA's target descriptions)")


def _gpu(name: str, kind: str, memory: float, flops: float, hbm_rate: float, link_rate: float,
         network: int, host: int = 8, joined: int = 8) -> Chip:
    """memory: all of it, in bytes; network: Gb/s a card."""
    return Chip(name, kind, 0.75 * memory, flops, hbm_rate, link_rate, network * 1e9 / 8, host, 0,
                0, _NVIDIA.format(network), joined=joined)


# Clocks of v4, v5e and v5p: peak / (matrix units x 128 x 128 x 2). By them XLA:TPU expects a large
# product to reach 88 to 93 % of the peak; those of v6e and tpu7x, whose units are not described so,
# are set so that it reaches 90 %.
CHIPS = {chip.name: chip for chip in (
    Chip("v4", "TPU v4", 30.75 * GIB, 275e12, 1228e9, 50e9, 6.25e9, 4, 3, 4, _SHEET.format("v4") +
         "; link: Jouppi et al. 2023, six of 50 GB/s; DCN as v5p's", cycles=1.05e9),
    Chip("v5e", "TPU v5 lite", 15.75 * GIB, 197e12, 819e9, 50e9, 3.125e9, 8, 2, 16,
         _SHEET.format("v5e"), cycles=1.5e9),
    Chip("v5p", "TPU v5", 95.74 * GIB, 459e12, 2765e9, 100e9, 6.25e9, 4, 3, 4, _SHEET.format("v5p"),
         cycles=1.75e9),
    Chip("v6e", "TPU v6 lite", 31.25 * GIB, 918e12, 1638e9, 100e9, 12.5e9, 8, 2, 16,
         _SHEET.format("v6e"), cycles=2.24e9),
    # a chip is two devices, which share its links and its network
    Chip("tpu7x", "TPU7x", 94.75 * GIB, 2307e12 / 2, 7380e9 / 2, 100e9 / 2, 12.5e9 / 2, 8, 3, 4,
         _SHEET.format("tpu7x"), cycles=2.46e9, cores=2),
    _gpu("a100", "NVIDIA A100-SXM4-80GB", 85100068864, 312e12, 2039e9, 300e9, 200),
    _gpu("h100", "NVIDIA H100 80GB HBM3", 84942979072, 989e12, 3350e9, 450e9, 400),
    _gpu("h200", "NVIDIA H200", 151397597184, 989e12, 4800e9, 450e9, 400),
    _gpu("b200", "NVIDIA B200", 191514411008, 2250e12, 7700e9, 900e9, 400),
    # four to a host, 72 to a rack within which NVLink joins all
    _gpu("gb200", "NVIDIA GB200", 197897748480, 2500e12, 8000e9, 900e9, 400, 4, 72),
)}
