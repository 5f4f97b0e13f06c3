"""Nods, smiles and blinks: are they there when they are in truth?

F1_smiles counts frames: a face smiles where its smile is `tau` above the truth's median in the
clip. The paper names the measure and defines it no further (AV-Flow, table 3), so tau and the
neutral face are our choice. F1_smile_onsets and F1_nods count events: one that begins within
`tolerance_s` of a true one, each counted once, is right. A smile begins where it has not been for
`least_s` and lasts that long; a nod is a peak of the downward pitch of the head that rises
`depth_deg` above both its surroundings. `_listening` counts what happens in the partner's turns and
outside one's own alone. The sweeps show how much the numbers depend on tau and tolerance.

Of real people, by landmarks of the pictures (eval/data/pictured.py), also: how the smile goes with
the truth's, and blinks: the eyes' opening is below 0.75 of the recording's median for two frames or
more [ours].
"""

import functools

import numpy as np
from scipy import ndimage, signal

from avjax.signal import rates
from avjax.signal.runs import intervals
from eval import pooling
from eval.metrics import lips
from eval.registry import declare

SMILES = {"implementation": "avjax eval.metrics.reactions 1", "neutral": "the truth's median",
          "least_s": 0.2, "fps": rates.VIDEO}
# kind of what the smile is read from -> its unit, and how far above neutral a smile is [ours]
TAU = {"puppet": {"unit": "of the puppets' smile", "tau": 0.25, "sweep": [0.15, 0.25, 0.35]},
       "landmarks": {"unit": "width of the mouth and lift of its corners, in distances of the "
                             "eyes' outer corners", "tau": 0.08, "sweep": [0.04, 0.08, 0.12]},
       "vertices": {"unit": "distance of the mouth's corners, in that of the mean face",
                    "tau": 0.1, "sweep": [0.02, 0.05, 0.1, 0.15]}}
CORNERS = {"unit": "distance of the mouth's corners, in the truth's median of it", "tau": 0.1,
           "sweep": [0.02, 0.05, 0.1, 0.15]}
NODS = {"implementation": "avjax eval.metrics.reactions 1", "depth_deg": 4.0, "smooth_s": 2 / 30,
        "fps": rates.VIDEO}
EVENTS = {"tolerance_s": 0.25, "sweep": [0.1, 0.25, 0.5]}
LISTENING = "_listening"
BLINK = 0.75  # of the median opening
LEAST = 2  # frames


def smiling(smile_N, neutral: float, tau: float) -> np.ndarray:
    """(N,) bool."""
    return np.asarray(smile_N) > neutral + tau


def onsets(smiling_N: np.ndarray, fps: float, least_s: float) -> np.ndarray:
    """Seconds at which smiles begin: pauses shorter than `least_s` are none, nor are such smiles;
    what was there in the first frame has no beginning."""
    least = max(1, round(least_s * fps))
    joined_N = ~_long(~np.asarray(smiling_N), least)
    begins = intervals(_long(joined_N, least))[:, 0]
    return begins[begins > 0] / fps


def _long(active_N: np.ndarray, least: int) -> np.ndarray:
    """The runs of at least so many frames."""
    out_N = np.zeros(len(active_N), bool)
    for begin, end in intervals(active_N):
        out_N[begin:end] = end - begin >= least
    return out_N


def nods(pitch_N, fps: float, depth: float, smooth_s: float) -> np.ndarray:
    """Seconds of the peaks of pitch (degrees, down > 0)."""
    if len(pitch_N) < 3:
        return np.zeros(0)
    smooth_N = ndimage.gaussian_filter1d(np.asarray(pitch_N, np.float64), smooth_s * fps)
    return signal.find_peaks(smooth_N, prominence=depth)[0] / fps


def matched(own_s, true_s, tolerance: float) -> np.ndarray:
    """(right, wrong, missed) of sorted events, of which each belongs to one of the others at most:
    the most pairs that there can be."""
    i = j = pairs = 0
    while i < len(own_s) and j < len(true_s):
        if abs(own_s[i] - true_s[j]) <= tolerance + 1e-9:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif own_s[i] < true_s[j]:
            i += 1
        else:
            j += 1
    return np.array([pairs, len(own_s) - pairs, len(true_s) - pairs], np.int64)


def _events(own_s, true_s, within) -> dict[str, list[int]]:
    return {f"{t:g}": matched(within(own_s), within(true_s), t).tolist() for t in EVENTS["sweep"]}


def _smiles(case, listening: bool):
    recipe, fps = case.benchmark.smile_recipe, case.benchmark.motion_fps
    n = min(len(case.signals.smile), len(case.truth.smile))
    own_N, true_N = case.signals.smile[:n], case.truth.smile[:n]
    found = _heard(case, n, listening) if case.aligned and n else None
    if found is None:
        return {}
    heard_N, within = found
    neutral, suffix = float(np.median(case.truth.smile)), LISTENING * listening
    counts = {f"{tau:g}": lips.hits(smiling(own_N, neutral, tau)[heard_N],
                                      smiling(true_N, neutral, tau)[heard_N]).tolist()
              for tau in recipe["sweep"]}
    begins = [onsets(smiling(x_N, neutral, recipe["tau"]), fps, recipe["least_s"])
              for x_N in (own_N, true_N)]
    return {"smiles" + suffix: counts, "smile_onsets" + suffix: _events(*begins, within)}


def _corners(case):
    """Smiles by the distance of the corners alone, as vertices tell them, of landmarks."""
    if not case.aligned:
        return {}
    (_, own_N), (_, true_N) = case.signals.lips, case.truth.lips
    n, neutral = min(len(own_N), len(true_N)), float(np.median(true_N))
    return {"smiles_corners": {f"{tau:g}": lips.hits(
        *(smiling(x_N[:n] / neutral, 1.0, tau) for x_N in (own_N, true_N))).tolist()
        for tau in CORNERS["sweep"]}}


def _nods(case, listening: bool):
    fps = case.benchmark.motion_fps
    n = min(len(case.signals.pitch), len(case.truth.pitch))
    found = _heard(case, n, listening) if case.aligned else None
    if found is None:
        return {}
    at = [nods(x.pitch[:n], fps, NODS["depth_deg"], NODS["smooth_s"])
          for x in (case.signals, case.truth)]
    return {"nods" + LISTENING * listening: _events(*at, found[1])}


def _heard(case, n: int, listening: bool):
    """((n,) bool of the frames that count, a function of events that keeps those in them); None
    where nobody knows."""
    if not listening:
        return np.ones(n, bool), lambda events_s: events_s
    heard_N, fps = case.benchmark.listening(case.split, case.index, n), case.benchmark.motion_fps
    return None if heard_N is None else (heard_N, lambda events_s: events_s[
        heard_N[np.minimum(np.round(events_s * fps).astype(int), n - 1)]])


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


@pooling.labelled("F1 of the frames, or events, of all examples")
def _pooled(name, pool):
    counted = pool.entries(name.removeprefix("F1_"))
    if not counted:
        return None
    counts = {key: np.array([c[key] for c in counted]) for key in counted[0]}
    if not any(c.sum() for c in counts.values()):
        return None  # nobody ever did
    main = (CORNERS["tau"] if name == "F1_smiles_corners"
            else pool.benchmark.smile_recipe["tau"] if name in ("F1_smiles",
                                                                "F1_smiles" + LISTENING)
            else EVENTS["tolerance_s"])
    return (pooling.interval(counts[f"{main:g}"], lips.f1_of_examples)
            | {"sweep": {key: float(lips.f1_of_examples(c)) for key, c in counts.items()}})


def _recipe(benchmark, name):
    """Of one of the metrics."""
    own = NODS if "nods" in name else benchmark.smile_recipe
    events = {} if name.startswith("F1_smiles") else EVENTS
    heard = {"frames": "in the partner's turns, outside one's own"} if LISTENING in name else {}
    return own | {"events": events} | heard | benchmark.common_frames


_SCORES = {(score, heard): functools.partial(score, listening=heard)
           for score in (_smiles, _nods) for heard in (False, True)}
for _heard_too in (False, True):
    for _name, _score, _meaning, _needs in (
            ("F1_smiles", _smiles, "smiling on the right frames",
             ("lips", *(("partner",) if _heard_too else ()))),
            ("F1_smile_onsets", _smiles, "smiles that begin at the right time",
             ("lips", "partner")),
            ("F1_nods", _nods, "nods at the right time", ("face", "partner"))):
        _name += LISTENING * _heard_too
        declare(_name, "up", _meaning + (" while listening" if _heard_too else ""),
                family="reactions", score=_SCORES[_score, _heard_too], pool=_pooled,
                recipe=functools.partial(_recipe, name=_name),
                needs=("motion", "clip", *_needs, *(("turns",) if _heard_too else ())))
declare("F1_smiles_corners", "up", "corners of the mouth apart on the right frames",
        family="reactions", score=_corners, pool=_pooled, needs=("motion", "clip", "points"),
        recipe=lambda benchmark: SMILES | CORNERS | benchmark.reader.recipe
        | benchmark.common_frames)
declare("smile_corr", "up", "correlation of the smile with the truth's", family="expression",
        score=_smile, needs=("motion", "points"), recipe=lambda benchmark: benchmark.reader.recipe)
declare("blinks_per_minute", "truth", "blinks", family="expression", score=_blinks, unit="1/min",
        needs=("motion", "points"),
        recipe=lambda benchmark: benchmark.reader.recipe | {"blink": BLINK, "frames": LEAST})
