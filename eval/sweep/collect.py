"""Members' results as one table: rows are what was swept, numbers are means over what was repeated
(seeds), beside baselines, and compared with one of the rows pair by pair.

The table is plain JSON:

    {"over", "pairs", "reference", "rows": [{"name", "values", "members", "parameters"}],
     "missing": [{"name", "why"}], "remarks": [text],
     "blocks": [{"split", "variant", "examples", "metrics": [
         {"metric", "better", "meaning", "best", "rows": {row: {"mean", "sd", "n", "values": {pair:
          number}, "difference": {"mean", "low", "high", "p", "p_holm", "n", "verdict"}}},
          "baselines": {variant: number}}]}]}

A difference is of values, where nearer to the truth (or to 0) is better of distances to it.
"""

import difflib
import math
from collections.abc import Sequence

import numpy as np

from avjax.errors import UserError
from eval.registry import all_metrics
from eval.sweep.members import Member
from eval.sweep.statistics import ALPHA, distance, holm, paired, spread

PAIRS = ("seeds", "examples")


def collect(members: Sequence[Member], *, over: Sequence[str] = ("seed",),
            metrics: Sequence[str] = (), splits: Sequence[str] = (), variants: Sequence[str] = (),
            baselines: bool = True, reference: str = "", pairs: str = "seeds") -> dict:
    """The table of `members`.

    Args:
      members: from eval.sweep.members.find.
      over: axes that are averaged over.
      metrics, splits, variants: names; () = all. Variants are what the runs' models made.
      baselines: whether the other variants are shown too.
      reference: the row that others are compared with; "" = the first.
      pairs: "seeds": a pair is one value of `over`, and chance is what a seed does. "examples": a
        pair is an example, averaged over seeds; it says nothing of other seeds. Metrics that are
        not means over examples then have no difference.

    Raises:
      UserError: no member has results, or a name that there is not.
    """
    done = [m for m in members if m.results]
    if not done:
        raise UserError("no results yet", where=", ".join(m.name for m in members[:5]),
                        found="; ".join(f"{m.name}: {m.missing}" for m in members[:3]),
                        hint="let the sweep run, or avjax evaluate the runs")
    rows = _rows(members, over)
    with_results = [name for name in rows if any(m.results for m in rows[name])]
    reference = _known("--reference", [reference], with_results)[0] if reference \
        else with_results[0]
    found = {s: None for m in done for s in m.results["summary"]}
    models = {v: None for m in done for v in m.results["models"]}
    blocks = [_block(rows, split, variant, over, reference, baselines, pairs)
              for split in _known("--split", splits, found) or found
              for variant in _known("--variant", variants, models) or models]
    names = {m["metric"]: None for block in blocks for m in block["metrics"]}
    chosen = _known("--metrics", metrics, names) or names
    for block in blocks:
        block["metrics"] = [m for m in block["metrics"] if m["metric"] in chosen]
    return {"over": list(over), "pairs": pairs, "reference": reference,
            "rows": [{"name": name, "values": _row_values(of[0], over),
                      "members": [m.name for m in of],
                      "parameters": next((m.results.get("parameters") for m in of if m.results),
                                         None)}
                     for name, of in rows.items()],
            "missing": [{"name": m.name, "why": m.missing} for m in members if not m.results],
            "remarks": _remarks(done, rows, chosen) + _unpaired(rows, over, reference),
            "blocks": [b for b in blocks if b["metrics"]]}


def _rows(members, over) -> dict[str, list[Member]]:
    """{row's name: its members}, in the order of the members."""
    values = [_row_values(m, over) for m in members]
    bare = all(len(v) == 1 for v in values)
    rows: dict[str, list[Member]] = {}
    for member, of in zip(members, values, strict=True):
        name = ", ".join(v if bare else f"{k}={v}" for k, v in of.items()) or "all"
        rows.setdefault(name, []).append(member)
    return rows


def _row_values(member: Member, over) -> dict[str, str]:
    return {key: value for key, value in member.values.items() if key not in over}


def _pair(member: Member, over) -> str:
    """Which of the repetitions a member is."""
    return ", ".join(member.values[key] for key in over if key in member.values) or member.name


def _known(flag: str, asked: Sequence[str], known) -> list[str]:
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), 1)
            raise UserError("there is no such name in the results", where=flag, found=name,
                            expected=", ".join(known), hint=f"{flag}={near[0]}" if near else "")
    return list(asked)


def _block(rows, split, variant, over, reference, baselines, pairs) -> dict:
    """One split of one variant."""
    of = {name: {_pair(m, over): m.results for m in found
                 if m.results and variant in m.results["summary"].get(split, {})}
          for name, found in rows.items()}
    every = [results for found in of.values() for results in found.values()]
    counted = {sum(row["split"] == split for row in results["rows"]) for results in every}
    made = [_metric(metric, of, split, variant, reference, baselines, pairs)
            for metric in all_metrics()]
    return {"split": split, "variant": variant, "examples": max(counted, default=0),
            "metrics": [m for m in made if m["rows"]]}


def _metric(metric, of, split, variant, reference, baselines, pairs) -> dict:
    values = {name: {pair: value for pair, results in found.items()
                     if (value := _summary(results, split, variant, metric.name)) is not None}
              for name, found in of.items()}
    values = {name: found for name, found in values.items() if found}
    rows = {name: spread(list(found.values())) | {"values": found}
            for name, found in values.items()}
    first = [results for found in of.values() for results in found.values()]
    others = {v: None for results in first for v in results["summary"].get(split, {})
              if v not in results["models"]} if baselines else {}
    shown = {v: float(np.mean(numbers)) for v in others
             if (numbers := [x for results in first if
                             (x := _summary(results, split, v, metric.name)) is not None])}
    others = [name for name in rows if name != reference and reference in rows]
    differ = {name: d for name in others
              if (d := _difference(metric, of, split, variant, reference, name, pairs))}
    for name, p in zip(differ, holm([d["p"] for d in differ.values()]), strict=True):
        difference = differ[name] | {"p_holm": p}
        rows[name]["difference"] = difference | {"verdict": _verdict(metric.better, difference)}
    return {"metric": metric.name, "better": metric.better, "meaning": metric.explanation,
            "best": _best(metric, of, split, values), "rows": rows, "baselines": shown}


def _summary(results, split, variant, metric) -> float | None:
    value = (results["summary"].get(split, {}).get(variant, {}).get(metric) or {}).get("value")
    return value if value is not None and math.isfinite(value) else None


def _truth(results, split, metric) -> float | None:
    return _summary(results, split, "truth", metric)


def _difference(metric, of, split, variant, reference, name, pairs) -> dict | None:
    """`name` minus `reference` over what both have."""
    both = [pair for pair in of[name] if pair in of[reference]]
    if pairs == "examples":
        found = [_by_example(metric, of[row][pair], split, variant)
                 for pair in both for row in (name, reference)]
        ids = set.intersection(*map(set, found)) if found else set()
        differences = [float(np.mean([a[i] - b[i] for a, b in
                                      zip(found[::2], found[1::2], strict=True)]))
                       for i in sorted(ids)]
    else:
        differences = []
        for pair in both:
            a, b = (_compared(metric, of[row][pair], split, variant) for row in (name, reference))
            if a is not None and b is not None:
                differences.append(a - b)
    return paired(differences) if differences else None


def _compared(metric, results, split, variant) -> float | None:
    value = _summary(results, split, variant, metric.name)
    if value is None:
        return None
    return distance(metric.better, value, _truth(results, split, metric.name))


def _by_example(metric, results, split, variant) -> dict[str, float]:
    """{id: what is compared}, of examples with a number of this metric."""
    out = {}
    for row in results["rows"]:
        value = row.get(variant, {}).get(metric.name)
        truth = row.get("truth", {}).get(metric.name)
        if row["split"] == split and isinstance(value, int | float):
            d = distance(metric.better, value, truth if isinstance(truth, int | float) else None)
            if d is not None:
                out[row["id"]] = d
    return out


def _verdict(better: str, difference: dict) -> str:
    """"better", "worse", or "" where chance may have made the difference, or it has no side."""
    if difference["p_holm"] is None or difference["p_holm"] >= ALPHA or not better:
        return ""
    return "better" if (difference["mean"] > 0) == (better == "up") else "worse"


def _best(metric, of, split, values) -> str | None:
    """The row with the best mean."""
    means = {}
    for name, found in values.items():
        compared = [distance(metric.better, value, _truth(of[name][pair], split, metric.name))
                    for pair, value in found.items()]
        if metric.better and None not in compared:
            means[name] = float(np.mean(compared))
    pick = max if metric.better == "up" else min
    return pick(means, key=means.get) if len(means) > 1 else None


def _unpaired(rows, over, reference) -> list[str]:
    """Which rows are compared with nothing."""
    pairs = {name: {_pair(m, over) for m in of if m.results} for name, of in rows.items()}
    alone = [name for name, own in pairs.items() if own and not own & pairs[reference]]
    return [f"no {' and '.join(over) or 'pair'} in common with {reference}, so no differences: "
            + ", ".join(alone)] if alone else []


def _remarks(done, rows, metrics) -> list[str]:
    """What makes the numbers less comparable than they look."""
    out = []
    counts = {name: sum(m.results is not None for m in of) for name, of in rows.items()}
    if len(set(counts.values())) > 1:
        out.append("rows have different numbers of runs: "
                   + ", ".join(f"{name} {count}" for name, count in counts.items()))
    steps = {str(m.results.get("step")) for m in done}
    if len(steps) > 1:
        out.append(f"trained for different numbers of steps: {', '.join(sorted(steps))}")
    differ = [name for name in metrics
              if any(m.results.get("recipes", {}).get(name)
                     != done[0].results.get("recipes", {}).get(name) for m in done)]
    if differ:
        out.append(f"measured by different recipes: {', '.join(differ)}")
    if any(m.results.get("benchmark") != done[0].results.get("benchmark") for m in done):
        out.append("scored by different benchmarks")
    elif "puppets" in str(done[0].results.get("benchmark")):
        out.append("Puppets are drawn faces with synthetic voices: these numbers say how designs "
                   "learn them, and nothing about realism.")
    return out
