"""Comparisons as plain text, and as files."""

import json
import pathlib

from avjax.storage import atomic
from eval.report.tables import number
from eval.run.rows import clean
from eval.sweep.statistics import ALPHA

NAME = "compared"


def text(found: dict) -> str:
    """A table for each result that is compared with the first."""
    return "\n\n".join(_table(found["first"], other) for other in found["others"])


def write(found: dict, folder) -> list[pathlib.Path]:
    """compared.json and compared.txt, each whole or not at all."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {f"{NAME}.json": json.dumps(clean(found), indent=1) + "\n",
               f"{NAME}.txt": text(found) + "\n"}
    for name, what in content.items():
        atomic.write(folder / name, what)
    return [folder / name for name in content]


def _table(first: str, other: dict) -> str:
    several = len({(m["split"], m["variant"]) for m in other["metrics"]}) > 1
    lines = [f"{other['name']} against {first}"]
    for split, of in other["examples"].items():
        failed = f"; failed: {of['failed'][0]} and {of['failed'][1]}" * any(of["failed"])
        lines.append(f"  {split}: {of['paired']} examples paired, of {of['first']} and "
                     f"{of['other']}{failed}")
    lines += [f"  remark: {remark}" for remark in other["remarks"]]
    if other["only"]:
        lines.append(f"  measured of one alone: {', '.join(other['only'])}")
    lines.append("  worst first; difference with its 95 % interval, p of a paired permutation test,"
                 f" and Holm's, a verdict below {ALPHA}")
    head = f"  {'metric':<26}{'better':<8}" + f"{'split, variant':<24}" * several
    lines.append(f"{head}{'first':>10}{'second':>10}  {'difference':<30}{'p':>8}{'Holm':>8}")
    for m in other["metrics"]:
        where = f"{m['split']}, {m['variant']}"
        lines.append(f"  {m['metric']:<26}{m['better']:<8}" + f"{where:<24}" * several
                     + f"{number(m['first']):>10}{number(m['second']):>10}  {_difference(m):<30}"
                     f"{_p(m['p']):>8}{_p(m['p_holm']):>8}  {m['verdict']}".rstrip())
    return "\n".join(lines)


def _difference(m: dict) -> str:
    sign = "+" * (m["difference"] > 0)
    if m["low"] is None:
        return sign + number(m["difference"]) + " (no test)" * (m["p"] is None)
    return f"{sign}{number(m['difference'])} [{number(m['low'])}, {number(m['high'])}]"


def _p(p: float | None) -> str:
    return "" if p is None else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") or "0"
