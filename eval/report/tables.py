"""The summary of an evaluation as plain text."""

import math
import textwrap
from collections.abc import Container, Sequence

from eval.pooling import PAIRS
from eval.registry import Metric, all_metrics

COLUMNS = 120
WIDEST = 4  # variants whose intervals still fit beside each other


def table(results: dict) -> str:
    """Metric by variant and by what papers report, then the targets, a split after the other. With
    many columns, values alone."""
    lines, papers = [], results.get("published") or {}
    for split, variants in results["summary"].items():
        narrow = len(variants) + len(papers) > WIDEST
        width = 10 if narrow else 24
        width = max(width, 2 + max(map(len, (*variants, *papers))))
        lines += [f"{split}: {count(results, split)} examples  "
                  f"({'values' if narrow else 'value, then 95 % interval over examples'})",
                  f"  {'metric':<26}{'better':<8}"
                  + "".join(f"{v:>{width}}" for v in (*variants, *papers))]
        lacking = results.get("not_measured", {})
        for metric in shown(variants, lacking):
            theirs = [reported(paper, split, metric.name) for paper in papers.values()]
            name = f"  {metric.name:<26}{metric.better:<8}"
            if metric.name in lacking:
                if any(theirs):
                    lines.append(name + " " * width * len(variants)
                                 + "".join(f"{c or '-':>{width}}" for c in theirs))
                    name = ""
                lines += textwrap.wrap(f"not measured: {lacking[metric.name]}", COLUMNS,
                                       initial_indent=f"{name:<36}  ",
                                       subsequent_indent=" " * 38, break_long_words=False)
                continue
            entries = [variants[v].get(metric.name) for v in variants]
            cells = [cell(e).partition(" ")[0] if narrow else cell(e) for e in entries]
            lines.append(name + "".join(f"{c or '-':>{width}}" for c in (*cells, *theirs)))
            lines += [f"    {pair:<32}" + "".join(f"{number(x):>{width}}" for x in values)
                      for pair, values in of_pairs(entries).items()]
        for t in results["targets"].get(split, ()):
            lines.append(f"  target: {t['metric']} {t['target']}: "
                         f"{'met' if t['met'] else 'missed'} "
                         f"({number(t['value'])} against {number(t['limit'])})")
        lines.append("")
    return "\n".join([*lines, *sources(papers)])


def reported(paper: dict, split: str, metric: str) -> str:
    """What a paper reports, with a mark where its definition is not ours; "" where nothing."""
    value = paper["values"].get(split, {}).get(metric)
    return "" if value is None else number(value) + "*" * (metric in paper.get("caveats", {}))


def sources(papers: dict[str, dict]) -> list[str]:
    """Who reports what, with which caveats, each said once."""
    lines, told = [], set()
    for name, paper in papers.items():
        remarks = {paper.get("note", ""), *(f"* {metric}: {text}" for metric, text
                                            in paper.get("caveats", {}).items())} - {""}
        lines.append(f"{name}: {paper['source']}")
        lines += [f"  {remark}" for remark in sorted(remarks - told)]
        told |= remarks
    return lines


def shown(variants: dict[str, dict], lacking: Container[str] = ()) -> list[Metric]:
    """The metrics that any variant has, or that lack a network, in the order of the table."""
    return [m for m in all_metrics()
            if m.name in lacking or any(m.name in v for v in variants.values())]


def count(results: dict, split: str) -> int:
    """Examples of a split that were scored."""
    return sum(row["split"] == split for row in results["rows"])


def of_pairs(entries: Sequence[dict | None]) -> dict[str, list[float | None]]:
    """{pair of speakers: its value in each of the entries}, where entries have pairs."""
    found = [(entry or {}).get(PAIRS, {}) for entry in entries]
    return {pair: [of.get(pair, {}).get("value") for of in found]
            for pair in sorted({pair for of in found for pair in of})}


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
