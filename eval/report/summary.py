"""The table of a split in the report, with targets, and what was measured over all its examples."""

import html

import numpy as np

from eval.registry import Metric, all_metrics
from eval.report import plots
from eval.report.drawn import Drawn
from eval.report.tables import cell, count, number, of_pairs, reported, shown, sources

TITLES = {"codec": "codec alone", "shuffled": "another one", "mean": "mean frame"}
TRUTH = "ground truth"
# entries of a conversation's row -> what their histogram is of
TIMING = {"gap_s": "gaps between turns", "pause_s": "pauses inside turns",
          "overlap_s": "overlaps", "transfer_s": "floor transfers (below 0: overlap)"}


def titles(results: dict, split: str) -> dict[str, str]:
    """What variants are called in the report; beside generated files, truths are recordings."""
    variants = results["summary"][split]
    apart = "codec" in variants or "generated" in results
    truth = TRUTH if apart else f"{TRUTH} via codec"
    return {v: (TITLES | {"truth": truth}).get(v, v) for v in variants}


def section(split: str, results: dict, drawn: Drawn) -> str:
    """Of one split, as HTML."""
    variants, models = results["summary"][split], results["models"]
    columns = _published(results, split)
    head = [*titles(results, split).values(), *columns]
    kinds = [" class=model" * (v in models) for v in variants] + [" class=published"] * len(columns)
    heads = "".join(f"<th scope=col{kind}>{html.escape(name)}</th>"
                    for name, kind in zip(head, kinds, strict=True))
    rows = "".join(_row(m, split, results, columns)
                   for m in metrics(results, split))
    notes = "".join(f"<p class='note published'>{html.escape(said)}</p>"
                    for said in sources(columns))
    name = html.escape(split)
    return (f"<section data-split='{name}'><h2 id='table-{name}'>{name} <span class=soft>"
            f"{count(results, split)} examples</span></h2>"
            f"<div class=scroll tabindex=0 role=region aria-labelledby='table-{name}'><table>"
            f"<thead><tr><th scope=col>metric</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
            f"</div>{_targets(split, results)}<p class=note>Small print: 95 % bootstrap interval "
            f"over examples.</p>{notes}{_timing(split, results, drawn)}</section>")


def metrics(results: dict, split: str) -> list[Metric]:
    """Those of the table, and those that only a paper has."""
    here = {m.name for m in shown(results["summary"][split], results.get("not_measured", {}))}
    here |= {name for c in _published(results, split).values() for name in c["values"][split]}
    return [m for m in all_metrics() if m.name in here]


def _published(results: dict, split: str) -> dict[str, dict]:
    """The papers' columns that say something of a split."""
    return {name: column for name, column in (results.get("published") or {}).items()
            if column["values"].get(split)}


def _row(metric, split: str, results: dict, columns) -> str:
    variants, lacking = results["summary"][split], results.get("not_measured", {})
    cells = "".join(f"<td{' class=model' if v in results['models'] else ''}>"
                    f"{_cell(entries.get(metric.name))}</td>" for v, entries in variants.items())
    if metric.name in lacking:
        cells = (f"<td colspan={len(variants)}>not measured: "
                 f"{html.escape(lacking[metric.name])}</td>")
    cells += "".join(f"<td class=published>{reported(c, split, metric.name) or '-'}</td>"
                     for c in columns.values())
    meaning = html.escape(metric.explanation)
    words = html.escape(f"{metric.name} {metric.family} {metric.explanation}", quote=True)
    return (f"<tr data-item data-split='{html.escape(split)}' data-family='{metric.family}' "
            f"data-words='{words}'><th scope=row><b>{metric.name}</b><small>{meaning}</small></th>"
            f"{cells}</tr>{_pairs(metric, split, results, len(columns))}")


def _pairs(metric, split: str, results: dict, papers: int) -> str:
    """A row for each pair of three or more speakers."""
    variants = results["summary"][split]
    rows = []
    for pair, values in of_pairs([of.get(metric.name) for of in variants.values()]).items():
        cells = "".join(f"<td{' class=model' if v in results['models'] else ''}>{number(x)}</td>"
                        for v, x in zip(variants, values, strict=True))
        rows.append(f"<tr data-item data-split='{html.escape(split)}' data-family='{metric.family}'"
                    f" data-words='{html.escape(f'{metric.name} {pair}', quote=True)}'>"
                    f"<th scope=row><small>{metric.name}, speaker {html.escape(pair)}</small></th>"
                    f"{cells}{'<td class=published>-</td>' * papers}</tr>")
    return "".join(rows)


def _cell(entry) -> str:
    value, _, interval = cell(entry).partition(" [")
    if not interval:
        return value
    return f"{value}<small>{interval.rstrip(']').replace(', ', ' – ')}</small>"


def _targets(split: str, results: dict) -> str:
    targets = "".join(
        f"<li class={'met' if t['met'] else 'missed'}>{html.escape(t['metric'])} "
        f"{html.escape(t['target'])} "
        f"<span class=soft>({number(t['value'])} against {number(t['limit'])})</span></li>"
        for t in results["targets"].get(split, ()))
    return f"<ul class=targets>{targets}</ul>" if targets else ""


def _timing(split: str, results: dict, drawn: Drawn) -> str:
    """Histograms of gaps, pauses, overlaps and floor transfers of all examples, where
    conversations were scored."""
    rows = [row for row in results["rows"] if row["split"] == split]
    panels: dict[str, dict[str, np.ndarray]] = {}
    for key, title in TIMING.items():
        found = {"truth": _all(rows, results["models"], f"true_{key}")} | {
            v: x for v in results["models"] if len(x := _all(rows, [v], key))}
        if len(found) > 1 and len(found["truth"]):
            panels[title] = found
    if not panels:
        return ""
    said = "; ".join(f"{title}: " + ", ".join(f"{who} {len(x)}, median {np.median(x):.2f} s"
                                              for who, x in of.items())
                     for title, of in panels.items())
    image = drawn.picture(f"turns.{split}", plots.histograms(panels), f"Histograms. {said}")
    return (f"<figure data-item data-split='{html.escape(split)}' data-family='turn-taking' "
            f"data-words='gap pause overlap floor transfer histogram'><figcaption>Turn-taking "
            f"against the corpus: {html.escape(said)}</figcaption>{image}</figure>")


def _all(rows, variants, key: str) -> np.ndarray:
    """The numbers of all examples, once each: of the first of these variants that has them."""
    found = [next((row[v][key] for v in variants if row.get(v) and key in row[v]), [])
             for row in rows]
    return np.array([x for own in found for x in own], np.float64)
