"""What of an example's row a metric's number is made of, so that two results can be paired.

Of three kinds of metrics rows hold all: a mean of numbers, an error rate of counts of ERRORS, and
F1 of counts [true positives, false positives, false negatives] by threshold. Numbers of others are
of frames, events or identities of all examples together, which no row has.
"""

import math

import numpy as np

from eval.compare.paired import Statistic
from eval.metrics import lips
from eval.metrics.intelligibility import ERRORS, wer
from eval.registry import Metric
from eval.sweep.statistics import distance


def mean(total_RC, n):
    return total_RC[:, 0] / n


def rate(total_RC, n):
    return wer(total_RC[:, None])


def f1(total_RC, n):
    return lips.f1(total_RC.T)


def of(metric: Metric, row: dict, truth: dict, recipe: dict) -> tuple[Statistic, list] | None:
    """(statistic, (C,) columns) of one variant of one example; None where its row has nothing, or
    no row has what this metric is made of. The mean of a metric that should be near the truth's, or
    0, is that of the distances.

    Args:
      row, truth: the variant's entries and the truth's.
      recipe: of the metric, in results.json.
    """
    found = row.get(metric.name)
    if _is_number(found):
        other = truth.get(metric.name)
        compared = distance(metric.better, found, other if _is_number(other) else None)
        return None if compared is None else (mean, [float(compared)])
    if isinstance(found, dict) and set(ERRORS) <= found.keys():
        return rate, [found[kind] for kind in ERRORS]
    counts = row.get(metric.name.removeprefix("F1_")) if metric.name.startswith("F1_") else None
    if isinstance(counts, dict):
        main = recipe["events"]["tolerance_s"] if recipe.get("events") else recipe["tau"]
        return f1, counts[f"{main:g}"]
    return None


def _is_number(value) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and math.isfinite(value))


def paired(metric: Metric, rows: list[tuple[dict, dict, dict, dict]], recipe: dict):
    """(statistic, first (n, C), second (n, C)) of the examples that both have; None where there is
    none.

    Args:
      rows: of each example (first's variant, first's truth, second's variant, second's truth).
    """
    found = [(of(metric, a, true_a, recipe), of(metric, b, true_b, recipe))
             for a, true_a, b, true_b in rows]
    both = [(a, b) for a, b in found if a and b]
    if not both:
        return None
    first, second = (np.array([pair[k][1] for pair in both], np.float64) for k in (0, 1))
    return both[0][0][0], first, second
