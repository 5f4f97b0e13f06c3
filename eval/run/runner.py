"""Runs a system over held-out splits and scores it: the same code in the training loop and in
`launch.evaluate`.

Streams do not depend on batch size, order or what else is scored (see avjax/inference). Rows are
appended to results.rows.jsonl as they come, each under a key made of example, variant, parameters
and recipes: a job that was killed, or one asked for more splits or tasks, goes on where it stopped,
and baselines are never computed twice. Processes that share a folder score a share of the examples
each, and the last one merges all rows and pooled frames (see `Run`). An example that raises an
error is listed with its reason, and the others are scored.
"""

import functools
import hashlib
import itertools
import json
import pathlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from avjax.errors import UserError
from avjax.hosts import environment
from avjax.inference.generator import Failed, Generator, generate_split
from avjax.sharding.rows import at_once, devices, shards
from avjax.storage import failures
from data_pipelines.loading.loader import check_features
from data_pipelines.store.schema import recipe_hash
from eval import jackknife
from eval.benchmarks.common.base import MODEL
from eval.pooling import BOOTSTRAP
from eval.run import flat, media
from eval.run.failed import reason_of
from eval.run.ranked import all_ranked
from eval.run.ranked import check as check_rank
from eval.run.rows import WHOLE, Rows, Share, clean, write_json

RESULTS_FILE = "results.json"
Made = tuple[int, Callable[[], Any]]  # index of an example, what gives its Signals
TOGETHER = 16  # examples whose sound networks hear together, on an accelerator
SHOWN = 2  # examples of every split in the report, with players
TRUTH = "truth"  # the baseline whose media are kept beside the models'


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
      out_dir: folder of results.json and the media.
      rows_dir: folder of the rows and results.frames/; default `out_dir`.
      splits: names of the dataset's splits.
      max_examples: a split's examples to score, a fixed random subset; 0 = all.
      share: (k, n): of the examples in the order of their ids, the k-th of every n is this
        process' own.
      keep_media: keep what is seen and heard of models and truth (see eval.run.media).
      ranked_by: the metric that picks best, median and worst; "" = the first of the table.

    Raises UserError: no such split, nothing to score in it, or nothing to rank by.
    """

    def __init__(self, benchmark, generator: Generator, params, out_dir, *, splits: Iterable[str],
                 max_examples: int = 0, share: Share = WHOLE, keep_media: bool = False,
                 ranked_by: str = "", rows_dir=None):
        self.benchmark, self.generator, self.params = benchmark, generator, params
        self.out_dir, self.share = pathlib.Path(out_dir), share
        self.indices: dict[str, list[int]] = {}
        for split in splits:
            check_split(benchmark.dataset, split)
            self.indices[split] = list(benchmark.select(split, max_examples))
            if not self.indices[split]:
                raise UserError("no example to score", where=f"{benchmark.dataset.dir}, {split}",
                                expected="1 or more", found="0",
                                hint="name another split, or look with avjax inspect")
        self.keeps = {*benchmark.models, TRUTH} if keep_media else set()
        self.ranked_by = check_rank(ranked_by).name if ranked_by else ""
        self._first_error: Exception | None = None
        self.rows = Rows(rows_dir or out_dir, share)
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self.params_hash = fingerprint(params)
        self.sampler = {"seed": generator.seed,
                        "system": _system_recipe(generator.system)} | environment.unusual()
        self._made_by = recipe_hash({"params": self.params_hash, **self.sampler})
        self._started = time.perf_counter()

    def key(self, split: str, variant: str, index: int) -> str:
        """Names a row by all that decides it."""
        made_by = self.benchmark.content(variant, split, index) or (
            self._made_by if variant in self.benchmark.models else "")
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
            todo = {v: [i for i in own if not self._done(split, v, i)] for v in benchmark.variants}
            with tqdm(total=sum(map(len, todo.values())), desc=f"scoring {split}", unit="row",
                      disable=None if progress else True, leave=False) as bar:
                for variant in benchmark.models:
                    every = generated(
                        benchmark, self.generator, self.params, split, variant, todo[variant],
                        failed=functools.partial(self._failed, split, variant, bar))
                    for index, signals in self._heard(
                            (i, lambda signals=signals: signals) for i, signals in every):
                        if made is not None and index in benchmark.select(split, SHOWN):
                            made[split, variant, index] = signals()
                        self._add(split, variant, bar, index, signals)
                for variant in benchmark.baselines:
                    for index, signals in self._heard(
                            (i, functools.cache(functools.partial(
                                benchmark.baseline, variant, split, i))) for i in todo[variant]):
                        self._add(split, variant, bar, index, signals)

    def results(self, meta: dict | None = None) -> dict | None:
        """Everything that results.json says; None while rows of other shares are missing. Where
        results.json is of the same rows, as another share has merged them: its content. Raises the
        first error where nothing that a model made could be scored."""
        self.rows.reload()
        benchmark, found, rows, failed = self.benchmark, {}, [], []
        for split, indices in self.indices.items():
            found[split] = {v: {} for v in benchmark.variants}
            ids, texts = self._ids(split), benchmark.labels(split)[1]
            for i in sorted(indices, key=ids.__getitem__):
                for v, of in found[split].items():
                    if (got := self.rows.get(self.key(split, v, i))) is not None:
                        of[i] = got
                    elif (reason := self.rows.failed.get(self.key(split, v, i))) is not None:
                        failed.append({"split": split, "id": ids[i], "variant": v,
                                       "reason": reason})
                    else:
                        return None
                scored = {v: of[i][0] for v, of in found[split].items() if i in of}
                rows += [{"split": split, "id": ids[i], "text": texts[i], **scored,
                          **self._media(split, i)}] if scored else []
        self._check_any(found, failed)
        about = {"recipes": benchmark.recipes
                 | {"intervals": BOOTSTRAP, "intervals_of_distances": jackknife.RECIPE,
                    "noise": "fold_in(key(seed), crc32(id))"},
                 "benchmark": benchmark.name, "models": list(benchmark.models),
                 "params": self.params_hash, "sampler": self.sampler,
                 "not_measured": benchmark.without_network}
        ranked = all_ranked({"summary": found, "models": list(benchmark.models), "rows": rows},
                            self.ranked_by)
        last = (meta or {}) | {"ranked": ranked, "failed": failed, "rows": rows}
        if merged := self._merged(about | last):
            return merged
        summary = {split: {v: benchmark.summarise(*([of[i][k] for i in self.indices[split]
                                                     if i in of] for k in (0, 1)))
                           for v, of in found[split].items()}
                   for split in found}
        targets = {split: benchmark.targets(summary[split]) for split in summary}
        seconds = round(time.perf_counter() - self._started, 2)
        results = {"summary": summary, "targets": targets, **about, "seconds": seconds, **last}
        flat.write(self.out_dir, results)
        write_json(self.out_dir / RESULTS_FILE, results)
        return results

    def _heard(self, examples: Iterable[Made]) -> Iterator[Made]:
        """The same, as many together as networks judge at once: what hears their sound has heard
        it. One at a time on a CPU, which gains nothing."""
        together, left = at_once(TOGETHER) * shards(devices()), iter(examples)
        while some := list(itertools.islice(left, together)):
            if together > 1:
                self.benchmark.hear_ahead(make for _, make in some)
            yield from some

    def _ids(self, split: str):
        return self.benchmark.source(split).ids

    def _done(self, split: str, variant: str, index: int) -> bool:
        key = self.key(split, variant, index)
        return self.rows.get(key) is not None and (
            variant not in self.keeps or media.intact(self.out_dir, self.rows.media.get(key)))

    def _add(self, split: str, variant: str, bar, index: int, make) -> None:
        """Scores what `make` returns: Signals."""
        found, benchmark = None, self.benchmark
        with failures.tolerated(index, functools.partial(self._failed, split, variant, bar)):
            signals = make()
            row = benchmark.score(split, index, signals)
            frames = (benchmark.frames(split, index, signals)
                      | benchmark.kept(split, index, signals))
            found = row, frames, (media.keep(self.out_dir, benchmark, split, variant, index,
                                             signals) if variant in self.keeps else None)
        if found:
            self.rows.put(self.key(split, variant, index), *found)
            bar.update()

    def _failed(self, split: str, variant: str, bar, index: int, error: Exception) -> None:
        self._first_error = self._first_error or error
        self.rows.fail(self.key(split, variant, index), reason_of(error),
                       "".join(traceback.format_exception(error)))
        bar.update()

    def _check_any(self, found: dict, failed: list[dict]) -> None:
        """Raises the first error unless something that a model made was scored."""
        if not any(of[v] for of in found.values() for v in self.benchmark.models):
            raise self._first_error or UserError(
                "no example could be scored", where=str(self.out_dir), found=failed[0]["reason"],
                hint="the rows' files there say more")

    def _media(self, split: str, index: int) -> dict:
        """{"media": {variant: files below the folder}} of an example, where they are kept."""
        of = {v: self.rows.media.get(self.key(split, v, index)) for v in self.keeps}
        return {"media": {v: list(files) for v, files in sorted(of.items()) if files}} if of else {}

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
              indices: Iterable[int], failed: Failed = None):
    """Yields (index, Signals) of one variant, generated from what `Benchmark.given` makes of the
    examples. `failed` is told (index, error) of one that cannot be made; without it, the error is
    raised."""
    generator = benchmark.generator_of(variant, generator)
    for index, streams in generate_split(generator, params, benchmark.dataset, split, indices,
                                         benchmark.models[variant],
                                         functools.partial(benchmark.given, variant),
                                         failed=failed):
        signals = None
        with failures.tolerated(index, failed):
            signals = benchmark.model(streams, variant, split, index)
            signals.computed_s = generator.seconds.get(benchmark.source(split).ids[index])
        if signals is not None:
            yield index, signals


def samples(benchmark, generator: Generator, params, splits: Iterable[str], count: int = SHOWN,
            made: dict | None = None, failed: Iterable[dict] = (),
            ranked: dict | None = None) -> list[dict]:
    """Some scored examples of every split with Signals of every model variant and of the truth, for
    the report: the best, the median and the worst of the first variant that `ranked` (of
    results.json) has, with their "place"; else the first `count`. What `Run.score` has put into
    `made` is not generated again; examples of `failed` (of results.json) are left out."""
    out, made = [], dict(made or {})
    lost = {(f["split"], f["id"]) for f in failed}
    for split in splits:
        ids, places = benchmark.source(split).ids, _places(ranked or {}, split)
        indices = ([ids.index(name) for name in places if (split, name) not in lost] or [
            i for i in benchmark.select(split, 0) if (split, ids[i]) not in lost][:count])
        for variant in benchmark.models:
            todo = [i for i in indices if (split, variant, i) not in made]
            made |= {(split, variant, i): x for i,
                     x in generated(benchmark, generator, params, split, variant, todo)}
        out += [{"split": split, "id": ids[index], "benchmark": benchmark,
                 "text": benchmark.labels(split)[1][index],
                 "models": {v: made[split, v, index] for v in benchmark.models},
                 "truth": benchmark.truth(split, index),
                 "identity": benchmark.identity(split, index),
                 "place": places.get(ids[index], "")}
                for index in indices]
    return out


def _places(ranked: dict, split: str) -> dict[str, str]:
    """{id: "best by METRIC"} of `eval.run.ranked.all_ranked`."""
    variant, of = next(iter(ranked.get("examples", {}).get(split, {}).items()), ("", {}))
    by = f"by {ranked.get('metric')}" + f" of {variant}" * (variant != MODEL)
    return {name: f"{' and '.join(p for p, n in of.items() if n == name)} {by}"
            for name in of.values()}


def _system_recipe(system) -> dict:
    """What of the system's config decides its samples, as plain JSON."""
    config = getattr(system, "config", None)
    to_dict = getattr(config, "to_dict", None)
    return {"class": f"{type(system).__module__}.{type(system).__name__}",
            "config": json.loads(json.dumps(to_dict() if to_dict else str(config), default=str))}
