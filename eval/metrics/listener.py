"""How a listener reacts: DIM's measures (Tran et al. 2024, arXiv:2403.09069) over clips of motion
(frames, dims).

    fd    Frechet distance of the frames of a clip, averaged over clips
    pfd   the same of [speaker | listener] frames: do the two move together as they do in truth
    mse   mean square error
    sid   diversity: entropy in bits of the frames' k-means clusters, fitted on the truth
          (log2(p + 1e-6))
    var   variance of all numbers flattened
    rpcc  |corr(truth, speaker) - corr(prediction, speaker)| over all frames and dims of all clips
          flattened
    sts   sqrt(sum (difference of frame-to-frame changes)^2 / 0.1), over the concatenated clips,
          their joints included
Published for 6 of pose and 50 of expression; here for any width. float64.
"""

import functools
from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

from eval import pooling
from eval.metrics.frechet import frechet
from eval.registry import (
    CONVERSATION,
    DOWN,
    MOTION,
    PARTS,
    TRUTH,
    UP,
    Metric,
    declare,
)

RECIPE = {"implementation": "avjax eval.metrics.listener 1", "definition": "DIM",
          "precision": "float64", "fd": "per clip, then mean",
          "rpcc": "flattened over frames, dims and clips", "sid_clusters": "of the truth"}
SID_CLUSTERS = {"e": 40, "h": 20}  # DIM's, of the truth
STRANGERS = 4  # conversations whose partners a motion is paired with for RPCC_*_other
Clips = Sequence[np.ndarray]


def fd(pred: Clips, truth: Clips) -> float:
    """Mean Frechet distance of a clip; NaN where no clip has two frames."""
    values = [frechet(p, t) for p, t in zip(pred, truth, strict=True) if min(len(p), len(t)) > 1]
    return float(np.mean(values)) if values else float("nan")


def pfd(pred: Clips, truth: Clips, speaker: Clips, truth_speaker: Clips | None = None) -> float:
    """Paired FD. `truth_speaker`: who the truth listened to, where that is not `speaker` (a
    shuffled partner)."""
    truth_speaker = speaker if truth_speaker is None else truth_speaker
    return fd([np.concatenate([s[:len(p)], p[:len(s)]], axis=-1) for s,
               p in zip(speaker, pred, strict=True)],
              [np.concatenate([s[:len(t)], t[:len(s)]], axis=-1) for s,
               t in zip(truth_speaker, truth, strict=True)])


def mse(pred: Clips, truth: Clips) -> float:
    """Of every clip, averaged over clips."""
    return float(np.mean([np.mean(np.square(p.astype(np.float64) - t)) for p,
                          t in zip(pred, truth, strict=True)]))


def variance(clips: Clips) -> float:
    """Of all numbers."""
    return float(np.var(_flat(clips)))


def correlation(a: Clips, b: Clips) -> float:
    """Pearson's, flattened; NaN for what does not vary."""
    a, b = _flat(a), _flat(b)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def rpcc(pred: Clips, truth: Clips, speaker: Clips, truth_speaker: Clips | None = None) -> float:
    """Residual Pearson correlation; 0 is best. Clips of one triple must have the same length and
    width."""
    return abs(correlation(truth, speaker if truth_speaker is None
                           else truth_speaker) - correlation(pred, speaker))


def sts(pred: Clips, truth: Clips) -> float:
    """Smoothness difference."""
    difference = np.diff(np.concatenate(truth).astype(np.float64),
                         axis=0) - np.diff(np.concatenate(pred).astype(np.float64),
                                                                                  axis=0)
    return float(np.sqrt(np.sum(np.square(difference)) / 0.1))


def sid(clips: Clips, centroids_KD: np.ndarray) -> float:
    """Entropy in bits of the nearest-centroid histogram."""
    x_ND, c_KD = np.concatenate(clips).astype(np.float64), np.asarray(centroids_KD, np.float64)
    nearest = np.argmin(-2 * x_ND @ c_KD.T + np.square(c_KD).sum(1), axis=1)
    p = np.bincount(nearest, minlength=len(c_KD)) / len(x_ND)
    return float(-np.sum(p * np.log2(p + 1e-6)))


def _flat(clips: Clips) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in clips])


def _listening(pool) -> dict[str, dict[str, list[np.ndarray]]] | None:
    """{part: {"own", "true", "partner", "other0", ...: a clip a listener}}, float64, of all
    speakers of all conversations."""
    found: dict[str, list[np.ndarray]] = {}
    for stored in pool.frames:
        for key, clip in stored.items():
            found.setdefault(key.rsplit("_", 1)[0], []).append(np.asarray(clip, np.float64))
    if "own" not in found:
        return None
    return {part: {name: [clip[:, columns] for clip in clips] for name, clips in found.items()}
            for part, columns in pool.benchmark.columns.items()}


def _fd(x, part):
    return fd(x["own"], x["true"])


def _fd_pooled(x, part):
    return frechet(np.concatenate(x["own"]), np.concatenate(x["true"]))


def _sid(x, part):
    truth = np.concatenate(x["true"])
    distinct = len(np.unique(truth, axis=0))
    clusters, _ = kmeans2(truth, min(SID_CLUSTERS[part], distinct), minit="++", seed=0)
    return sid(x["own"], clusters)


def _variance(x, part):
    return variance(x["own"])


def _pfd(x, part):
    return pfd(x["own"], x["true"], x["partner"])


def _pfd_shuffled(x, part):
    rolled = [np.roll(clip, len(clip) // 2, axis=0) for clip in x["partner"]]
    return pfd(x["own"], x["true"], rolled, x["partner"])


def _rpcc(x, part):
    return rpcc(x["own"], x["true"], x["partner"])


def _rpcc_other(x, part):
    others = [clips for name, clips in x.items()
              if name.startswith("other") and len(clips) == len(x["own"])]
    if not others:
        return None
    return np.mean([rpcc(x["own"], x["true"], o, x["partner"]) for o in others])


def _recipe(benchmark):
    return RECIPE | {
        "frames": "25 Hz, the true partner speaks and the true self is silent",
        "RPCC_other": f"partners of {STRANGERS} other dialogues, averaged",
        "PFD_shuffled": "the partner's frames rolled by half", "SID": SID_CLUSTERS}


def _pooling(function, part: str):
    @pooling.labelled("all listening frames of all speakers")
    def pooled(name, pool):
        x = pool.once(_listening)
        value = None if x is None else function(x[part], part)
        return None if value is None else {"value": float(value), "n": len(x[part]["own"])}
    return pooled


_declare = functools.partial(Metric, family="listening", recipe=_recipe,
                             needs=(MOTION, CONVERSATION))
_HEARD = {part: _of for part, _of in PARTS.items() if part in SID_CLUSTERS}
for _name, _function, _better, _meaning in (
        ("FD_listen_{}", _fd, DOWN, "Fréchet distance of {} while listening, per listener"),
        ("FD_listen_{}_pooled", _fd_pooled, DOWN,
         "Fréchet distance of {} while listening, all listeners' frames together"),
        ("SID_{}", _sid, TRUTH, "diversity of {} while listening: entropy of k-means clusters"),
        ("var_listen_{}", _variance, TRUTH, "variance of {} while listening")):
    for _part, _of in _HEARD.items():
        declare(_declare(_name.format(_part), _better, _meaning.format(_of),
                         unit="bits" if _function is _sid else "",
                         pool=_pooling(_function, _part)))
for _names in ((("PFD_{}", _pfd, DOWN, "Fréchet distance of {} paired with its partner's"),
                ("PFD_{}_shuffled", _pfd_shuffled, UP, "PFD with the partner's motion of "
                 "another time")),
               (("RPCC_{}", _rpcc, DOWN, "correlation of {} with its partner's, off the truth's"),
                ("RPCC_{}_other", _rpcc_other, UP, "RPCC with other partners"))):
    for _part, _of in _HEARD.items():
        for _name, _function, _better, _meaning in _names:
            declare(_declare(_name.format(_part), _better, _meaning.format(_of),
                             pool=_pooling(_function, _part)))
