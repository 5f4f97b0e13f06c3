"""Scores every alteration of every held-out example beside the truth, and writes

    sensitivity.json   {"curves": {split: {alteration: {metric: {"levels", "truth", "values",
                       "verdict"}}}}, "alterations", "recipes", "not_measured", ...}
    sensitivity.txt    a table of verdicts, and one of values for each alteration
    sensitivity.png    the curves

Rows are kept as in an evaluation (eval/run/rows.py): a job that was killed goes on where it
stopped.
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from tqdm import tqdm  # noqa: E402

from avjax.errors import UserError  # noqa: E402
from avjax.storage import atomic  # noqa: E402
from eval.data.clips import Signals  # noqa: E402
from eval.report.tables import number  # noqa: E402
from eval.run.rows import Rows, write_json  # noqa: E402
from eval.run.runner import check_split  # noqa: E402
from eval.sensitivity import alterations, verdicts  # noqa: E402

NAME = "sensitivity"
TRUTH = "truth"


def run(benchmark, out, splits, *, max_examples: int = 0, progress: bool = True) -> dict:
    """The content of sensitivity.json. UserError: a benchmark of conversations or text, no such
    split, nothing to score."""
    out = pathlib.Path(out)
    curves = {}
    for split in splits:
        check_split(benchmark.dataset, split)
        indices = list(benchmark.select(split, max_examples))
        if not indices or not isinstance(benchmark.truth(split, indices[0]), Signals):
            raise UserError("nothing here that can be altered", where=f"--sensitivity, {split}",
                            expected="examples of one speaker with sound or motion",
                            found=f"{len(indices)} examples of the benchmark {benchmark.name}")
        curves[split] = _curves(benchmark, Rows(out), split, indices, progress)
    results = {
        "curves": curves, "benchmark": benchmark.name, "recipes": benchmark.recipes,
        "examples": {split: len(benchmark.select(split, max_examples)) for split in curves},
        "verdicts": verdicts.MEANINGS, "not_measured": benchmark.without_network,
        "alterations": {a.name: {"unit": a.unit, "levels": list(a.levels)}
                        for a in alterations.ALL}}
    write_json(out / f"{NAME}.json", results)
    atomic.write(out / f"{NAME}.txt", text(results))
    with atomic.file(out / f"{NAME}.png") as path:
        _plot(results, path)
    return results


def _curves(benchmark, rows: Rows, split: str, indices: list[int], progress: bool) -> dict:
    steps = [(a, level) for a in alterations.ALL for level in a.levels]
    with tqdm(total=(len(steps) + 1) * len(indices), desc=f"altering {split}", unit="row",
              disable=None if progress else True, leave=False) as bar:
        def summary(name, make):
            found = [_row(benchmark, rows, split, index, name, make, bar) for index in indices]
            found = [row for row in found if row is not None]
            return benchmark.summarise(*([pair[k] for pair in found] for k in (0, 1)))

        truth = summary(TRUTH, benchmark.truth)
        by_level = {(a.name, level): summary(
            f"{a.name} {level:g}", lambda split, index, a=a, level=level: a.make(
                benchmark, split, index, level)) for a, level in steps}
    out: dict = {}
    for a in alterations.ALL:
        out[a.name] = {}
        for metric in benchmark.metrics:
            values = [by_level[a.name, level].get(metric.name, {}).get("value")
                      for level in a.levels]
            if not metric.better or all(value is None for value in values):
                continue
            known = truth.get(metric.name, {}).get("value")
            out[a.name][metric.name] = {"levels": list(a.levels), "truth": known, "values": values,
                                        "verdict": verdicts.verdict(metric, known, values)}
    return out


def _row(benchmark, rows: Rows, split: str, index: int, name: str, make, bar):
    """(row, frames) of one example, kept; None where it cannot be altered so."""
    key = "|".join((split, benchmark.source(split).ids[index], name, benchmark.recipe_hash))
    if rows.get(key) is None and (signals := make(split, index)) is not None:
        rows.put(key, benchmark.score(split, index, signals),
                 benchmark.frames(split, index, signals) | benchmark.kept(split, index, signals))
    bar.update()
    return rows.get(key)


def text(results: dict) -> str:
    """Tables for people: verdicts of every metric and alteration, then values."""
    lines = []
    for split, found in results["curves"].items():
        names = list(found)
        metrics = list(dict.fromkeys(m for of in found.values() for m in of))
        wide = 2 + max(map(len, names))
        lines += [f"{split}: {results['examples'][split]} examples; what becomes of a metric as an "
                  "alteration grows", f"{'metric':<22}" + "".join(f"{n:>{wide}}" for n in names)]
        lines += [f"{m:<22}" + "".join(f"{of.get(m, {}).get('verdict', ''):>{wide}}"
                                       for of in found.values()) for m in metrics]
        for name, of in found.items():
            about = results["alterations"][name]
            lines += ["", f"{split}, {name} ({about['unit']})", f"{'metric':<22}" + "".join(
                f"{x:>10}" for x in (TRUTH, *(f"{level:g}" for level in about["levels"])))]
            lines += [f"{m:<22}" + "".join(f"{number(x):>10}" for x in (e["truth"], *e["values"]))
                      for m, e in of.items()]
        lines.append("")
    lines += [f"{name}: {meaning}" for name, meaning in results["verdicts"].items()]
    return "\n".join(lines) + "\n"


def _plot(results: dict, path) -> None:
    """A row a split and alteration: every metric between its least and its largest value."""
    rows = [(split, name, of) for split, found in results["curves"].items()
            for name, of in found.items() if of]
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 3.2 * len(rows)), squeeze=False,
                                layout="constrained")
    for axis, (split, name, of) in zip(axes[:, 0], rows, strict=True):
        for metric, entry in of.items():
            values = [entry["truth"], *entry["values"]]
            if entry["verdict"] in (verdicts.UNDEFINED, verdicts.FLAT):
                continue
            low, high = min(values), max(values)
            axis.plot([(x - low) / (high - low) for x in values], lw=1, marker=".", label=metric)
        axis.set_xticks(range(len(entry["values"]) + 1), [TRUTH, *(f"{x:g}"
                                                                   for x in entry["levels"])])
        axis.set_title(f"{split}, {name} ({results['alterations'][name]['unit']})", loc="left",
                       fontsize=9)
        axis.legend(fontsize=6, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, format="png", dpi=110)
    plt.close(figure)
