"""Is the mouth closed on the frames where it should be, and does it open with the sound?

F1_lips: a frame is closed when the inner-lip distance is below tau times the mouth's width;
precision and recall are pooled over all frames of all clips (after Richard et al. 2021, who give no
code; tau is our choice, in no paper). The sweep over tau shows how much the number depends on it.

Audio-visual offset: the lag at which the mouth's aperture correlates best with the loudness of the
sound that it is seen with, clip by clip (in a dialogue each speaker's mouth beside that speaker's
own channel), over all frames that both have. Pauses count: there the
mouth is shut and the sound at its floor. It stands where papers have SyncNet's offset (Chung and
Zisserman 2016), whose network is not at hand. Lags, floor and window are ours, chosen on puppets'
true faces, of which 84 % are best at lag 0 and all within a frame. Aperture and loudness are only
kin: read a variant's numbers beside the truth's.
"""

import numpy as np

from avjax.signal import rates
from eval import pooling
from eval.metrics import alignment, onsets
from eval.registry import declare

RECIPE = {"implementation": "avjax eval.metrics.lips 1", "closed": "aperture < tau * mouth width",
          "tau": 0.02, "sweep": [0.01, 0.02, 0.04, 0.08], "pooling": "frames of all clips",
          "fps": rates.VIDEO}
SYNC = {"implementation": "avjax eval.metrics.lips sync 1", "max_lag_s": 0.5, "within_ms": 40,
        "loudness": "dB of the power of two frames", "floor_db": onsets.FLOOR, "still": 0.005,
        "undefined": "NaN, left out: silence, less than 2 max_lag_s, or an aperture whose standard "
        "deviation is below still mouth widths"}


def closure_counts(aperture_N, truth_N, width, tau: float) -> np.ndarray:
    """(true positives, false positives, false negatives). Apertures and width share a unit; width
    scalar or (N,)."""
    return hits(np.asarray(aperture_N) < tau * width, np.asarray(truth_N) < tau * width)


def hits(predicted, actual) -> np.ndarray:
    """(true positives, false positives, false negatives) of two arrays of bool."""
    return np.array([np.sum(predicted & actual), np.sum(predicted & ~actual),
                     np.sum(~predicted & actual)], np.int64)


def f1(counts):
    """F1 of pooled counts (3, ...); NaN where neither side ever closes."""
    tp, fp, fn = np.asarray(counts, np.float64)
    return np.divide(2 * tp, 2 * tp + fp + fn, out=np.full_like(tp, np.nan), where=tp + fp + fn > 0)


def sweep(aperture_N, truth_N, width, taus=tuple(RECIPE["sweep"])) -> dict[str, np.ndarray]:
    """Closure counts for every tau."""
    return {f"{tau:g}": closure_counts(aperture_N, truth_N, width, tau) for tau in taus}


def correlations(aperture_N, loudness_N, most: int) -> np.ndarray:
    """(2 most + 1,) Pearson correlation of the aperture at frame n + lag with the loudness at frame
    n, for lags of -most to most frames; above 0 the mouth is late. NaN where either is constant;
    frames that are not finite are left out."""
    length = min(len(aperture_N), len(loudness_N))
    found = np.full(2 * most + 1, np.nan)
    for i, lag in enumerate(range(-most, most + 1)):
        n = np.arange(max(0, -lag), length - max(0, lag))
        pair = np.stack([aperture_N[n + lag], loudness_N[n]])
        pair = pair[:, np.isfinite(pair).all(0)]
        deviation = pair.std(1) if pair.size else np.zeros(2)
        if (deviation > 0).all():
            found[i] = np.mean(np.prod(pair - pair.mean(1, keepdims=True), 0)) / deviation.prod()
    return found


def sync(aperture_N, width, loudness_N, fps: float) -> tuple[float, float]:
    """(lag in frames of the best correlation of mouth and sound, correlation at lag 0); NaN twice
    where they are undefined. Aperture and width share a unit; width scalar or (N,)."""
    most = round(SYNC["max_lag_s"] * fps)
    opened = aperture_N / width
    opened = opened[np.isfinite(opened)]
    found = np.full(2 * most + 1, np.nan)
    if min(len(opened), len(loudness_N)) > 2 * most and opened.std() >= SYNC["still"]:
        found = correlations(aperture_N, loudness_N, most)
    if np.isnan(found).all():
        return np.nan, np.nan
    return float(np.nanargmax(found) - most), float(found[most])


def _closures(case, index_N=None) -> dict[str, list[int]]:
    """Counts for every threshold over the frames that both have, of all speakers. `index_N`: the
    variant's frame that belongs to each of the truth's."""
    pairs = zip(case.signals.apertures, case.truth.apertures, strict=True)
    return _counts(case.benchmark, (
        (aperture if index_N is None else aperture[index_N], true_aperture, width)
        for (aperture, _), (true_aperture, width) in pairs))


def _counts(benchmark, triples) -> dict[str, list[int]]:
    taus = sorted({benchmark.lip_recipe["tau"], *benchmark.lip_recipe["sweep"]})
    totals: dict[str, np.ndarray] = {}
    for aperture, true_aperture, width in triples:
        n = min(len(aperture), len(true_aperture))
        width = width[:n] if np.ndim(width) else width
        for tau, counts in sweep(aperture[:n], true_aperture[:n], width, taus).items():
            totals[tau] = totals.get(tau, 0) + counts
    return {tau: counts.tolist() for tau, counts in totals.items()}


def _raw(case):
    return {"lips": _closures(case)} if case.aligned else {}


def _clip(case):
    found = case.benchmark.clip_lips(case.split, case.index)
    if found is None:
        return {}
    (aperture, _), = case.signals.apertures
    return {"lips_clip": _counts(case.benchmark, [(aperture, *found)])}


def _warped(case):
    a, b = case.signals, case.truth
    if not (a.has_audio and b.has_audio):
        return {}
    index = alignment.matching_frames(case.path, a.audio_seconds, b.audio_seconds,
                                      case.benchmark.lip_recipe["fps"], len(a.lips[0]),
                                      len(b.lips[0]))
    return {"lips_dtw": _closures(case, index)}


def _sync(case):
    fps = case.benchmark.lip_recipe["fps"]
    lag, correlation = sync(*case.signals.lips, case.signals.loudness, fps)
    ms = 1000 * abs(lag) / fps
    return {"AV_offset": ms, "AV_correlation": correlation,
            "AV_within_1": np.nan if np.isnan(ms) else float(ms <= SYNC["within_ms"])}


def _sync_recipe(benchmark):
    of = {name: benchmark.lip_recipe[name] for name in ("fps", "read from")
          if name in benchmark.lip_recipe}
    return SYNC | of | {"sample_rate": benchmark.sample_rate,
                        "shuffled": "another sentence's motion, this one's audio"}


@pooling.labelled("F1 of the frames of all examples")
def _pooled(name, pool):
    counted = pool.entries(name.removeprefix("F1_"))
    if not counted:
        return None
    counts = {tau: np.array([c[tau] for c in counted]) for tau in counted[0]}
    return (pooling.interval(counts[f"{pool.benchmark.lip_recipe['tau']:g}"], f1_of_examples)
            | {"sweep": {tau: float(f1_of_examples(c)) for tau, c in counts.items()}})


def f1_of_examples(counts_nC):
    """F1 of the counts (..., examples, 3) of all examples."""
    return f1(np.moveaxis(counts_nC.sum(-2), -1, 0))


def _recipe(benchmark):
    """Without a given length, frames that only one of them has are left out."""
    return benchmark.lip_recipe | benchmark.common_frames


declare("F1_lips", "up", "mouth closed on the right frames", family="lips", score=_raw,
        pool=_pooled, recipe=_recipe, needs=("motion", "lips"), in_loop=True)
declare("F1_lips_dtw", "up", "mouth closed on the right frames, matched by what is heard",
        family="lips", score=_warped, pool=_pooled, needs=("motion", "lips", "clip", "free"),
        in_loop=True, recipe=lambda benchmark: benchmark.lip_recipe | alignment.RECIPE)
declare("F1_lips_clip", "up", "mouth closed where the recorded one is", family="lips",
        score=_clip, pool=_pooled, needs=("motion", "lips", "clip"),
        recipe=lambda benchmark: _recipe(benchmark) | {
                   "reference": "the clip's own lips, before any codec"})
for _name, _better, _meaning, _unit in (
        ("AV_offset", "down", "lag between mouth and sound, early or late", "ms"),
        ("AV_within_1", "up", "mouth and sound are within 40 ms, a frame of 25", ""),
        ("AV_correlation", "truth", "correlation of the mouth's aperture with loudness", "")):
    declare(_name, _better, _meaning, family="lips", score=_sync, unit=_unit, recipe=_sync_recipe,
            needs=("both", "lips", "waveform", "each"))
