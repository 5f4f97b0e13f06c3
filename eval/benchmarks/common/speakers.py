"""Metrics of one speaker on dialogues: each speaker is scored alone, by the functions that score
clips, and what they find is put together."""

from typing import Any

import numpy as np

from eval.registry import Case, Metric

EACH = {"each", "waveform"}  # a metric that needs one of these is of one speaker
RECIPE = {"speakers": "each alone; the mean of numbers, the sum of counts, pictures of all"}


def of_one(metric: Metric) -> bool:
    """Whether a metric is of one speaker."""
    return not EACH.isdisjoint(metric.needs)


class OneOf:
    """A benchmark of dialogues, as metrics of clips ask for it: of one speaker.

    Args:
      benchmark: eval.benchmarks.dialogue.Benchmark.
      speaker: index.
    """

    def __init__(self, benchmark, speaker: int):
        self._benchmark, self._speaker = benchmark, speaker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._benchmark, name)

    def labels(self, split: str) -> tuple[list[str], list[str]]:
        """(names, what this speaker says in each dialogue)."""
        return self._benchmark.said(split)[self._speaker]

    def other(self, split: str, index: int) -> int:
        """Another dialogue."""
        return self._benchmark.others(split, index, 1)[0]

    def identity(self, split: str, index: int) -> dict:
        """Nothing: pictures are decoded."""
        return {}

    def clip_audio(self, split: str, index: int) -> np.ndarray | None:
        """The recording of this speaker at `sample_rate`; None where it is not at hand."""
        return self._benchmark.recorded(split, index, self._speaker)


def scored(benchmark, functions: list, case: Case) -> dict:
    """Entries of all speakers together: a count of each kind is summed, numbers are averaged over
    the speakers who have one (NaN where none has), arrays and words are put one after the other."""
    parts = []
    for number, (own, true) in enumerate(zip(case.signals.alone, case.truth.alone, strict=True)):
        one, part = Case(OneOf(benchmark, number), case.split, case.index, own, true), {}
        for function in functions:
            part |= function(one)
        parts.append(part)
    return {name: _together([part.get(name) for part in parts])
            for name in dict.fromkeys(name for part in parts for name in part)}


def _together(found: list) -> Any:
    found = [x for x in found if x is not None]
    if not found:
        return None
    if isinstance(found[0], dict):
        return {kind: sum(x[kind] for x in found) for kind in found[0]}
    if isinstance(found[0], str):
        return " / ".join(found)
    if np.ndim(found[0]):
        return np.concatenate(found)
    finite = [float(x) for x in found if np.isfinite(x)]
    return float(np.mean(finite)) if finite else float("nan")
