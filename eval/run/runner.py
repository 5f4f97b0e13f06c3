"""Runs a system over held-out splits and scores it: the same code in the training loop and in
`launch.evaluate`.

Streams do not depend on batch size, order or what else is scored (see avjax/inference). Rows are
appended to results.rows.jsonl as they come, each under a key made of example, variant, parameters
and recipes: a job that was killed, or one asked for more splits or tasks, goes on where it stopped,
and baselines are never computed twice. Processes that share a folder score a share of the examples
each, and the last one merges all rows and pooled frames (see `Run`).
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
from eval.run.rows import WHOLE, Rows, Share, clean, write_json

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


class Run:
    """The scoring of one set of parameters, by one process or by several that share a folder.

    Args:
      benchmark: eval.benchmarks.*.Benchmark.
      generator, params: the system and its parameters.
      out_dir: folder of the rows, results.frames/ and results.json.
      splits: names of the dataset's splits.
      max_examples: a split's examples to score, a fixed random subset; 0 = all.
      share: (k, n): of the examples in the order of their ids, the k-th of every n is this
        process' own.
    """

    def __init__(self, benchmark, generator: Generator, params, out_dir, *, splits: Iterable[str],
                 max_examples: int = 0, share: Share = WHOLE):
        self.benchmark, self.generator, self.params = benchmark, generator, params
        self.out_dir, self.share = pathlib.Path(out_dir), share
        self.indices: dict[str, list[int]] = {}
        for split in splits:
            check_split(benchmark.dataset, split)
            self.indices[split] = list(benchmark.select(split, max_examples))
        self.rows = Rows(out_dir, share)
        self.params_hash = fingerprint(params)
        self.sampler = {"seed": generator.seed,
                        "system": _system_recipe(generator.system)} | environment.unusual()
        self._made_by = recipe_hash({"params": self.params_hash, **self.sampler})
        self._started = time.perf_counter()

    def key(self, split: str, variant: str, index: int) -> str:
        """Names a row by all that decides it."""
        made_by = self._made_by if variant in self.benchmark.models else ""
        return "|".join((split, self._ids(split)[index], variant, made_by,
                         self.benchmark.recipe_hash))

    def own(self, split: str) -> list[int]:
        """Indices of the examples of this process."""
        ids = self._ids(split)
        mine = set(sorted(self.indices[split], key=ids.__getitem__)[self.share[0]::self.share[1]])
        return [i for i in self.indices[split] if i in mine]

    def score(self, *, progress: bool = True, made: dict | None = None) -> None:
        """Generates and scores what is missing of this process' examples, and keeps rows as they
        come.

        Args:
          progress: show a bar.
          made: gets the Signals of the first few generated examples, {(split, variant, index):
            Signals}, for `samples`.
        """
        benchmark = self.benchmark
        for split in self.indices:
            own = self.own(split)
            todo = {v: [i for i in own if self.rows.get(self.key(split, v, i)) is None]
                    for v in benchmark.variants}
            with tqdm(total=sum(map(len, todo.values())), desc=f"scoring {split}", unit="row",
                      disable=None if progress else True, leave=False) as bar:
                for variant in benchmark.models:
                    for index, signals in generated(benchmark, self.generator, self.params, split,
                                                    variant, todo[variant]):
                        if made is not None and index in benchmark.select(split, SHOWN):
                            made[split, variant, index] = signals
                        self._add(split, variant, index, signals, bar)
                for variant in benchmark.baselines:
                    for index in todo[variant]:
                        signals = benchmark.baseline(variant, split, index)
                        self._add(split, variant, index, signals, bar)

    def results(self, meta: dict | None = None) -> dict | None:
        """Everything that results.json says; None while rows of other shares are missing. Where
        results.json is of the same rows, as another share has merged them: its content."""
        self.rows.reload()
        benchmark, found, rows = self.benchmark, {}, []
        for split, indices in self.indices.items():
            found[split] = {v: {i: self.rows.get(self.key(split, v, i)) for i in indices}
                            for v in benchmark.variants}
            if any(got is None for of in found[split].values() for got in of.values()):
                return None
            ids, texts = self._ids(split), benchmark.labels(split)[1]
            rows += [{"split": split, "id": ids[i], "text": texts[i],
                      **{v: found[split][v][i][0] for v in benchmark.variants}}
                     for i in sorted(indices, key=ids.__getitem__)]
        about = {"recipes": benchmark.recipes
                 | {"intervals": BOOTSTRAP, "noise": "fold_in(key(seed), crc32(id))"},
                 "benchmark": benchmark.name, "models": list(benchmark.models),
                 "params": self.params_hash, "sampler": self.sampler,
                 "not_measured": benchmark.without_network}
        last = (meta or {}) | {"rows": rows}
        if merged := self._merged(about | last):
            return merged
        summary = {split: {v: benchmark.summarise([of[v][i][0] for i in self.indices[split]],
                                                  [of[v][i][1] for i in self.indices[split]])
                           for v in benchmark.variants}
                   for split, of in found.items()}
        targets = {split: benchmark.targets(summary[split]) for split in summary}
        seconds = round(time.perf_counter() - self._started, 2)
        results = {"summary": summary, "targets": targets, **about, "seconds": seconds, **last}
        write_json(self.out_dir / RESULTS_FILE, results)
        return results

    def _ids(self, split: str):
        return self.benchmark.source(split).ids

    def _add(self, split: str, variant: str, index: int, signals, bar) -> None:
        row = self.benchmark.score(split, index, signals)
        frames = (self.benchmark.frames(split, index, signals)
                  | self.benchmark.kept(split, index, signals))
        self.rows.put(self.key(split, variant, index), row, frames)
        bar.update()

    def _merged(self, about: dict) -> dict | None:
        """The content of results.json, if several shares are at work and it says the same."""
        try:
            written = json.loads((self.out_dir / RESULTS_FILE).read_text())
        except (OSError, ValueError):
            return None
        about = json.loads(json.dumps(clean(about)))
        same = all(written.get(name) == value for name, value in about.items())
        return written if same and self.share[1] > 1 else None


def generated(benchmark, generator: Generator, params, split: str, variant: str,
              indices: Iterable[int]):
    """Yields (index, Signals) of one variant, generated from what `Benchmark.given` makes of the
    examples."""
    generator = benchmark.generator_of(variant, generator)
    for index, streams in generate_split(generator, params, benchmark.dataset, split, indices,
                                         benchmark.models[variant],
                                         functools.partial(benchmark.given, variant)):
        yield index, benchmark.model(streams, variant, split, index)


def samples(benchmark, generator: Generator, params, splits: Iterable[str], count: int = SHOWN,
            made: dict | None = None) -> list[dict]:
    """The first few scored examples of every split with Signals of every model variant and of the
    truth, for the report. What `Run.score` has put into `made` is not generated again."""
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
