"""Speed of the loader on features of a config's real size, against what a training consumes: what
`avjax benchmark --consumer` does.

The features are made up and deleted again: random numbers of the shapes, types and rates that the
system reads, large frames apart from their records as an extraction stores them. They are read from
the page cache, so this is what the loader costs, not what a disk gives.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from avjax.sharding.mesh import batch_shardings, make_mesh
from avjax.systems import api, registry
from avjax.systems.benchmarking import TrainStep
from avjax.training import timing
from avjax.training.prefetch import Prefetcher
from data_pipelines.loading.loader import make_loader
from data_pipelines.store import dataset as store
from data_pipelines.store import frames
from data_pipelines.store.schema import Feature

OTHERS = 8  # entries of an axis that is neither the batch nor time: tokens, turns
STALLED = 0.05  # a step has stalled that waits longer than this share of its own time


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Examples that are made up, their seconds, and steps that are timed."""

    records: int = 24
    seconds: float = 10.0
    steps: int = 10


def measure(config, consumer, sizes: Sizes) -> list[dict]:
    """Rows of a table: the consumer's training step alone; the loader of `config` alone; both at
    once, a batch of as many rows for every step.

    Args:
      config: whose system and data section (batch_size, segment, threads) the loader has.
      consumer: the config of the training that consumes.
    """
    step, rows = _consumer(consumer)
    system = api.build(config.system)
    with tempfile.TemporaryDirectory(prefix="avjax_loader_") as folder:
        dataset = made_up(pathlib.Path(folder) / "features", system, sizes)

        def loader():
            return make_loader(dataset, "train", system, batch_size=rows,
                               segment=config.data.segment, seed=config.seed,
                               threads=config.data.threads)

        alone = _timed_steps(step, sizes.steps)
        with loader() as batches:
            read = _read(batches, sizes.steps)
        with contextlib.closing(loader()) as batches:
            both = _together(step, batches, system, config, sizes.steps)
    trained = rows / statistics.median(alone)
    out = [{"name": f"{consumer.name}: step of {rows} rows", "rows_per_second": trained},
           {"name": f"{config.name}: loader, {sizes.seconds:g} s records", **read,
            "rows_per_second": rows * read.pop("batches_per_second"),
            "cpu_ms_a_row": 1e3 * read.pop("cpu_seconds") / rows},
           {"name": "both at once", "rows_per_second": rows / statistics.median(both["step"]),
            "steps_that_waited": both["stalls"], "time_waited": both["share"]}]
    out[1]["times_what_is_consumed"] = out[1]["rows_per_second"] / trained
    return out


def made_up(folder: pathlib.Path, system: api.System, sizes: Sizes) -> store.Dataset:
    """A dataset of random examples of what a system reads."""
    features = {"id": Feature((), "str", "name")}
    for name, spec in system.example_spec.items():
        shape = tuple(None if isinstance(d, str) else d for d in spec.shape[1:])
        made = Feature(shape, spec.dtype, spec.meaning, spec.unit, spec.rate)
        large = shape[:1] == (None,) and frames.frame_bytes(made) >= frames.LARGE
        features[name] = dataclasses.replace(made, apart=large)
    rng = np.random.default_rng(0)

    def array(name: str, feature: Feature) -> np.ndarray:
        length = OTHERS if feature.rate is None else round(sizes.seconds * feature.rate)
        shape = tuple(length if d is None else d for d in feature.shape)
        if not np.issubdtype(feature.dtype, np.floating):
            return np.zeros(shape, feature.dtype)
        return rng.standard_normal(shape, np.float32).astype(feature.dtype)

    def examples():
        for i in range(sizes.records):
            yield {"id": str(i)} | {n: array(n, f) for n, f in features.items() if n != "id"}

    recipes = {n: s.recipe for n, s in system.example_spec.items() if s.recipe}
    return store.write_dataset(folder, name="made_up", description="Random numbers.",
                               features=features, recipes=recipes, splits={"train": examples()},
                               progress=False)


def _consumer(config):
    """(a function that does one training step and waits for it, rows of its batch)."""
    declared, system = registry.benchmark(config.system.name), api.build(config.system)
    options = dataclasses.replace(declared.options, batch=config.data.batch_size)
    if system.rows is None:
        options = dataclasses.replace(options, frames=config.data.segment)
    case = next(case for case in declared.cases(config, system, options)
                if isinstance(case, TrainStep))
    timed = timing.prepare(case, config)
    timed.run()
    return timed.run, len(next(iter(case.batch.values())))


def _timed_steps(step, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def _read(batches, count: int) -> dict:
    """Rates of a loader that nothing waits for; its threads have started. CPU is the whole
    process's."""
    for _ in range(3):
        batch = next(batches)
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(count):
        batch = next(batches)
    seconds = time.perf_counter() - start
    size = sum(x.nbytes for x in batch.values())
    return {"batches_per_second": count / seconds,
            "cpu_seconds": (time.process_time() - cpu) / count,
            "mb_per_second": size * count / seconds / 1e6}


def _together(step, batches, system, config, count: int) -> dict:
    """Steps that each take a batch first, as the loop does."""
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    prefetcher = Prefetcher(batches, batch_shardings(mesh, system.batch_spec))
    waits, steps = [], []
    try:
        prefetcher.take()
        for _ in range(count):
            start = time.perf_counter()
            prefetcher.take()
            taken = time.perf_counter()
            step()
            waits.append(taken - start)
            steps.append(time.perf_counter() - start)
    finally:
        prefetcher.close()
    stalls = [wait > STALLED * whole for wait, whole in zip(waits, steps, strict=True)]
    return {"step": steps, "stalls": sum(stalls) / count, "share": sum(waits) / sum(steps)}


def table(rows: list[dict]) -> str:
    """A line a row."""
    shown = {"rows_per_second": "{:.1f} rows/s", "mb_per_second": "{:.0f} MB/s",
             "cpu_ms_a_row": "{:.2f} ms of CPU a row",
             "times_what_is_consumed": "{:.1f} times what is consumed",
             "steps_that_waited": "{:.0%} of the steps waited", "time_waited": "{:.1%} of the time"}
    return "\n".join(f"{row['name']:44s} " + ", ".join(
        text.format(row[key]) for key, text in shown.items() if key in row) for row in rows)
