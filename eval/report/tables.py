"""The summary of an evaluation as plain text."""

import math
import textwrap
from collections.abc import Container

from eval.registry import Metric, all_metrics

COLUMNS = 120
WIDEST = 4  # variants whose intervals still fit beside each other


def table(results: dict) -> str:
    """Metric by variant, then the targets, a split after the other. With many variants, values
    alone."""
    lines = []
    for split, variants in results["summary"].items():
        narrow = len(variants) > WIDEST
        width = 10 if narrow else 24
        width = max(width, 2 + max(map(len, variants)))
        lines += [f"{split}: {count(results, split)} examples  "
                  f"({'values' if narrow else 'value, then 95 % interval over examples'})",
                  f"  {'metric':<26}{'better':<8}" + "".join(f"{v:>{width}}" for v in variants)]
        lacking = results.get("not_measured", {})
        for metric in shown(variants, lacking):
            if metric.name in lacking:
                lines += textwrap.wrap(f"not measured: {lacking[metric.name]}", COLUMNS,
                                       initial_indent=f"  {metric.name:<26}{metric.better:<8}  ",
                                       subsequent_indent=" " * 38, break_long_words=False)
                continue
            entries = [variants[v].get(metric.name) for v in variants]
            cells = [cell(e).partition(" ")[0] if narrow else cell(e) for e in entries]
            lines.append(f"  {metric.name:<26}{metric.better:<8}"
                         + "".join(f"{c:>{width}}" for c in cells))
        for t in results["targets"].get(split, ()):
            lines.append(f"  target: {t['metric']} {t['target']}: "
                         f"{'met' if t['met'] else 'missed'} "
                         f"({number(t['value'])} against {number(t['limit'])})")
        lines.append("")
    return "\n".join(lines)


def shown(variants: dict[str, dict], lacking: Container[str] = ()) -> list[Metric]:
    """The metrics that any variant has, or that lack a network, in the order of the table."""
    return [m for m in all_metrics()
            if m.name in lacking or any(m.name in v for v in variants.values())]


def count(results: dict, split: str) -> int:
    """Examples of a split that were scored."""
    return sum(row["split"] == split for row in results["rows"])


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
