"""Speed of a config: what `launch.benchmark` does. What is timed, each system declares beside its
network: avjax/systems/x/benchmark.py."""

import dataclasses
import json
import os
import resource
import shlex
import statistics
import subprocess
import time
from pathlib import Path

import jax

from avjax.errors import UserError
from avjax.systems import api, benchmarking, registry
from avjax.training import timing
from data_pipelines.loading.loader import make_mixed_loader
from launch import data


def benchmark(config, *, batch: int | None = None, segment: int | None = None,
              text: int | None = None, lengths=None, steps: int | None = None, runs: int = 3,
              peer: str = "") -> dict:
    """All cases of a config; see launch.benchmark's text. Times in seconds; None = the system's own
    choice. "note" says so where the system declares no cases of its own."""
    system, declared, options = prepared(config, batch=batch, frames=segment, text=text,
                                         lengths=lengths, steps=steps)
    rate = matmul_rate()
    rows = []
    for case in declared.cases(config, system, options):
        timed = timing.prepare(case, config)
        row = {"name": case.name, "compile_s": timed.compile_s, "temporary_mb": timed.temporary_mb}
        ours, theirs = alternate(timed.run, runs, peer, case.describe)
        row |= summary(ours)
        if case.parts:
            row["parts"] = {name: row["median"] / part for name, part in case.parts.items()}
        if timed.flops:
            row |= {"gflop": timed.flops / 1e9,
                    "share_of_matmul": timed.flops / row["median"] / rate}
        if theirs:
            row["peer"] = summary(theirs)
            row["ratio"] = row["median"] / row["peer"]["median"]
            row["ratio_of_minima"] = row["min"] / row["peer"]["min"]
        rows.append(row)
    found = [Path(folder).is_dir() for _, folder in data.folders(config.data) if folder]
    if found and all(found):
        rows.append(loader_row(config, system, options, runs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    devices = f"{jax.devices()[0].device_kind} x {jax.device_count()}"
    return {"config": config.name, "machine": f"{devices}, {os.cpu_count()} CPU cores",
            "matmul_gflops": rate / 1e9, "peak_memory_mb": peak, "cases": rows,
            "note": note(config.system.name, declared, options)}


def make_cpu_devices(config) -> None:
    """A CPU device for each part of the time that config.mesh.seq splits, where JAX_NUM_CPU_DEVICES
    does not say how many: JAX makes one. To be called before JAX looks for devices."""
    if config.mesh.seq > 1 and jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", config.mesh.seq)


def note(name: str, declared: benchmarking.Benchmark, options: benchmarking.Options) -> str:
    """What to know of the cases: that they are everybody's; "" where the system declares its
    own."""
    if type(declared) is not benchmarking.Benchmark:
        return ""
    what = "the training step" + (" and sampling" if options.lengths else "")
    return (f"{name} has no benchmark.py of its own: the default cases, {what} on random arrays")


def plan(config, *, batch: int | None = None, segment: int | None = None,
         text: int | None = None) -> list[dict]:
    """What shapes alone say of the training step: [{"name", "value", "unit"}]."""
    system, declared, options = prepared(config, batch=batch, frames=segment, text=text)
    return timing.plan_rows(declared.plan(config, system, options), config)


def prepared(config, **given):
    """The system, its Benchmark, and its options with those that are given."""
    declared = registry.benchmark(config.system.name)
    options = dataclasses.replace(declared.options,
                                  **{k: v for k, v in given.items() if v is not None})
    return api.build(config.system), declared, options


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
    """The seconds that a peer program prints for a case. UserError: it prints none."""
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
    loader = make_mixed_loader(data.open_parts(config.data), system, batch_size=options.batch,
                               segment=options.frames, seed=config.seed,
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
    """Median, least, most and number."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds),
            "runs": len(seconds)}
