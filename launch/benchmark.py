"""Speed of a config: python -m launch.benchmark --config=configs/avflow_released.py --json

Measures what `launch/benchmarks/<system>.py` says (the training step, as the loop compiles it, and
sampling), and the loader when `config.data.dir` exists; reports medians of several runs with their
range, compile times, peak memory, FLOPs and the share of a measured matrix product's rate. With
--peer='COMMAND' another program is run alternately with
each measurement: it is given the case as AVJAX_CASE (JSON) in its environment, and prints a JSON
list of its own seconds (one a run) as the last line, an empty one for a case that it does not have;
the ratio of medians is reported.
No data is needed: inputs are random. --plan runs nothing and counts FLOPs and bytes of the training
step from shapes.
"""

import dataclasses
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
from launch import benchmarks
from launch import flags as launch_flags

CONFIG = launch_flags.define_config()
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")
BATCH = flags.DEFINE_integer("batch", None, "Examples in a training step, or rows where the system "
                                            "packs; default: the system's.")
SEGMENT = flags.DEFINE_integer("segment", None, "Frames of a training example; default: the "
                                                "system's.")
TEXT = flags.DEFINE_integer("text", None, "Text tokens of an example, where the system reads any; "
                            "default: the system's.")
LENGTHS = flags.DEFINE_list("lengths", None, "Frames to sample, one example each; empty = none; "
                                             "default: the system's.")
STEPS = flags.DEFINE_integer("steps", None, "Solver steps of a sample; default: the system's.")
RUNS = flags.DEFINE_integer("runs", 3, "Measured runs of everything, after one unmeasured.")
PLAN = flags.DEFINE_bool("plan", False, "Only count FLOPs and bytes of the training step, from "
                                        "shapes.")
PEER = flags.DEFINE_string("peer", "", "Command to run alternately; see above.")


def main(argv) -> None:
    del argv
    if PLAN.value:
        rows = plan(CONFIG.value, batch=BATCH.value, segment=SEGMENT.value, text=TEXT.value)
        print(json.dumps(rows, indent=1) if JSON.value else
              "\n".join(f"{row['name']:36s} {row['value']:12.3f} {row['unit']}" for row in rows))
        return
    lengths = None if LENGTHS.value is None else tuple(int(n) for n in LENGTHS.value if n)
    rows = benchmark(CONFIG.value, batch=BATCH.value, segment=SEGMENT.value, text=TEXT.value,
                     steps=STEPS.value,
                     lengths=lengths, runs=RUNS.value, peer=PEER.value)
    if JSON.value:
        print(json.dumps(rows, indent=1))
        return
    print(f"{rows['machine']}; matrix products {rows['matmul_gflops']:.0f} GFLOP/s")
    for row in rows["cases"]:
        extra = (f"  x{row['ratio']:.3f} of the peer's {row['peer']['median']:.3f}"
                 if "ratio" in row else "")
        share = (f"  {100 * row['share_of_matmul']:.0f} % of matmul rate"
                 if "share_of_matmul" in row else "")
        parts = "".join(f"  {name} {value:.3g}" for name, value in row.get("parts", {}).items())
        print(f"{row['name']:28s} {row['median']:9.4f} s  [{row['min']:.4f} .. "
              f"{row['max']:.4f}]{parts}{share}{extra}")


def benchmark(config, *, batch: int | None = None, segment: int | None = None,
              text: int | None = None, lengths=None, steps: int | None = None, runs: int = 3,
              peer: str = "") -> dict:
    """All cases of a config; see the module's text. Times in seconds; None = the system's own
    choice."""
    import jax

    system, module, options = prepared(config, batch=batch, frames=segment, text=text,
                                       lengths=lengths, steps=steps)
    rate = matmul_rate()
    rows = []
    for case in module.cases(config, system, options):
        row = {"name": case.name, "compile_s": case.compile_s, "temporary_mb": case.temporary_mb}
        ours, theirs = alternate(case.run, runs, peer, case.describe)
        row |= summary(ours)
        if case.parts:
            row["parts"] = {name: row["median"] / part for name, part in case.parts.items()}
        if case.flops:
            row |= {"gflop": case.flops / 1e9, "share_of_matmul": case.flops / row["median"] / rate}
        if theirs:
            row["peer"] = summary(theirs)
            row["ratio"] = row["median"] / row["peer"]["median"]
            row["ratio_of_minima"] = row["min"] / row["peer"]["min"]
        rows.append(row)
    folder = Path(config.data.dir) if config.data.dir else None
    if folder is not None and folder.is_dir():
        rows.append(loader_row(config, system, options, runs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"config": config.name, "machine": f"{jax.devices()[0].device_kind} x "
                                              f"{jax.device_count()}, "
            f"{os.cpu_count()} CPU cores", "matmul_gflops": rate / 1e9, "peak_memory_mb": peak,
            "cases": rows}


def plan(config, *, batch: int | None = None, segment: int | None = None,
         text: int | None = None) -> list[dict]:
    """What shapes alone say of the training step: [{"name", "value", "unit"}]."""
    system, module, options = prepared(config, batch=batch, frames=segment, text=text)
    if hasattr(module, "plan"):
        return module.plan(config, system, options)
    from avjax.systems import api

    return benchmarks.common.plan_step(config, system,
                                       api.example_batch(system, batch=options.batch,
                                                         time=options.frames))


def prepared(config, **given):
    """The system, the module that measures it, and its options with those that are given."""
    from avjax.systems.api import build

    module = benchmarks.of_system(config.system.name)
    options = dataclasses.replace(module.DEFAULTS,
                                  **{k: v for k, v in given.items() if v is not None})
    return build(config.system), module, options


def alternate(run, runs: int, peer: str, describe: dict) -> tuple[list[float], list[float]]:
    """Ours, theirs, ours, theirs: what else the machine does then falls on both."""
    run()
    ours, theirs = [], []
    for _ in range(runs):
        start = time.perf_counter()
        seconds = run()
        ours.append(time.perf_counter() - start if seconds is None else seconds)
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
        raise UserError("the peer printed no seconds", where=command,
                        expected="a JSON list of numbers as the last line",
                        found=f"exit code {done.returncode}: {tail[0]}") from error


def loader_row(config, system, options, runs: int, batches: int = 50) -> dict:
    """Seconds a batch of the loader, reading as training reads."""
    from data_pipelines.loading.loader import make_loader
    from data_pipelines.store.dataset import open_dataset

    loader = make_loader(open_dataset(config.data.dir), config.data.train_split, system,
                         batch_size=options.batch, segment=options.frames, seed=config.seed,
                         threads=config.data.threads)

    def run():
        start = time.perf_counter()
        for _ in range(batches):
            next(loader)
        return (time.perf_counter() - start) / batches

    run()
    row = {"name": f"loader, batch of {options.batch}"} | summary([run() for _ in range(runs)])
    loader.close()
    return row


def matmul_rate(runs: int = 10) -> float:
    """FLOP/s of the best of several products, float32 on a CPU and bfloat16 elsewhere: what the
    machine gives right now."""
    import jax

    on_cpu = jax.default_backend() == "cpu"
    size, dtype = (1536, "float32") if on_cpu else (8192, "bfloat16")
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def summary(seconds: list[float]) -> dict:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds),
            "runs": len(seconds)}


if __name__ == "__main__":
    launch_flags.run(main)
