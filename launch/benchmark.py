"""Speed of a config: python -m launch.benchmark --config=configs/avflow_released.py --json

Measures the training step (loss, gradients and update, as the loop compiles it), sampling at several lengths, and the
loader when `config.data.dir` exists; reports medians of several runs with their range, compile times, peak memory,
FLOPs and the share of a measured matrix product's rate. With --peer='COMMAND' another program is run alternately with
each measurement: it is given the case as AVJAX_CASE (JSON) in its environment, and prints a JSON list of its own
seconds (one a run) as the last line; the ratio of medians is reported. No data is needed: inputs are random.
"""

import json
import os
import resource
import shlex
import statistics
import subprocess
import time
from pathlib import Path

from absl import flags

from avjax.errors import UserError
from launch import flags as launch_flags

CONFIG = launch_flags.define_config()
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")
BATCH = flags.DEFINE_integer("batch", 4, "Examples in a training step.")
SEGMENT = flags.DEFINE_integer("segment", 345, "Frames of a training example.")
LENGTHS = flags.DEFINE_list("lengths", ["1723", "3446"], "Frames to sample, one example each; empty = none.")
STEPS = flags.DEFINE_integer("steps", 8, "Solver steps of a sample.")
RUNS = flags.DEFINE_integer("runs", 3, "Measured runs of everything, after one unmeasured.")
PEER = flags.DEFINE_string("peer", "", "Command to run alternately; see above.")


def main(argv) -> None:
    del argv
    rows = benchmark(CONFIG.value, batch=BATCH.value, segment=SEGMENT.value, steps=STEPS.value, runs=RUNS.value,
                     lengths=[int(n) for n in LENGTHS.value if n], peer=PEER.value)
    if JSON.value:
        print(json.dumps(rows, indent=1))
        return
    print(f"{rows['machine']}; matrix products {rows['matmul_gflops']:.0f} GFLOP/s")
    for row in rows["cases"]:
        extra = f"  x{row['ratio']:.3f} of the peer's {row['peer']['median']:.3f}" if "ratio" in row else ""
        share = f"  {100 * row['share_of_matmul']:.0f} % of matmul rate" if "share_of_matmul" in row else ""
        print(f"{row['name']:28s} {row['median']:9.4f} s  [{row['min']:.4f} .. {row['max']:.4f}]{share}{extra}")


def benchmark(config, *, batch: int, segment: int, lengths: list[int], steps: int, runs: int, peer: str = "") -> dict:
    """All cases of a config; see the module's text. Times in seconds."""
    import jax

    from avjax.systems.api import build

    system = build(config.system)
    rate = matmul_rate()
    cases = [train_case(config, system, batch, segment)]
    cases += [sample_case(config, n, steps) for n in lengths]
    rows = []
    for case in cases:
        row = {"name": case["name"], "compile_s": case["compile_s"], "gflop": case["flops"] / 1e9,
               "temporary_mb": case["temporary_mb"]}
        ours, theirs = alternate(case["run"], runs, peer, case["describe"])
        row |= summary(ours)
        row["share_of_matmul"] = case["flops"] / row["median"] / rate
        if theirs:
            row["peer"] = summary(theirs)
            row["ratio"] = row["median"] / row["peer"]["median"]
            row["ratio_of_minima"] = row["min"] / row["peer"]["min"]
        rows.append(row)
        case.clear()  # its parameters go before the next case's come
    folder = Path(config.data.dir) if config.data.dir else None
    if folder is not None and folder.is_dir():
        rows.append(loader_row(config, system, batch, segment, runs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"config": config.name, "machine": f"{jax.devices()[0].device_kind} x {jax.device_count()}, "
            f"{os.cpu_count()} CPU cores", "matmul_gflops": rate / 1e9, "peak_memory_mb": peak, "cases": rows}


def alternate(run, runs: int, peer: str, describe: dict) -> tuple[list[float], list[float]]:
    """Ours, theirs, ours, theirs: what else the machine does then falls on both."""
    run(0)
    ours, theirs = [], []
    for i in range(runs):
        start = time.perf_counter()
        run(i + 1)
        ours.append(time.perf_counter() - start)
        if peer:
            theirs += run_peer(peer, describe)
    return ours, theirs


def run_peer(command: str, describe: dict) -> list[float]:
    env = {**os.environ, "AVJAX_CASE": json.dumps(describe)}
    done = subprocess.run(shlex.split(command), env=env, capture_output=True, text=True)
    try:
        seconds = json.loads(done.stdout.strip().splitlines()[-1])
        return [float(s) for s in (seconds if isinstance(seconds, list) else [seconds])]
    except (IndexError, ValueError) as error:
        tail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise UserError("the peer printed no seconds", where=command, expected="a JSON list of numbers as the last line",
                        found=f"exit code {done.returncode}: {tail[0]}") from error


def train_case(config, system, batch: int, segment: int) -> dict:
    """The loop's own training step on random data."""
    import jax

    from avjax.sharding.mesh import batch_sharding, check_batch, make_mesh
    from avjax.systems.api import example_batch
    from avjax.training.optimizer import make_optimizer
    from avjax.training.state import abstract_params, abstract_state, init_state
    from avjax.training.step import CompiledStep, make_train_step

    mesh, ema = make_mesh(config.mesh), config.optimizer.ema_decay > 0
    check_batch(batch, mesh, accumulate=config.optimizer.accumulate, where="--batch")
    optimizer = make_optimizer(config.optimizer, config.train.steps, abstract_params(system))
    step = make_train_step(system, optimizer, seed=config.seed, accumulate=config.optimizer.accumulate,
                           ema_decay=config.optimizer.ema_decay)
    shapes = example_batch(system, batch=batch, time=segment)
    with jax.set_mesh(mesh):
        compiled = CompiledStep(step, abstract_state(system, optimizer, mesh, ema=ema), shapes, mesh)
        box = [init_state(system, optimizer, mesh, seed=config.seed, ema=ema)]
        data = jax.device_put(random_arrays(shapes), batch_sharding(mesh))

    def run(_):
        box[0], metrics = compiled(box[0], data)
        jax.block_until_ready((box[0], metrics))

    return case(f"train step {batch} x {segment}", compiled.memory, compiled.compile_seconds, compiled.flops, run,
                {"case": "train", "batch": batch, "frames": segment})


def sample_case(config, frames: int, steps: int) -> dict:
    """`generate` for one example."""
    import jax

    from avjax.systems.api import build
    from avjax.training.flops import count_flops

    settings = config.system.copy_and_resolve_references()
    if "euler_steps" in settings:
        settings.euler_steps = steps
    system = build(settings)
    params = jax.jit(system.init)(jax.random.key(0))
    conditions = random_arrays({name: spec.resolve(batch=1, time=frames)
                                for name, spec in system.conditions_spec.items()})
    keys = jax.random.split(jax.random.key(1), 1)
    flops = count_flops(system.generate, params, conditions, keys)
    start = time.perf_counter()
    compiled = jax.jit(system.generate).lower(params, conditions, keys).compile()
    compile_s = time.perf_counter() - start
    return case(f"sample {frames} frames", compiled.memory_analysis(), compile_s, flops,
                lambda _: jax.block_until_ready(compiled(params, conditions, keys)),
                {"case": "sample", "frames": frames, "steps": steps})


def case(name, memory, compile_s, flops, run, describe) -> dict:
    temporary = memory.temp_size_in_bytes / 1e6 if memory is not None else None
    return dict(name=name, compile_s=compile_s, flops=flops, temporary_mb=temporary, run=run, describe=describe)


def random_arrays(shapes) -> dict:
    """Unit normal arrays; "mask" is all ones."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(s.shape, np.float32).astype(s.dtype) for name, s in shapes.items()}
    return jax.tree.map(jax.numpy.asarray, {n: np.ones_like(a) if n == "mask" else a for n, a in arrays.items()})


def loader_row(config, system, batch: int, segment: int, runs: int, batches: int = 50) -> dict:
    """Seconds a batch of the loader, reading as training reads."""
    from data_pipelines.loader import make_loader
    from data_pipelines.store import open_dataset

    loader = make_loader(open_dataset(config.data.dir), config.data.train_split, system.batch_spec, batch_size=batch,
                         segment=segment, seed=config.seed, threads=config.data.threads)

    def run():
        start = time.perf_counter()
        for _ in range(batches):
            next(loader)
        return (time.perf_counter() - start) / batches

    run()
    row = {"name": f"loader {batch} x {segment}"} | summary([run() for _ in range(runs)])
    return row | {"frames_per_s": batch * segment / row["median"]}


def matmul_rate(size: int = 1536, runs: int = 10) -> float:
    """FLOP/s of the best of several float32 products: what the machine gives right now."""
    import jax

    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def summary(seconds: list[float]) -> dict:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "runs": len(seconds)}


if __name__ == "__main__":
    launch_flags.run(main)
