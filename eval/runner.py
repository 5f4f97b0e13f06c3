"""Runs a system over held-out splits and scores it: the same code in the training loop and in `launch.evaluate`.

Every example has its own noise key, fold_in(key(seed), crc32(id)), and padding is hidden by a mask, so results do not
depend on batch size, order or what else is scored. Rows are appended to results.rows.jsonl as they come, each under a
key made of example, variant, parameters and recipes: a job that was killed, or one asked for more splits, goes on
where it stopped, and baselines are never computed twice.
"""

import functools
import hashlib
import json
import math
import os
import pathlib
import time
import zlib
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from avjax.errors import UserError
from data_pipelines.loader import check_features
from data_pipelines.schema import recipe_hash
from eval.benchmarks.common import BOOTSTRAP, VARIANTS

ROWS_FILE, RESULTS_FILE, FRAMES_DIR = "results.rows.jsonl", "results.json", "results.frames"


def bucket(length: int, quantum: int = 64) -> int:
    """Padded length: quantum times 1, 3/2, 2, 3, 4, 6, 8, ...: few shapes to compile, at most a third of it padding."""
    size = quantum
    while length > size * 3 // 2:
        size *= 2
    return size if length <= size else size * 3 // 2


def example_keys(seed: int, ids: Iterable[str]) -> jax.Array:
    """(batch,) typed keys, one an example: a function of seed and id alone."""
    checksums = np.array([zlib.crc32(i.encode()) for i in ids], np.uint32)
    return jax.vmap(lambda c: jax.random.fold_in(jax.random.key(seed), c))(jnp.asarray(checksums))


def fingerprint(params) -> str:
    """16 hex digits of the parameters' names, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class Generator:
    """`system.generate` over examples of any length, in padded batches of one size; compiles once a bucket."""

    def __init__(self, system, *, batch_size: int, seed: int):
        if batch_size < 1:
            raise UserError("no batch", where="config.evaluate.batch_size", expected=">= 1", found=str(batch_size))
        self.system, self.batch_size, self.seed = system, batch_size, seed
        self.names = tuple(n for n in system.conditions_spec if n != "mask")
        self._sequences = {n for n in self.names if "time" in system.conditions_spec[n].shape}
        self._generate = jax.jit(system.generate)

    def __call__(self, params, examples: Iterable[tuple[str, int, dict]]) -> Iterator[tuple[str, dict]]:
        """Yields (id, {stream: (length, dims) float32}) for (id, length, conditions), bucket by bucket.

        `conditions` may be a callable, so that nothing is read before it is needed.
        """
        buckets: dict[int, list] = {}
        for example in examples:
            buckets.setdefault(bucket(example[1]), []).append(example)
        for frames, members in sorted(buckets.items()):
            for first in range(0, len(members), self.batch_size):
                yield from self._batch(params, members[first:first + self.batch_size], frames)

    def _batch(self, params, members, frames: int):
        rows = members + [members[-1]] * (self.batch_size - len(members))  # one batch size, one compilation
        read = {name: c() if callable(c) else c for name, _, c in members}
        conditions = {n: np.stack([self._pad(n, read[i][n], frames) for i, _, _ in rows]) for n in self.names}
        lengths = np.array([length for _, length, _ in rows])
        conditions["mask"] = (np.arange(frames) < lengths[:, None]).astype(np.float32)
        streams = jax.device_get(self._generate(params, conditions, example_keys(self.seed, [r[0] for r in rows])))
        for row, (name, length, _) in enumerate(members):
            out = {n: np.asarray(x[row], np.float32)[:length] for n, x in streams.items()}
            for stream, value in out.items():
                if not np.isfinite(value).all():
                    raise UserError("the model generated values that are not finite", where=f"example {name}, {stream}",
                                    expected="finite numbers", found=f"{np.count_nonzero(~np.isfinite(value))} others",
                                    way_out="the training diverged: use an earlier checkpoint")
            yield name, out

    def _pad(self, name: str, value: np.ndarray, frames: int) -> np.ndarray:
        if name not in self._sequences or len(value) >= frames:
            return value
        return np.concatenate([value, np.repeat(value[-1:], frames - len(value), axis=0)])


class Rows:
    """Append-only store of scored rows. A line that a crash tore is dropped; any other damage is an error."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.path, self.frames_dir = self.folder / ROWS_FILE, self.folder / FRAMES_DIR
        self.frames_dir.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, dict] = {}
        if self.path.exists():
            self._load()

    def _load(self):
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # torn by a crash: cut it off, so that the next row starts on a line of its own
            os.truncate(self.path, whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                self.rows[record["key"]] = record["row"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError("unreadable row", where=f"{self.path}:{number}", expected="JSON with key and row",
                                found=line[:60].decode(errors="replace"), way_out="delete the file: rows are computed "
                                "again") from error

    def get(self, key: str) -> tuple[dict, tuple[np.ndarray, ...]] | None:
        """(row, frames) when both are there and readable."""
        if key not in self.rows:
            return None
        try:
            with np.load(self._frames_path(key), allow_pickle=False) as arrays:
                return self.rows[key], tuple(arrays[k] for k in ("face", "pose", "true_face", "true_pose"))
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def put(self, key: str, row: dict, frames: tuple[np.ndarray, ...]) -> None:
        """Frames first, row last: a row promises its frames."""
        path = self._frames_path(key)
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            np.savez(file, **{k: np.asarray(v, np.float32) for k, v in
                              zip(("face", "pose", "true_face", "true_pose"), frames, strict=True)})
        os.replace(partial, path)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "row": clean(row)}, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[key] = clean(row)

    def _frames_path(self, key: str) -> pathlib.Path:
        return self.frames_dir / (hashlib.sha256(key.encode()).hexdigest()[:20] + ".npz")


def clean(value):
    """JSON without NaN (null instead) and without numpy's types."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [clean(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def write_json(path, value) -> None:
    """Whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(clean(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def check(system, dataset) -> None:
    """UserError unless the dataset has the system's conditions and targets, made by the recipes it was trained on."""
    check_features(dataset, {n: s for n, s in system.conditions_spec.items() if n != "mask"})
    check_features(dataset, {n: s for n, s in system.batch_spec.items() if n in system.streams_spec})


def check_split(dataset, split: str) -> None:
    """UserError that lists the splits unless `split` is one."""
    if split not in dataset.splits:
        raise UserError("unknown split", where=str(dataset.dir), found=repr(split),
                        expected=" or ".join(dataset.splits), way_out="name one of the dataset's splits")


def generate_split(generator: Generator, params, dataset, split: str, indices: list[int]):
    """Yields (index, streams) for chosen examples of a split, in buckets."""
    lengths, source = dataset.source(split, ("mel",)), dataset.source(split, generator.names)
    ids = source.ids
    where = {ids[i]: i for i in indices}
    examples = [(ids[i], len(lengths[i]["mel"]), functools.partial(source.__getitem__, i)) for i in indices]
    for name, streams in generator(params, examples):
        yield where[name], streams


def evaluate(benchmark, generator: Generator, params, out_dir, *, splits: Iterable[str], max_examples: int = 0,
             meta: dict | None = None, progress: bool = True) -> dict:
    """Scores all variants on the splits; writes rows as they come and results.json at the end.

    Args:
      benchmark: eval.benchmarks.*.Benchmark.
      generator, params: the system and its parameters.
      out_dir: folder of results.rows.jsonl, results.frames/ and results.json.
      splits: names of the dataset's splits.
      max_examples: a split's examples to score, a fixed random subset; 0 = all.
      meta: stored in results.json as it is (config, checkpoint, step, ...).
      progress: show a bar.

    Returns:
      {"summary", "targets", "recipes", "rows", ...} as written.
    """
    started = time.perf_counter()
    splits = tuple(splits)
    for split in splits:
        check_split(benchmark.dataset, split)
    store, params_hash = Rows(out_dir), fingerprint(params)
    sampler = {"seed": generator.seed, "system": _system_recipe(generator.system)}
    made_by = recipe_hash({"params": params_hash, **sampler})

    def key(split, name, variant):
        return "|".join((split, name, variant, made_by if variant == "model" else "", benchmark.recipe_hash))

    summary, targets, rows = {}, {}, []
    for split in splits:
        indices = benchmark.select(split, max_examples)
        ids, texts = benchmark.source(split).ids, benchmark.labels(split)[1]
        found = {v: {i: got for i in indices if (got := store.get(key(split, ids[i], v)))} for v in VARIANTS}
        missing = sum(len(indices) - len(f) for f in found.values())
        bar = tqdm(total=missing, desc=f"scoring {split}", unit="row", disable=None if progress else True, leave=False)

        def add(variant, index, signals, split=split, ids=ids, found=found, bar=bar):
            row, frames = benchmark.score(split, index, signals), benchmark.frames(split, index, signals)
            store.put(key(split, ids[index], variant), row, frames)
            found[variant][index] = store.get(key(split, ids[index], variant))  # as a resumed job would find it
            bar.update()

        todo = [i for i in indices if i not in found["model"]]
        for index, streams in generate_split(generator, params, benchmark.dataset, split, todo):
            add("model", index, benchmark.model(streams))
        for variant in VARIANTS[1:]:
            for index in indices:
                if index not in found[variant]:
                    add(variant, index, benchmark.baseline(variant, split, index))
        bar.close()
        summary[split] = {v: benchmark.summarise(*map(list, zip(*(found[v][i] for i in indices), strict=True)))
                          for v in VARIANTS}
        targets[split] = benchmark.targets(summary[split])
        rows += [{"split": split, "id": ids[i], "text": texts[i], **{v: found[v][i][0] for v in VARIANTS}}
                 for i in sorted(indices, key=ids.__getitem__)]
    results = {"summary": summary, "targets": targets,
               "recipes": benchmark.recipes | {"intervals": BOOTSTRAP, "noise": "fold_in(key(seed), crc32(id))"},
               "benchmark": benchmark.name, "params": params_hash, "sampler": sampler,
               "seconds": round(time.perf_counter() - started, 2), **(meta or {}), "rows": rows}
    write_json(pathlib.Path(out_dir) / RESULTS_FILE, results)
    return results


def samples(benchmark, generator: Generator, params, splits: Iterable[str], count: int = 3) -> list[dict]:
    """The first few scored examples of every split with Signals of model and truth, for the report."""
    out = []
    for split in splits:
        indices = benchmark.select(split, count)
        for index, streams in generate_split(generator, params, benchmark.dataset, split, indices):
            out.append({"split": split, "id": benchmark.source(split).ids[index], "benchmark": benchmark,
                        "text": benchmark.labels(split)[1][index], "model": benchmark.model(streams),
                        "truth": benchmark.truth(split, index),
                        "identity": benchmark.identity(split, index)})
    return out


def _system_recipe(system) -> dict:
    """What of the system's config decides its samples, as plain JSON."""
    config = getattr(system, "config", None)
    to_dict = getattr(config, "to_dict", None)
    return {"class": f"{type(system).__module__}.{type(system).__name__}",
            "config": json.loads(json.dumps(to_dict() if to_dict else str(config), default=str))}


COLUMNS = (("F1_lips", "up"), ("FD_e", "down"), ("FD_h", "down"), ("FD_e_pooled", "down"), ("FD_h_pooled", "down"),
           ("FK_e", "down"), ("Div_e", "truth"), ("Div_h", "truth"), ("BC_e", "truth"), ("BC_h", "truth"),
           ("BC_e_gap", "down"), ("BC_h_gap", "down"), ("mel_L1", "down"), ("MCD", "down"), ("MCD_audio", "down"),
           ("WER", "down"))


def table(results: dict) -> str:
    """The summary as plain text: metric by variant, then the targets, a split after the other."""
    lines = []
    for split, variants in results["summary"].items():
        n = next(iter(variants["model"].values()))["n"]
        lines += [f"{split}: {n} examples  (value, then 95 % interval over examples)",
                  f"  {'metric':<13}{'better':<8}" + "".join(f"{v:>24}" for v in variants)]
        for metric, better in COLUMNS:
            if metric in variants["model"]:
                cells = "".join(f"{cell(variants[v].get(metric)):>24}" for v in variants)
                lines.append(f"  {metric:<13}{better:<8}{cells}")
        for t in results["targets"].get(split, ()):
            lines.append(f"  target: {t['metric']} {t['target']}: {'met' if t['met'] else 'missed'} "
                         f"({number(t['value'])} against {number(t['limit'])})")
        lines.append("")
    return "\n".join(lines)


def number(value) -> str:
    """Three significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    return "0" if abs(value) < 1e-6 else f"{value:.3g}"


def cell(entry: dict | None) -> str:
    """One cell of the table."""
    if not entry or entry.get("value") is None or not math.isfinite(entry["value"]):
        return "-"
    if entry.get("low") is None:
        return number(entry["value"])
    return f"{number(entry['value'])} [{number(entry['low'])}, {number(entry['high'])}]"
