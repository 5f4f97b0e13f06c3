"""Beat consistency BC: how near is a motion beat to every audio onset?

score = mean over audio onsets of exp(-d^2 / (2 sigma^2)), d = time to the nearest motion beat. The
works that AV-Flow cites disagree about direction, sigma and threshold, so all three are arguments;
the defaults are in RECIPE. Motion beats are the minima of the rate of change (SAiD): |frame
difference| per coefficient over its normaliser, averaged over coefficients; threshold and smoothing
were chosen on ground truth alone, since without smoothing every frame's jitter is a beat. SAiD
divides by the mean over the clips being scored, so a clip's value depends on its company; we divide
by the mean over training clips. A clip without motion beats or onsets gives NaN, not 0, and is left
out.
"""

import functools

import numpy as np

from avjax.errors import UserError
from avjax.signal import rates
from eval.metrics import onsets
from eval.registry import PARTS, declare, needed

# every event of the first looks for the nearest of the second
DIRECTIONS = ("audio to motion", "motion to audio")
RECIPE = {"implementation": "avjax eval.metrics.beats 1", "direction": DIRECTIONS[0],
          "sigma_s": 0.1, "threshold": 0.1, "smooth_s": 2 / 30, "fps": rates.VIDEO,
          "normaliser": "mean |difference| per coefficient, training clips",
          "no_beats": "NaN, left out"}


def consistency(reference, beats, sigma: float) -> float:
    """Mean over `reference` events of exp(-d^2 / 2 sigma^2) to the nearest of `beats` (same unit);
    NaN if either is empty."""
    reference, beats = np.asarray(reference, np.float64), np.asarray(beats, np.float64)
    if not len(reference) or not len(beats):
        return float("nan")
    nearest = np.abs(reference[:, None] - beats[None]).min(1)
    return float(np.exp(-nearest ** 2 / (2 * sigma ** 2)).mean())


def mean_change(clips) -> np.ndarray:
    """Normaliser (D,): mean |frame difference| over all clips' frames."""
    return np.concatenate([np.abs(np.diff(x, axis=0)) for x in clips]).astype(np.float64).mean(0)


def change_rate(motion_ND: np.ndarray, normaliser_D: np.ndarray) -> np.ndarray:
    """(N - 1,) normalised rate of change; entry i lies between frames i and i + 1."""
    rate_ND = np.abs(np.diff(np.asarray(motion_ND, np.float64), axis=0))
    moving = normaliser_D > 1e-12  # a coefficient that never moves has no beats
    if not moving.any():
        return np.zeros(len(rate_ND))
    return (rate_ND[:, moving] / normaliser_D[moving]).mean(1)


def motion_beats(rate_N: np.ndarray, fps: float, threshold: float) -> np.ndarray:
    """Times (s) of the local minima whose larger neighbouring rise exceeds `threshold`; ends never
    count."""
    before, here, after = rate_N[:-2], rate_N[1:-1], rate_N[2:]
    rise = np.maximum(before, after) - here
    index = 1 + np.flatnonzero((here < before) & (here < after) & (rise > threshold))
    return index / fps


def smooth(x_ND: np.ndarray, frames: float) -> np.ndarray:
    """Gaussian of `frames` standard deviation along time; 0 leaves the input alone."""
    if frames <= 0:
        return x_ND
    from scipy.ndimage import gaussian_filter1d
    return gaussian_filter1d(np.asarray(x_ND, np.float64), frames, axis=0)


def score(onsets_s, motion_ND: np.ndarray, normaliser_D: np.ndarray,
          recipe: dict = RECIPE) -> float:
    """BC of one clip: audio onsets (s) against the motion beats of (N, D) coefficients, or the
    reverse. UserError for another direction."""
    if recipe["direction"] not in DIRECTIONS:
        raise UserError("no such direction of beats", where="the metric's recipe, direction",
                        expected=" or ".join(DIRECTIONS),
                        found=repr(recipe["direction"]))
    if len(motion_ND) < 4:
        return float("nan")
    rate = change_rate(smooth(motion_ND, recipe["smooth_s"] * recipe["fps"]), normaliser_D)
    pair = onsets_s, motion_beats(rate, recipe["fps"], recipe["threshold"])
    return consistency(*(pair if recipe["direction"] == DIRECTIONS[0] else pair[::-1]),
                       recipe["sigma_s"])


def _score(case, part):
    recipe = case.benchmark.beat_recipe | {"fps": case.benchmark.motion_fps}
    own, true = (score(signals.onsets_s, motion, case.benchmark.normalisers[part], recipe)
                 for signals in (case.signals, case.truth) for motion in signals.motion(part))
    return {f"BC_{part}": own, f"BC_{part}_gap": abs(own - true)}


def definition(benchmark, part):
    """The definition of BC of a part of motion."""
    return benchmark.beat_recipe | {
        "fps": benchmark.motion_fps, "motion": benchmark.spread_recipe(part)["on"],
        "onsets": onsets.RECIPE | {"sample_rate": benchmark.sample_rate},
        "audio": "the variant's own; shuffled: another sentence's motion, this one's audio"}


def _gap_recipe(benchmark, part):
    return definition(benchmark, part) | {"gap": "mean over clips of |BC - truth's BC|"}


_SCORES = {part: functools.partial(_score, part=part) for part in PARTS}
for _name, _better, _meaning, _of_it in (
        ("BC_{}", "truth", "beats of {of} on audio onsets", definition),
        ("BC_{}_gap", "down", "distance of BC_{part} from the truth's, clip by clip", _gap_recipe)):
    for _part, _of in PARTS.items():
        declare(_name.format(_part), _better, _meaning.format(of=_of, part=_part), family="beats",
                score=_SCORES[_part], recipe=functools.partial(_of_it, part=_part),
                needs=("both", "waveform", "clip", needed(_part)))
