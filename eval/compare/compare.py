"""Two and more results beside each other, metric by metric, the worst regressions first."""

import math

from eval.compare import paired, results, terms
from eval.registry import all_metrics
from eval.sweep.statistics import ALPHA, distance, holm


def compare(paths: list[str]) -> dict:
    """Every result but the first, compared with the first.

    Args:
      paths: of `results.read`, two or more.

    Returns:
      {"first": name, "recipe": of the numbers, "others": [{"name", "examples": {split: {"paired",
      "first", "other", "failed"}}, "only": metrics that one of them lacks, "remarks": [str],
      "metrics": [{"split", "variant", "metric", "better", "first", "second", "difference", "low",
      "high", "p", "p_holm", "pairs", "verdict"}, ...]}]}. `difference` is of distances from the
      truth, or 0, where nearer is better; "first" and "second" are then those distances. Tested
      metrics come first, from the most certain loss to the most certain gain; then those whose
      number no row has (no interval, p and pairs), from the largest loss.

    Raises UserError: `results.check`.
    """
    first, *others = map(results.read, paths)
    for other in others:
        results.check(first, other)
    return {"first": first.name, "recipe": paired.RECIPE,
            "others": [_against(first, other) for other in others]}


def _against(first: results.Scored, other: results.Scored) -> dict:
    pairs = results.variants(first, other)
    shared = list(results.common(first, other))
    found = [entry for split in first.rows if split in other.rows for ours, theirs in pairs
             for metric in all_metrics()
             if (entry := _metric(metric, first, other, split, (ours, theirs), shared))]
    tested = [e for e in found if e["p"] is not None]
    for entry, p in zip(tested, holm([e["p"] for e in tested]), strict=True):
        entry["p_holm"] = p
        entry["verdict"] = _verdict(entry)
    one, two = first.recipes.keys(), other.recipes.keys()
    return {"name": other.name, "examples": _examples(first, other, shared),
            "only": sorted(one ^ two), "remarks": _remarks(first, other, pairs),
            "metrics": sorted(found, key=_badness)}


def _metric(metric, first, other, split, variants, shared) -> dict | None:
    """The entry of one metric; None where one of them has no number."""
    recipe = first.recipes.get(metric.name)
    if recipe is None or metric.name not in other.recipes:
        return None
    about = {"split": split, "variant": variants[0], "metric": metric.name,
             "better": metric.better}
    rows = [(a.get(variants[0], {}), a.get("truth", {}), b.get(variants[1], {}), b.get("truth", {}))
            for of, _, a, b in shared if of == split]
    if found := terms.paired(metric, rows, recipe):
        statistic, *both = found
        entry = paired.difference(*both, statistic)
    else:
        one, two = (_summary(x, split, v, metric) for x, v in
                    zip((first, other), variants, strict=True))
        if one is None or two is None:
            return None
        entry = {"first": one, "second": two, "difference": two - one, "low": None, "high": None,
                 "p": None, "pairs": None}
    return about | entry | {"p_holm": None, "verdict": ""}


def _summary(scored, split: str, variant: str, metric) -> float | None:
    """What is compared of a pooled number."""
    value, truth = (scored.content["summary"][split].get(v, {}).get(metric.name, {}).get("value")
                    for v in (variant, "truth"))
    return None if value is None else distance(metric.better, value, truth)


def _loss(entry: dict) -> float:
    """The difference, above 0 where the second is worse; 0 of what has no side."""
    if not entry["better"] or not math.isfinite(entry["difference"]):
        return 0.0
    return -entry["difference"] if entry["better"] == "up" else entry["difference"]


def _verdict(entry: dict) -> str:
    if entry["p_holm"] >= ALPHA or not _loss(entry):
        return ""
    return "worse" if _loss(entry) > 0 else "better"


def _badness(entry: dict) -> tuple:
    """Sorts from the worst loss to the best gain: tested ones by how often their interval fits into
    the difference, others by its share of the first's number."""
    loss = _loss(entry)
    if entry["p"] is not None:
        width = entry["high"] - entry["low"]
        return 0, -(loss / width if width else math.copysign(math.inf, loss) if loss else 0.0)
    return 1, -(loss / abs(entry["first"]) if entry["first"] else loss)


def _examples(first, other, shared) -> dict:
    count = {split: sum(of == split for of, *_ in shared) for split in first.rows}
    return {split: {"paired": count[split], "first": len(rows),
                    "other": len(other.rows.get(split, {})),
                    "failed": [sum(f["split"] == split for f in x.content.get("failed", ()))
                               for x in (first, other)]}
            for split, rows in first.rows.items()}


def _remarks(first, other, variants) -> list[str]:
    """What makes them less comparable than they look."""
    out = [f"{ours} is compared with {theirs}" for ours, theirs in variants if ours != theirs]
    steps = [x.content.get("step") for x in (first, other)]
    if steps[0] != steps[1]:
        out.append(f"trained for {steps[0]} and {steps[1]} steps")
    sounds = [x.content["recipes"].get("vocoder", "as usual") for x in (first, other)]
    if sounds[0] != sounds[1]:
        out.append(f"sound by vocoders: {sounds[0]}; {sounds[1]}")
    if first.content.get("params") == other.content.get("params"):
        out.append("both are of the same parameters")
    return out
