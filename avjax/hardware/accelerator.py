"""The machine's peak FLOP/s, for MFU, and the persistent compilation cache."""

import hashlib
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from avjax.hardware.chips import CHIPS

# Dense bfloat16 FLOP/s of one device by jax's device_kind: the planner's chips, and cards that come
# in no slice. Source: the vendors' data sheets.
PEAKS = {chip.kind: chip.flops for chip in CHIPS.values()} | {
    "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA L4": 121e12,
}


def peak_flops(mesh, configured: float = 0.0) -> tuple[float, str]:
    """(FLOP/s of the whole mesh, source of the number).

    Fake CPU devices share one processor, so a CPU mesh counts as one device.

    Args:
      configured: of one device; 0 = look up or measure.
    """
    device = next((d for d in mesh.devices.flat if d.process_index == jax.process_index()),
                  mesh.devices.flat[0])
    count = mesh.devices.size if device.platform != "cpu" else 1
    if configured:
        return configured * count, "configured"
    if device.device_kind in PEAKS:
        return PEAKS[device.device_kind] * count, "data sheet, bfloat16"
    return _measure(device) * count, "measured, float32 product of 1024 x 1024"


def _measure(device, n: int = 1024, repeats: int = 5) -> float:
    # The current mesh may span other processes.
    alone = Mesh(np.asarray([device]), ("alone",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(alone):
        x = jax.device_put(np.ones((n, n), np.float32), device)
        product = jax.jit(lambda a: a @ a)
        product(x).block_until_ready()
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            product(x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def enable_compilation_cache() -> Path:
    """Turns on XLA's persistent cache and returns its folder: $JAX_COMPILATION_CACHE_DIR, else one
    in the user's cache, per processor type (code compiled for one CPU may not run on another)."""
    if configured := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(configured)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "avjax" / "xla" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _processor() -> str:
    text = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += "".join(sorted({line for line in lines
                                if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        pass
    return hashlib.sha256(text.encode()).hexdigest()[:12]
