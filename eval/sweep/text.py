"""The table as plain text, and as CSV."""

import csv
import io

from eval.report.tables import number
from eval.sweep.statistics import ALPHA

WIDTH = 130  # letters of a line
CELL = 25


def text(table: dict) -> str:
    """Every block with rows of the sweep, metrics side by side as far as a line takes them."""
    names = ["row", *(row["name"] for row in table["rows"])]
    names += [v for block in table["blocks"] for m in block["metrics"] for v in m["baselines"]]
    first = 2 + max(map(len, names))
    lines = []
    for block in table["blocks"]:
        lines += [title(block), f"  {about(table)}"]
        columns = max(1, (WIDTH - first) // CELL)
        for begin in range(0, len(block["metrics"]), columns):
            lines += ["", *_lines(table, block["metrics"][begin:begin + columns], first)]
        lines.append("")
    lines += [f"{row['name']}: {parameters(row)}{', '.join(row['members'])}"
              for row in table["rows"]]
    lines += [f"missing: {m['name']}: {m['why']}" for m in table["missing"]]
    return "\n".join(lines + [f"remark: {remark}" for remark in table["remarks"]])


def title(block: dict) -> str:
    variant = "" if block["variant"] == "model" else f", {block['variant']}"
    return f"{block['split']}{variant}: {block['examples']} examples"


def about(table: dict) -> str:
    """What the numbers of a cell are."""
    over = " and ".join(table["over"])
    return (f"mean ± standard deviation over {over}, * the best; below it the difference from "
            f"{table['reference']}\n  (of distances, where nearer to the truth or 0 is better), "
            f"paired by {table['pairs']}, with p (t test, Holm), a verdict below {ALPHA}")


def parameters(row: dict) -> str:
    return f"{row['parameters']:,} parameters; " if row["parameters"] else ""


def _lines(table, metrics, first) -> list[str]:
    head = [f"{m['metric']} {m['better']}".strip() for m in metrics]
    out = [f"{'row':<{first}}" + "".join(f"{h:>{CELL}}" for h in head)]
    for row in table["rows"]:
        cells = [mean(m, row["name"]) for m in metrics]
        out.append(f"{row['name']:<{first}}" + "".join(f"{c:>{CELL}}" for c in cells))
        if any(below := [difference(m, row["name"]) for m in metrics]):
            out.append(" " * first + "".join(f"{c:>{CELL}}" for c in below))
    baselines = dict.fromkeys(v for m in metrics for v in m["baselines"])
    for variant in baselines:
        cells = [number(m["baselines"].get(variant)) for m in metrics]
        out.append(f"{variant:<{first}}" + "".join(f"{c:>{CELL}}" for c in cells))
    return out


def mean(metric: dict, row: str) -> str:
    """"0.981 ± 0.004 *" of a row."""
    if not (entry := metric["rows"].get(row)):
        return "-"
    spread = f" ± {number(entry['sd'])}" if entry["sd"] is not None else ""
    return f"{number(entry['mean'])}{spread}" + " *" * (metric["best"] == row)


def difference(metric: dict, row: str) -> str:
    """"-0.031 p .020 worse" of a row that is compared; else nothing."""
    d = metric["rows"].get(row, {}).get("difference")
    if not d:
        return ""
    p = "" if d["p_holm"] is None else f"p {d['p_holm']:.3f}".replace(" 0.", " .")
    p = p.replace("p .000", "p < .001")
    return f"{'+' * (d['mean'] > 0)}{number(d['mean'])} {p} {d['verdict']}".rstrip()


def as_csv(table: dict) -> str:
    """A line a split, variant, metric and row, then the baselines."""
    axes = list(dict.fromkeys(key for row in table["rows"] for key in row["values"]))
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n")
    write.writerow(["split", "variant", "metric", "better", "row", *axes, "n", "mean", "sd",
                    "difference", "low", "high", "p", "p_holm", "pairs"])
    for block in table["blocks"]:
        for m in block["metrics"]:
            where = [block["split"], block["variant"], m["metric"], m["better"]]
            for row in table["rows"]:
                if entry := m["rows"].get(row["name"]):
                    d = entry.get("difference", {})
                    write.writerow([*where, row["name"], *(row["values"].get(a, "") for a in axes),
                                    entry["n"], entry["mean"], entry["sd"], d.get("mean"),
                                    d.get("low"), d.get("high"), d.get("p"), d.get("p_holm"),
                                    d.get("n")])
            for variant, value in m["baselines"].items():
                write.writerow([block["split"], variant, m["metric"], m["better"], variant,
                                *[""] * len(axes), "", value, *[""] * 7])
    return file.getvalue()
