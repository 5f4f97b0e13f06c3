"""How a listener reacts: DIM's measures (Tran et al. 2024, arXiv:2403.09069) over clips of motion
(frames, dims).

    fd    Frechet distance of the frames of a clip, averaged over clips
    pfd   the same of [speaker | listener] frames: do the two move together as they do in truth
    mse   mean square error
    sid   diversity: entropy in bits of the frames' k-means clusters, fitted on the truth (log2(p + 1e-6))
    var   variance of all numbers flattened
    rpcc  |corr(truth, speaker) - corr(prediction, speaker)| over all frames and dims of all clips flattened
    sts   sqrt(sum (difference of frame-to-frame changes)^2 / 0.1), over the concatenated clips, their joints included
Published for 6 of pose and 50 of expression; here for any width. float64.
"""

from collections.abc import Sequence

import numpy as np

from eval.metrics.frechet import frechet

RECIPE = {"implementation": "avjax eval.metrics.listener 1", "definition": "DIM",
          "precision": "float64", "fd": "per clip, then mean",
          "rpcc": "flattened over frames, dims and clips", "sid_clusters": "of the truth"}
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
