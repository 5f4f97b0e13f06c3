"""Rows of one variant -> its metrics, pooled over examples, with bootstrap intervals."""

import numpy as np

from eval.metrics import diversity, frechet, lips

BOOTSTRAP = {"resamples": 1000, "interval": 0.95, "over": "examples", "seed": 0}
MEANS = ("FD_e", "FD_h", "FK_e", "FK_h", "BC_h", "BC_e", "BC_h_gap", "BC_e_gap", "mel_L1", "mel_L1_dtw", "MCD", "MCD_audio",
         "length_error", "length_error_signed", "stop_within_2")
CLOSURES = ("lips", "lips_clip", "lips_dtw")  # counts a threshold; F1_<name>
ERRORS = ("substitutions", "deletions", "insertions", "hits")


def summarise(rows: list[dict], frames: list[tuple[np.ndarray, ...]], tau: float) -> dict[str, dict]:
    """{metric: {"value", "low", "high", "n"}} of one variant; only metrics that its rows have.

    Args:
      rows: scores of examples, as eval.benchmarks.common makes them.
      frames: per example (face (N, F), pose (N, P), true face, true pose), for the pooled metrics; empty where motion is
        not scored.
      tau: threshold of lip closure that F1_lips is reported at; the other thresholds go into its "sweep".
    """
    out = {}
    for name in CLOSURES:
        if counted := [r[name] for r in rows if name in r]:
            counts = {t: np.array([c[t] for c in counted]) for t in counted[0]}
            out[f"F1_{name}"] = interval(counts[f"{tau:g}"], f1) | {"sweep": {t: float(f1(c)) for t, c in counts.items()}}
    for metric in MEANS:
        if any(metric in r for r in rows):
            values = np.array([np.nan if r.get(metric) is None else r[metric] for r in rows], np.float64)
            out[metric] = interval(values[np.isfinite(values)], mean)
    if counted := [r["WER"] for r in rows if "WER" in r]:
        out["WER"] = interval(np.array([[c[k] for k in ERRORS] for c in counted]), wer)
    frames = [f for f in frames if len(f[0])]
    if sum(len(f[0]) for f in frames) > 2:
        face, pose, true_face, true_pose = (np.concatenate(x) for x in zip(*frames, strict=True))
        pooled = {"FD_e_pooled": frechet.frechet(face, true_face), "FD_h_pooled": frechet.frechet(pose, true_pose),
                  "Div_e": diversity.div(face), "Div_h": diversity.div(pose), "var_e": diversity.var_g(face)}
        out |= {k: {"value": v, "n": len(frames)} for k, v in pooled.items()}
    return out


def interval(values: np.ndarray, statistic) -> dict:
    """{"value", "n", "low", "high"}: percentile bootstrap over the first axis; no interval for fewer than 3 examples.

    `statistic` maps (..., n, columns) to (...): all resamples go through it at once.
    """
    values = values[:, None] if values.ndim == 1 else values
    out = {"value": float(statistic(values)), "n": len(values)}
    if len(values) < 3:
        return out
    draw = np.random.default_rng(BOOTSTRAP["seed"]).integers(0, len(values), (BOOTSTRAP["resamples"], len(values)))
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
