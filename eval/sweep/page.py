"""The table as one self-contained page, and its plots as PNG."""

import datetime
import html

import numpy as np

from eval.report import media, page, plots
from eval.report.tables import number
from eval.sweep import text

COLUMNS = 4  # plots beside each other
COLORS = {"truth": plots.TRUE, "codec": plots.TRUE}
LINES = ("-", "--", ":", "-.")


def write(table: dict, name: str) -> str:
    """The page's text."""
    runs = sum(len(row["members"]) for row in table["rows"])
    about = (f"{runs} runs · " + datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))
    parts = [f"<p class=note>{html.escape(remark)}</p>" for remark in table["remarks"]]
    if table["missing"]:
        parts.append("<ul class=targets>" + "".join(
            f"<li class=missed>{html.escape(m['name'])} "
            f"<span class=soft>{html.escape(m['why'])}</span></li>"
            for m in table["missing"]) + "</ul>")
    for block in table["blocks"]:
        drawn = media.picture(figure(table, block), html.escape(text.title(block)))
        about_cells = html.escape(text.about(table).replace("* the best", "the best is shaded"))
        parts.append(f"<h2>{html.escape(text.title(block))}</h2>{_table(table, block)}"
                     f"<p class=note>{about_cells}. A point is a run; a baseline that "
                     f"is not near the runs is in the table only.</p>{drawn}")
    rows = "".join(f"<li>{html.escape(row['name'])}: {text.parameters(row)}"
                   f"{html.escape(', '.join(row['members']))}</li>" for row in table["rows"])
    body = "\n".join([*parts, f"<h2>Runs</h2><ul>{rows}</ul>"])
    meanings = {m["metric"]: m["meaning"] for block in table["blocks"] for m in block["metrics"]}
    return page.fill(name, about, body, "\n".join(f"{k}: {v}" for k, v in meanings.items()))


def _table(table, block) -> str:
    rows = [row["name"] for row in table["rows"]]
    baselines = list(dict.fromkeys(v for m in block["metrics"] for v in m["baselines"]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [*rows, *baselines])
    lines = []
    for m in block["metrics"]:
        cells = "".join(f"<td{' class=model' if m['best'] == name else ''}>{_cell(m, name)}</td>"
                        for name in rows)
        cells += "".join(f"<td class=soft>{number(m['baselines'].get(v))}</td>" for v in baselines)
        lines.append(f"<tr><td><b>{html.escape(m['metric'])}</b> <span class=soft>{m['better']}"
                     f"</span></td>{cells}</tr>")
    return (f"<div class=scroll><table><tr><th>metric</th>{head}</tr>{''.join(lines)}</table>"
            "</div>")


def _cell(metric, row) -> str:
    shown, below = text.mean(metric, row).removesuffix(" *"), text.difference(metric, row)
    return shown + (f"<small>{html.escape(below)}</small>" if below else "")


def figure(table, block) -> bytes:
    """PNG: a plot a metric, with a point a run, the mean of each row, and baselines as lines."""
    metrics, rows = block["metrics"], [row["name"] for row in table["rows"]]
    lines = -(-len(metrics) // COLUMNS)
    drawn, axes = plots.plt.subplots(lines, COLUMNS, figsize=(3.1 * COLUMNS, 2.5 * lines),
                                     squeeze=False, layout="constrained")
    for axis in axes.flat[len(metrics):]:
        axis.set_visible(False)
    for axis, m in zip(axes.flat, metrics, strict=False):
        _plot(axis, m, rows)
    plots.legend(drawn, axes)
    return plots.png(drawn)


def _plot(axis, m, rows) -> None:
    for at, name in enumerate(rows):
        if entry := m["rows"].get(name):
            values = list(entry["values"].values())
            axis.errorbar(at, entry["mean"], entry["sd"], color=plots.INK, capsize=5, lw=1,
                          marker="_", ms=14)
            axis.plot(at + np.linspace(-0.12, 0.12, len(values)), values, "o", ms=4, alpha=0.8,
                      color=plots.GENERATED[at % len(plots.GENERATED)])
    values = [v for entry in m["rows"].values() for v in entry["values"].values()]
    reach = 0.4 * np.ptp(values) or 0.1 * abs(values[0]) or 1.0
    axis.set_ylim(min(values) - reach, max(values) + reach)
    for k, (variant, value) in enumerate(m["baselines"].items()):
        axis.axhline(value, lw=0.9, ls=LINES[k % len(LINES)], label=variant,
                     color=COLORS.get(variant, "#98a2b3"))
    axis.set_xlim(-0.5, len(rows) - 0.5)
    axis.set_xticks(range(len(rows)), rows, rotation=30 if len(rows) > 2 else 0, fontsize=7)
    axis.set_title(f"{m['metric']}  {m['better']}", loc="left", fontsize=9, color=plots.INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=7, colors=plots.INK)
