"""What a model that has learned must reach, checked on a summary."""

import operator

import numpy as np


def near(value: float, true: float) -> bool:
    """Within a third, or within 1 of small numbers."""
    return abs(value - true) <= max(true / 3, 1)


_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "near": near}


class Targets:
    """Targets of one split's {variant: {metric: entry}}. `rows` is what `Benchmark.targets`
    returns."""

    def __init__(self, summary: dict[str, dict[str, dict]]):
        self.summary = summary
        self.rows: list[dict] = []

    def value(self, variant: str, metric: str) -> float:
        """NaN where there is none."""
        return self.summary.get(variant, {}).get(metric, {}).get("value", np.nan)

    def has(self, variant: str, metric: str) -> bool:
        """Whether the metric was computed; in the loop, say, those of waveforms are not."""
        return metric in self.summary.get(variant, {})

    def add(self, metric: str, text: str, value: float, sign: str, limit: float) -> None:
        """Met where `value sign limit`."""
        self.rows.append({"metric": metric, "target": text, "value": float(value),
                          "limit": float(limit), "met": bool(_SIGNS[sign](value, limit))})
