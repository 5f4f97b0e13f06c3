"""Beat consistency in the forms that other works publish, beside the one of eval/metrics/beats.py.
Their numbers differ by more than models do: compare within one form, one frame rate and one sample
rate alone.

    bailando  Siyao et al. 2022 (arXiv:2203.13055): motion beats are the strict minima of the speed,
              smoothed; mean over sound events of exp(-d^2 / 2 sigma^2). 5 and 3 frames of 60 a
              second there, as many seconds here.
    said      Park and Cho 2023 (arXiv:2401.08655): as ours, without smoothing, and the changes of a
              coefficient divided by their mean over the clips that are scored, each clip weighing
              the same; so a clip's value depends on its company.
    motion    ours, averaged over motion beats instead of onsets, as the line of EMAGE does.
A clip without beats counts 0 in some of them, which pulls means down: here it is left out. Codes
stand where Bailando has joints, and onsets where it has beats of music.
Suffixes: N frames, J points, D coefficients.
"""

import functools

import numpy as np

from eval import pooling
from eval.metrics import beats
from eval.registry import PARTS, declare, needed

BAILANDO = {"implementation": "avjax eval.metrics.published.beats 1", "form": "Bailando",
            "direction": beats.DIRECTIONS[0], "sigma_s": 3 / 60, "smooth_s": 5 / 60,
            "motion_beats": "strict minima of the smoothed Euclidean speed", "no_beats": "left out"}
SAID = {"implementation": "avjax eval.metrics.published.beats 1", "form": "SAiD",
        "direction": beats.DIRECTIONS[0], "sigma_s": 0.1, "threshold": 0.1, "smooth_s": 0.0,
        "normaliser": "mean |difference| per coefficient and clip, mean over the clips scored",
        "no_beats": "left out (0 in the published code)"}


STILL = 1e-6  # a frame; changes below are of rounding


def speed(points_NJD: np.ndarray) -> np.ndarray:
    """(N - 1,) Euclidean length of a frame's step, mean over points. A code of D numbers is one
    point."""
    points_NJD = np.asarray(points_NJD, np.float64)
    return np.linalg.norm(np.diff(points_NJD, axis=0), axis=-1).mean(-1)


def bailando(events_s, points_NJD: np.ndarray, fps: float) -> float:
    """Score of one clip; NaN where nothing is heard or moves. events_s: of the sound."""
    if len(points_NJD) < 4:
        return float("nan")
    smooth_N = beats.smooth(speed(points_NJD), BAILANDO["smooth_s"] * fps)
    if smooth_N.max() < STILL:
        return float("nan")
    return beats.consistency(events_s, beats.motion_beats(smooth_N, fps, 0.0), BAILANDO["sigma_s"])


def said(events_s, clips, fps: float, threshold: float = SAID["threshold"]) -> np.ndarray:
    """(clips,) scores of clips of (N, D) coefficients; NaN where nothing is heard or moves."""
    moving = [clip for clip in clips if len(clip) > 1]
    if not moving:
        return np.full(len(clips), np.nan)
    normaliser_D = np.mean([beats.mean_change([clip]) for clip in moving], axis=0)
    normaliser_D[normaliser_D < STILL] = 0.0  # such a coefficient is left out
    recipe = SAID | {"fps": fps, "threshold": threshold}
    return np.array([beats.score(heard, clip, normaliser_D, recipe)
                     for heard, clip in zip(events_s, clips, strict=True)])


def _bailando(case, part):
    (motion_ND,), fps = case.signals.motion(part), case.benchmark.motion_fps
    return {f"BC_{part}_bailando": bailando(case.signals.onsets_s, motion_ND[:, None], fps)}


def _motion(case, part):
    recipe = _motion_recipe(case.benchmark, part)
    (motion_ND,), normaliser_D = case.signals.motion(part), case.benchmark.normalisers[part]
    return {f"BC_{part}_motion": beats.score(case.signals.onsets_s, motion_ND, normaliser_D,
                                             recipe)}


def _onsets(case):
    return {"onsets_s": case.signals.onsets_s} if case.signals.has_audio else {}


def _said(part: str):
    @pooling.labelled("mean over examples, whose changes are divided by a common mean")
    def pooled(name, pool):
        stored = pool.benchmark.stored_parts[part]
        found = [f for f in pool.frames if "onsets_s" in f and stored in f]
        if not found:
            return None
        scores = said([f["onsets_s"] for f in found], [f[stored] for f in found],
                      pool.benchmark.motion_fps)
        return pooling.interval(scores[np.isfinite(scores)], pooling.mean)
    return pooled


def _motion_recipe(benchmark, part):
    return beats.definition(benchmark, part) | {"direction": beats.DIRECTIONS[1]}


def _recipe(benchmark, part, form):
    about = beats.definition(benchmark, part)
    return form | {name: about[name] for name in ("fps", "motion", "onsets", "audio")}


for _name, _meaning, _fields in (
        ("BC_{}_bailando", "minima of the speed of {} on audio onsets (Bailando's form)",
         lambda part: {"score": functools.partial(_bailando, part=part),
                       "recipe": functools.partial(_recipe, part=part, form=BAILANDO),
                       "needs": ("both", "waveform", "clip", needed(part))}),
        ("BC_{}_said", "beats of {} on audio onsets (SAiD's form)",
         lambda part: {"keep": _onsets, "pool": _said(part),
                       "recipe": functools.partial(_recipe, part=part, form=SAID),
                       "needs": ("motion", "waveform", "clip", needed(part))}),
        ("BC_{}_motion", "audio onsets on beats of {}: mean over motion beats",
         lambda part: {"score": functools.partial(_motion, part=part),
                       "recipe": functools.partial(_motion_recipe, part=part),
                       "needs": ("both", "waveform", "clip", needed(part))})):
    for _part, _of in PARTS.items():
        declare(_name.format(_part), "truth", _meaning.format(_of), family="beats",
                **_fields(_part))
