"""Looks at one side of TAVID's robustness, and writes to a folder

    robustness.CHECK.json   {"check", "tables": {title: {row: {column: {"value", "n", "low",
                            "high"}}}}, "columns", "recipe", and what the check adds}
    robustness.CHECK.txt    the tables
    robustness.CHECK.png    a plot

Rows are kept as in an evaluation (eval/run/rows.py): a job that was killed goes on where it
stopped.
"""

import pathlib
from collections.abc import Sequence

from avjax.storage import atomic
from eval.report.tables import cell
from eval.robustness import plots, portraits, prosody, speakers
from eval.robustness.kept import Kept
from eval.robustness.pieces import check as pieces
from eval.robustness.subject import Subject
from eval.run.rows import write_json

CHECKS = {c.NAME: c for c in (pieces, portraits, prosody, speakers)}
PREFIX = "robustness"


def run(check: str, subject: Subject, out, splits: Sequence[str], *, progress: bool = True,
        **more) -> dict:
    """The content of robustness.CHECK.json.

    Args:
      check: one of CHECKS.
      out: folder.
      splits: of the dataset.
      more: what the check's `run` takes beside.

    Raises UserError: what the check cannot look at, no such split.
    """
    out, of = pathlib.Path(out), CHECKS[check]
    for split in splits:
        subject.source(split, ("id",))
    results = {"check": check, "splits": list(splits)} | of.run(
        subject, splits, Kept(out, subject, progress), **more)
    results |= {"columns": of.COLUMNS, "recipe": of.RECIPE}
    write_json(out / f"{PREFIX}.{check}.json", results)
    atomic.write(out / f"{PREFIX}.{check}.txt", text(results))
    with atomic.file(out / f"{PREFIX}.{check}.png") as path:
        plots.draw(results, path)
    return results


def text(results: dict) -> str:
    """Tables for people, then what the columns mean."""
    lines, shown = [], set()
    for title, table in results["tables"].items():
        columns = [c for c in results["columns"] if any(c in of for of in table.values())]
        shown |= set(columns)
        cells = {row: [cell(of.get(column)) for column in columns] for row, of in table.items()}
        wide = [max(len(x) for x in (column, *(of[k] for of in cells.values())))
                for k, column in enumerate(columns)]
        first = max(map(len, (title, *cells)))
        lines.append("  ".join([f"{title:<{first}}",
                                *(f"{c:>{w}}" for c, w in zip(columns, wide, strict=True))]))
        lines += ["  ".join([f"{row:<{first}}",
                             *(f"{x:>{w}}" for x, w in zip(of, wide, strict=True))])
                  for row, of in cells.items()]
        lines.append("")
    meanings = [f"{c}: {m}" for c, m in results["columns"].items() if c in shown]
    return "\n".join(lines + meanings) + "\n"
