"""The variables that a job finds on every host, besides those that its cluster sets for
jax.distributed.

No LIBTPU_INIT_ARGS: the flags that are handed around for training on pods (asynchronous collective
fusion of all-gathers, overlapped compute and collectives, the data-parallel all-reduce between
slices) are the defaults of libtpu 0.0.42: with and without them it compiles sharded layers for
v5e:4x4, and for two slices, to the same program. Others go through --env.
"""

from launch.targets.accelerators import Accelerator

# jax's GPU performance guide; the only one that NVIDIA's own images of jax set.
GPU_OVERLAP = "--xla_gpu_enable_latency_hiding_scheduler=true"
GPU_MEMORY = "0.92"  # of each card; jax takes 0.75. What is left is NCCL's and the driver's


def variables(accelerator: Accelerator | None, cache: str, given: dict[str, str], *,
              alone: bool = False) -> dict[str, str]:
    """Name -> value. `cache` is a folder that outlives the hosts ("" = jax's own default); `given`
    wins; `alone`: hosts do not compute together, each sees its own devices."""
    out = {"PYTHONUNBUFFERED": "1"}
    if cache:
        out["JAX_COMPILATION_CACHE_DIR"] = cache
    platform = accelerator.platform if accelerator else ""
    if platform == "cpu":
        out["JAX_PLATFORMS"] = "cpu"
    elif platform == "gpu":
        out |= {"XLA_FLAGS": GPU_OVERLAP, "XLA_PYTHON_CLIENT_MEM_FRACTION": GPU_MEMORY}
    elif platform == "tpu" and alone:  # one host of a slice as a TPU of its own
        chips = {1: "1,1,1", 4: "2,2,1"}[accelerator.chips_per_host]
        out |= {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": chips}
    elif platform == "tpu":  # else a host whose TPU is taken would go on, alone, on its CPU
        out["JAX_PLATFORMS"] = "tpu,cpu"
    return out | given
