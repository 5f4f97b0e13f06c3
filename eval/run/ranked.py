"""Which examples came out best, in the middle and worst, by a metric that each example has."""

import collections
import difflib
import math

from avjax.errors import UserError
from eval import pooling
from eval.registry import Metric, all_metrics
from eval.sweep.statistics import distance


def ranked(results: dict, metric: str, split: str, variant: str) -> dict[str, str]:
    """The examples of one variant, ordered by a metric.

    Args:
      results: the content of results.json.
      metric: name of a metric (see `check`); "" = `by_default`.
      split, variant: of `results["summary"]`.

    Returns:
      {"best": id, "median": id, "worst": id}; of an even number the better of the two in the
      middle; ties go by id. {} where no example of this variant has a number. "Nearer to the truth"
      is meant of the example's own truth.

    Raises UserError: `check`.
    """
    metric = metric or by_default(results)
    if not metric:
        return {}
    order = [name for _, name in sorted(_costs(results, check(metric), split, variant))]
    if not order:
        return {}
    return {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}


def check(metric: str) -> Metric:
    """The metric of this name. UserError unless examples can be ranked by it."""
    found = {m.name: m for m in all_metrics() if m.better and m.pool is pooling.by_mean}
    if metric not in found:
        near = difflib.get_close_matches(metric, found, 1)
        raise UserError("no metric to rank examples by", where="--ranked_by", found=repr(metric),
                        expected="one with a better side that is a mean over examples, see avjax "
                        "evaluate --list", hint=f"--ranked_by={near[0]}" if near else "")
    return found[metric]


def by_default(results: dict) -> str:
    """The first metric of the table that tells the examples of a model apart in all splits: all
    have a number, and most another one (a lag in frames is mostly 0). Else the first that any
    example has; "" where there is none."""
    count = collections.Counter((row["split"], variant) for row in results["rows"]
                                for variant in results["models"] if variant in row)

    def tells(metric: Metric, split: str, variant: str, apart: bool) -> bool:
        costs = [cost for cost, _ in _costs(results, metric, split, variant)]
        return bool(costs) and (not apart or len(costs) == count[split, variant]
                                and 2 * len(set(costs)) > len(costs))

    return next((m.name for apart, whole in ((True, all), (False, any)) for m in all_metrics()
                 if m.better and m.pool is pooling.by_mean and any(
                     whole(tells(m, split, variant, apart) for split in results["summary"])
                     for variant in results["models"])), "")


def all_ranked(results: dict, metric: str = "") -> dict:
    """{"metric": its name, "examples": {split: {variant: `ranked`}}} of all that models made; {}
    where nothing can be ranked."""
    metric = metric or by_default(results)
    found = {split: {v: r for v in results["models"] if (r := ranked(results, metric, split, v))}
             for split in results["summary"]}
    return {"metric": metric, "examples": found} if metric else {}


def lines(results: dict) -> list[str]:
    """For the terminal: a line a split and variant."""
    found = results["ranked"]
    return [f"by {found['metric']}, {split}, {variant}: "
            + ", ".join(f"{place} {name}" for place, name in of.items())
            for split, variants in found.get("examples", {}).items()
            for variant, of in variants.items()]


def _costs(results: dict, metric: Metric, split: str, variant: str) -> list[tuple[float, str]]:
    """(what is the less the better, id) of examples with a number."""
    sign = -1.0 if metric.better == "up" else 1.0
    out = []
    for row in results["rows"]:
        value, truth = (_number(row.get(v, {}).get(metric.name)) for v in (variant, "truth"))
        if row["split"] == split and value is not None:
            found = distance(metric.better, value, truth)
            if found is not None:
                out.append((sign * found, row["id"]))
    return out


def _number(value) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
