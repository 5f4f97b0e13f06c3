"""Smiles and blinks of real people, by landmarks of the pictures (eval/data/pictured.py).

A blink [ours]: the eyes' opening is below 0.75 of the recording's median for two frames or more.
"""

import numpy as np

from avjax.signal.runs import intervals
from eval.registry import declare

BLINK = 0.75  # of the median opening
LEAST = 2  # frames


def blinks(eyes_N) -> int:
    """How often the eyes are closed for a moment."""
    shut_K2 = intervals(np.asarray(eyes_N) < BLINK * np.median(eyes_N))
    return int(np.sum(np.diff(shut_K2) >= LEAST))


def _smile(case):
    if not case.aligned:
        return {}
    found = []
    for a, b in zip(case.signals.expressions, case.truth.expressions, strict=True):
        n = min(len(a.smile), len(b.smile))
        if n > 1 and min(a.smile[:n].std(), b.smile[:n].std()) > 1e-6:
            found.append(np.corrcoef(a.smile[:n], b.smile[:n])[0, 1])
    return {"smile_corr": float(np.mean(found))} if found else {}


def _blinks(case):
    fps = case.benchmark.reader.fps
    counts = [blinks(x.eyes) / len(x.eyes) for x in case.signals.expressions]
    return {"blinks_per_minute": float(np.mean(counts) * fps * 60)}


declare("smile_corr", "up", "correlation of the smile with the truth's", family="expression",
        score=_smile, needs=("motion", "points"), recipe=lambda benchmark: benchmark.reader.recipe)
declare("blinks_per_minute", "truth", "blinks", family="expression", score=_blinks, unit="1/min",
        needs=("motion", "points"),
        recipe=lambda benchmark: benchmark.reader.recipe | {"blink": BLINK, "frames": LEAST})
