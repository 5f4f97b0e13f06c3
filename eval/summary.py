"""Rows of one variant -> its metrics, pooled over examples, with bootstrap intervals."""

import numpy as np

from eval.metrics import diversity, frechet, lips

BOOTSTRAP = {"resamples": 1000, "interval": 0.95, "over": "examples", "seed": 0}
# of motion: suffix of a metric's name -> what it is taken on
PARTS = {"e": "face", "h": "pose", "m": "codes"}
MEANS = (*(metric.format(part) for metric in ("FD_{}", "FK_{}", "BC_{}", "BC_{}_gap")
           for part in PARTS), "mel_L1",
         "mel_L1_dtw", "MCD", "MCD_audio", "length_error", "length_error_signed", "stop_within_2")
CLOSURES = ("lips", "lips_clip", "lips_dtw")  # counts a threshold; F1_<name>
ERRORS = ("substitutions", "deletions", "insertions", "hits")


def summarise(rows: list[dict], frames: list[dict[str, np.ndarray]], tau: float) -> dict[str, dict]:
    """{metric: {"value", "low", "high", "n"}} of one variant; only metrics that its rows have.

    Args:
      rows: scores of examples, as eval.benchmarks.common makes them.
      frames: per example {part: (frames, width), "true_" part: ...} of the scored PARTS, for the
        pooled metrics; empty where motion is not scored.
      tau: threshold of lip closure that F1_lips is reported at; the other thresholds go into its
        "sweep".
    """
    out = {}
    for name in CLOSURES:
        if counted := [r[name] for r in rows if name in r]:
            counts = {t: np.array([c[t] for c in counted]) for t in counted[0]}
            out[f"F1_{name}"] = interval(counts[f"{tau:g}"],
                                         f1) | {"sweep": {t: float(f1(c)) for t,
                                                          c in counts.items()}}
    for metric in MEANS:
        if any(metric in r for r in rows):
            values = np.array([np.nan if r.get(metric) is None else r[metric] for r in rows],
                              np.float64)
            out[metric] = interval(values[np.isfinite(values)], mean)
    if counted := [r["WER"] for r in rows if "WER" in r]:
        out["WER"] = interval(np.array([[c[k] for k in ERRORS] for c in counted]), wer)
    for suffix, part in PARTS.items():
        own, true = ([f[name] for f in frames if len(f.get(name, ()))]
                     for name in (part, f"true_{part}"))
        if sum(map(len, own)) > 2:
            out |= {name: {"value": value, "n": len(own)}
                    for name,
                    value in pooled(suffix, np.concatenate(own), np.concatenate(true)).items()}
    return out


def pooled(suffix: str, own_ND: np.ndarray, true_ND: np.ndarray) -> dict[str, float]:
    """Metrics of one part of motion over all examples' frames together."""
    out = {f"FD_{suffix}_pooled": frechet.frechet(own_ND, true_ND),
           f"Div_{suffix}": diversity.div(own_ND)}
    return out | ({"var_e": diversity.var_g(own_ND)} if suffix == "e" else {})


def interval(values: np.ndarray, statistic) -> dict:
    """{"value", "n", "low", "high"}: percentile bootstrap over the first axis; no interval for
    fewer than 3 examples.

    `statistic` maps (..., n, columns) to (...): all resamples go through it at once.
    """
    values = values[:, None] if values.ndim == 1 else values
    out = {"value": float(statistic(values)), "n": len(values)}
    if len(values) < 3:
        return out
    draw = np.random.default_rng(BOOTSTRAP["seed"]).integers(0, len(values),
                                                             (BOOTSTRAP["resamples"], len(values)))
    low, high = np.nanpercentile(statistic(values[draw]), [2.5, 97.5])
    return out | {"low": float(low), "high": float(high)}


def mean(values_nC):
    """Of the only column; NaN of nothing."""
    return values_nC[..., 0].mean(-1) if values_nC.shape[-2] else np.nan


def f1(counts_nC):
    """Of true positives, false positives, false negatives."""
    return lips.f1(np.moveaxis(counts_nC.sum(-2), -1, 0))


def wer(counts_nC):
    """Of substitutions, deletions, insertions, hits."""
    s, d, i, h = np.moveaxis(counts_nC.sum(-2), -1, 0)
    return (s + d + i) / np.maximum(s + d + h, 1)
