"""How a face moves, by what SMIRK reads off its pictures: expression, head and jaw, eyelids.

The truth's pictures are read in the same way, and of a variant that is aligned with it frame by
frame. DIM's listeners are measured on 50 numbers of expression and 6 of pose (head, then jaw), read
by EMOCA in their paper: the same numbers of another reader, which are never to be held against the
paper's. No vertices are made: that takes FLAME, whose licence forbids to hand it on. Blinks: both
lids are further down than half on average, for two frames or more [ours].
Suffixes: T frames, P numbers.
"""

import numpy as np

from avjax.signal.runs import intervals
from data_pipelines.media import landmarks
from eval.data.pictured import SURE
from eval.metrics import listener
from eval.metrics.frechet import frechet
from eval.networks.pictures import smirk
from eval.registry import declare

SHUT, LEAST = 0.5, 2  # mean of both lids; frames
MARGIN = 320  # pixels of the pictures that the face is cut out of, where a film gives any size
STILL = 1e-3  # radians: a jaw that moves less has no correlation
RECIPE = {"implementation": "avjax eval.metrics.judged.smirk 1", **smirk.RECIPE,
          "hidden": f"frames whose points are less sure than {SURE} are interpolated",
          "of a film": f"the face is followed in crops of {MARGIN} pixels"}


def _codes(case, signals) -> np.ndarray | None:
    """(T, P), see smirk.COLUMNS; None where no frame shows a face. Kept for all variants."""
    if "smirk" not in signals.seen:
        find, known = case.benchmark.reader.find, []
        crops = _crops(signals.faces(MARGIN), find, known)
        signals.seen["smirk"] = _filled(case.benchmark.networks["smirk"](crops), np.array(known))
    return signals.seen["smirk"] if len(signals.seen["smirk"]) else None


def _crops(pictures, find, known: list):
    """Those that show a face; `known` gets whether, of every picture."""
    for picture in pictures:
        points_K2, sure = landmarks.in_crop(picture, find)
        known.append(sure >= SURE and np.isfinite(points_K2).all())
        if known[-1]:
            yield smirk.cropped(picture, points_K2 * picture.shape[0])


def _filled(codes_NP: np.ndarray, known_T: np.ndarray) -> np.ndarray:
    """(T, P): frames without a face by interpolation; no frames where none has one."""
    at = np.flatnonzero(known_T)
    if not len(at):
        return codes_NP[:0]
    return np.stack([np.interp(np.arange(len(known_T)), at, x) for x in codes_NP.T], 1)


def _parts(codes_TP: np.ndarray) -> dict[str, np.ndarray]:
    """{"e": 50 of expression, "h": head, then jaw}."""
    of = {name: codes_TP[:, columns] for name, columns in smirk.COLUMNS.items()}
    return {"e": of["expression"], "h": np.concatenate([of["pose"], of["jaw"]], 1)}


def blinks(eyelids_T2: np.ndarray) -> int:
    """How often both eyes are closed for a moment."""
    shut_K2 = intervals(eyelids_T2.mean(1) > SHUT)
    return int(np.sum(np.diff(shut_K2) >= LEAST))


def scores(own_TP: np.ndarray, true_TP: np.ndarray, fps: float, aligned: bool) -> dict:
    """The numbers of one variant; those that go frame by frame where it is `aligned`."""
    own, true = _parts(own_TP), _parts(true_TP)
    minutes = len(own_TP) / fps / 60
    out = {f"FD_{part}_smirk": frechet(own[part], true[part])
           if min(len(own_TP), len(true_TP)) > 2 else np.nan for part in own}
    out |= {"var_e_smirk": listener.variance([own["e"]]),
            "blinks_per_minute_smirk": blinks(own_TP[:, smirk.COLUMNS["eyelids"]]) / minutes}
    if aligned:
        n, jaw = min(len(own_TP), len(true_TP)), smirk.COLUMNS["jaw"].start
        moved = min(x[:n, jaw].std() for x in (own_TP, true_TP)) > STILL
        out |= {"MSE_e_smirk": float(np.mean(np.square(own["e"][:n] - true["e"][:n]))),
                "jaw_corr_smirk": float(np.corrcoef(own_TP[:n, jaw], true_TP[:n, jaw])[0, 1])
                if moved else np.nan}
    return out


def _score(case):
    own_TP, true_TP = (_codes(case, signals) for signals in (case.signals, case.truth))
    if own_TP is None or true_TP is None:
        return {}
    return scores(own_TP, true_TP, case.benchmark.reader.fps, case.aligned)


for _name, _better, _meaning, _unit in (
        ("FD_e", "down", "Fréchet distance of expression, per clip", ""),
        ("FD_h", "down", "Fréchet distance of head and jaw, per clip", ""),
        ("MSE_e", "down", "mean square error of expression", ""),
        ("var_e", "truth", "variance of expression", ""),
        ("jaw_corr", "up", "correlation of the jaw's opening with the truth's", ""),
        ("blinks_per_minute", "truth", "blinks", "1/min")):
    declare(f"{_name}_smirk", _better, f"{_meaning}, read by SMIRK", family="expression",
            unit=_unit, score=_score,
            needs=("motion", "each", "pictures", "points", "network:smirk"),
            recipe=lambda benchmark: RECIPE | {"points": benchmark.reader.recipe["of"],
                                               "fps": benchmark.reader.fps})
