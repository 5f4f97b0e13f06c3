"""A job's environment variables on every host, besides those that its cluster sets for
jax.distributed.

No LIBTPU_INIT_ARGS: the flags commonly recommended for training on pods (asynchronous collective
fusion of all-gathers, overlapped compute and collectives, the data-parallel all-reduce between
slices) are the defaults of libtpu 0.0.42: with and without them it compiles sharded layers for
v5e:4x4, and for two slices, to the same program. Use --env for others.
"""

from launch.targets.accelerators import Accelerator

# jax's GPU performance guide; the only one that NVIDIA's own images of jax set.
GPU_OVERLAP = "--xla_gpu_enable_latency_hiding_scheduler=true"
GPU_MEMORY = "0.92"  # of each card; jax's default is 0.75. NCCL and the driver need the rest


def variables(accelerator: Accelerator | None, cache: str, extra: dict[str, str], *,
              alone: bool = False) -> dict[str, str]:
    """Name -> value.

    Args:
      cache: a folder that outlives the hosts; "" = jax's own default.
      extra: takes precedence.
      alone: hosts do not compute together, and each sees only its own devices.
    """
    out = {"PYTHONUNBUFFERED": "1"}
    if cache:
        out["JAX_COMPILATION_CACHE_DIR"] = cache
    platform = accelerator.platform if accelerator else ""
    if platform == "cpu":
        out["JAX_PLATFORMS"] = "cpu"
    elif platform == "gpu":
        out |= {"XLA_FLAGS": GPU_OVERLAP, "XLA_PYTHON_CLIENT_MEM_FRACTION": GPU_MEMORY}
    elif platform == "tpu" and alone and accelerator.hosts > 1:
        # one host of a slice as a TPU of its own
        chips = {1: "1,1,1", 4: "2,2,1"}[accelerator.chips_per_host]
        out |= {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": chips}
    elif platform == "tpu":  # else a host whose TPU is in use would continue alone on its CPU
        out["JAX_PLATFORMS"] = "tpu,cpu"
    return out | extra
