"""Runs a system over held-out splits and scores it: the same code in the training loop and in
`launch.evaluate`.

Streams do not depend on batch size, order or what else is scored (see avjax/inference). Rows are
appended to results.rows.jsonl as they come, each under a key made of example, variant, parameters
and recipes: a job that was killed, or one asked for more splits or tasks, goes on where it stopped,
and baselines are never computed twice.
"""

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Iterable

import jax
import numpy as np
from tqdm import tqdm

from avjax.errors import UserError
from avjax.hosts import environment
from avjax.inference.generator import Generator, generate_split
from data_pipelines.loading.loader import check_features
from data_pipelines.store.schema import recipe_hash
from eval.pooling import BOOTSTRAP
from eval.run.rows import Rows, write_json

RESULTS_FILE = "results.json"
SHOWN = 2  # examples of every split in the report, with players


def fingerprint(params) -> str:
    """16 hex digits of the parameters' names, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def check(system, dataset) -> None:
    """UserError unless the dataset has what the system's examples hold, made by the recipes it was
    trained on."""
    check_features(dataset, system.example_spec)


def check_split(dataset, split: str) -> None:
    """UserError that lists the splits unless `split` is one."""
    if split not in dataset.splits:
        raise UserError("unknown split", where=str(dataset.dir), found=repr(split),
                        expected=" or ".join(dataset.splits),
                        hint="name one of the dataset's splits")


def evaluate(benchmark, generator: Generator, params, out_dir, *, splits: Iterable[str],
             max_examples: int = 0, meta: dict | None = None, progress: bool = True,
             made: dict | None = None) -> dict:
    """Scores all variants on the splits; writes rows as they come and results.json at the end.

    Args:
      benchmark: eval.benchmarks.*.Benchmark.
      generator, params: the system and its parameters.
      out_dir: folder of results.rows.jsonl, results.frames/ and results.json.
      splits: names of the dataset's splits.
      max_examples: a split's examples to score, a fixed random subset; 0 = all.
      meta: stored in results.json as it is (config, checkpoint, step, ...).
      progress: show a bar.
      made: gets the Signals of the first few generated examples, {(split, variant, index):
        Signals}, for `samples`.

    Returns:
      {"summary", "targets", "recipes", "models", "rows", ...} as written; "models" are the variants
      that are generated.
    """
    started = time.perf_counter()
    splits = tuple(splits)
    for split in splits:
        check_split(benchmark.dataset, split)
    store, params_hash = Rows(out_dir), fingerprint(params)
    sampler = {"seed": generator.seed,
               "system": _system_recipe(generator.system)} | environment.unusual()
    made_by = recipe_hash({"params": params_hash, **sampler})

    def key(split, name, variant):
        return "|".join((split, name, variant, made_by if variant in benchmark.models else "",
                         benchmark.recipe_hash))

    variants, summary, targets, rows = benchmark.variants, {}, {}, []
    for split in splits:
        indices = benchmark.select(split, max_examples)
        ids, texts = benchmark.source(split).ids, benchmark.labels(split)[1]
        found = {v: {i: got for i in indices if (got := store.get(key(split, ids[i], v)))}
                 for v in variants}
        missing = sum(len(indices) - len(f) for f in found.values())
        bar = tqdm(total=missing, desc=f"scoring {split}", unit="row", disable=None if progress
                   else True, leave=False)

        def add(variant, index, signals, split=split, ids=ids, found=found, bar=bar):
            row = benchmark.score(split, index, signals)
            frames = benchmark.frames(split, index, signals)
            store.put(key(split, ids[index], variant), row, frames)
            # as a resumed job would find it
            found[variant][index] = store.get(key(split, ids[index], variant))
            bar.update()

        for variant in benchmark.models:
            todo = [i for i in indices if i not in found[variant]]
            for index, signals in generated(benchmark, generator, params, split, variant, todo):
                if made is not None and index in benchmark.select(split, SHOWN):
                    made[split, variant, index] = signals
                add(variant, index, signals)
        for variant in benchmark.baselines:
            for index in indices:
                if index not in found[variant]:
                    add(variant, index, benchmark.baseline(variant, split, index))
        bar.close()
        summary[split] = {v: benchmark.summarise([found[v][i][0] for i in indices],
                                                 [found[v][i][1] for i in indices])
                          for v in variants}
        targets[split] = benchmark.targets(summary[split])
        rows += [{"split": split, "id": ids[i], "text": texts[i],
                  **{v: found[v][i][0] for v in variants}}
                 for i in sorted(indices, key=ids.__getitem__)]
    results = {"summary": summary, "targets": targets,
               "recipes": benchmark.recipes
               | {"intervals": BOOTSTRAP, "noise": "fold_in(key(seed), crc32(id))"},
               "benchmark": benchmark.name, "models": list(benchmark.models), "params": params_hash,
               "sampler": sampler, "seconds": round(time.perf_counter() - started, 2),
               **(meta or {}), "rows": rows}
    write_json(pathlib.Path(out_dir) / RESULTS_FILE, results)
    return results


def generated(benchmark, generator: Generator, params, split: str, variant: str,
              indices: Iterable[int]):
    """Yields (index, Signals) of one variant, generated from what `Benchmark.given` makes of the
    examples."""
    for index, streams in generate_split(generator, params, benchmark.dataset, split, indices,
                                         benchmark.models[variant],
                                         functools.partial(benchmark.given, variant)):
        yield index, benchmark.model(streams, variant, split, index)


def samples(benchmark, generator: Generator, params, splits: Iterable[str], count: int = SHOWN,
            made: dict | None = None) -> list[dict]:
    """The first few scored examples of every split with Signals of every model variant and of the
    truth, for the report. What `evaluate` has put into `made` is not generated again."""
    out, made = [], dict(made or {})
    for split in splits:
        indices = benchmark.select(split, count)
        for variant in benchmark.models:
            todo = [i for i in indices if (split, variant, i) not in made]
            made |= {(split, variant, i): x for i,
                     x in generated(benchmark, generator, params, split, variant, todo)}
        out += [{"split": split, "id": benchmark.source(split).ids[index], "benchmark": benchmark,
                 "text": benchmark.labels(split)[1][index],
                 "models": {v: made[split, v, index] for v in benchmark.models},
                 "truth": benchmark.truth(split, index),
                 "identity": benchmark.identity(split, index)}
                for index in indices]
    return out


def _system_recipe(system) -> dict:
    """What of the system's config decides its samples, as plain JSON."""
    config = getattr(system, "config", None)
    to_dict = getattr(config, "to_dict", None)
    return {"class": f"{type(system).__module__}.{type(system).__name__}",
            "config": json.loads(json.dumps(to_dict() if to_dict else str(config), default=str))}
