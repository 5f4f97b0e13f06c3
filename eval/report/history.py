"""Curves over a training run: its losses, and its scores at several steps."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from avjax.errors import UserError
from eval.registry import all_metrics

TRAINING, SCORES = "metrics.jsonl", "history.jsonl"
IN_LOOP = "benchmark"  # the kind of the records of eval.run.in_loop
MOST = 12  # metrics whose scores are drawn

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # {name: (steps, values)}


def read_history(path, limit: int = 9) -> Series:
    """The scalars of a metrics.jsonl but scores; the most telling ones first, at most `limit`."""
    series: dict[str, list[tuple[int, float]]] = {}
    for record in _records(path):
        kind = record.get("kind", "")
        for key, value in record.items() if kind != IN_LOOP else ():
            if key not in ("step", "kind") and _is_number(value):
                name = f"{kind}/{key}".lstrip("/")
                series.setdefault(name, []).append((record["step"], float(value)))

    def interest(key):
        words = ("loss", "mel", "face", "head", "grad", "learning_rate", "lr", "mfu", "second")
        return next((i for i, w in enumerate(words) if w in key.lower()), len(words)), key
    names = sorted((k for k, points in series.items() if len(points) > 1), key=interest)[:limit]
    return {k: tuple(np.array(x) for x in zip(*series[k], strict=True)) for k in names}


def read_scores(out_dir, workdir=None) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Scores at several steps, for metrics that are better on one side, in the order of tables.

    Of the history.jsonl that `avjax evaluate --watch` leaves in `out_dir`, or above it, where
    `out_dir` is one step's; else those that the training's metrics.jsonl in `workdir` logged.

    Returns:
      {split: {metric: {variant: (4, N): step, value, low, high}}} of what was scored at two steps
      or more; low and high are NaN where there is no interval.
    """
    found: dict[tuple[str, str, str], dict[int, tuple]] = {}
    out = pathlib.Path(out_dir).absolute()
    for r in _records((out.parent if out.name.startswith("step_") else out) / SCORES):
        _put(found, (r.get("split"), r.get("metric"), r.get("variant")), r["step"],
             r.get("value"), r.get("low"), r.get("high"))
    if not found and workdir:
        for r in _records(pathlib.Path(workdir) / TRAINING):
            for key, value in r.items() if r.get("kind") == IN_LOOP else ():
                variant, _, metric = key.rpartition("/")
                _put(found, ("in the loop", metric, variant or "model"), r["step"], value)
    order = [m.name for m in all_metrics() if m.better]
    out: dict = {}
    for split in dict.fromkeys(split for split, _, _ in found):
        for metric in order:
            variants = {v: np.array([(step, *points[step]) for step in sorted(points)]).T
                        for (s, m, v), points in found.items()
                        if (s, m) == (split, metric) and len(points) > 1}
            if variants and len(out.setdefault(split, {})) < MOST:
                out[split][metric] = variants
    return {split: of for split, of in out.items() if of}


def _put(found, key, step, value, low=None, high=None) -> None:
    if _is_number(value):
        found.setdefault(key, {})[step] = tuple(
            float(x) if _is_number(x) else np.nan for x in (value, low, high))


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _records(path) -> Iterator[dict]:
    """The whole lines of a file that a job appends to; nothing without a file. UserError for a line
    that is no JSON object with a step."""
    path = pathlib.Path(path)
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        # the job still writes, or was killed writing, the last one
        if not line.strip() or not line.endswith("\n"):
            continue
        try:
            record = json.loads(line)
            record["step"] + 0
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("unreadable metrics", where=f"{path}:{number}",
                            expected="JSON with a step", found=line[:60],
                            hint="remove that line") from error
        yield record
