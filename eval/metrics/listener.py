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

Of three speakers or more (ours) everybody listens to each of the others: what concerns a listener
alone (fd, mse, sid, var, sts) is of the frames where any other speaks, what compares with a partner
(pfd, rpcc) of each pair's, all pairs together and, under "pairs", each by itself.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

from eval import pooling
from eval.metrics import frechet
from eval.registry import PARTS, declare

RECIPE = {"implementation": "avjax eval.metrics.listener 1", "definition": "DIM",
          "precision": "float64", "fd": "per clip, then mean",
          "mse": "per clip, then mean", "rpcc": "flattened over frames, dims and clips",
          "sts": "clips one after the other, joints included", "sid_clusters": "of the truth"}
SID_CLUSTERS = {"e": 40, "h": 20}  # DIM's, of the truth
STRANGERS = 4  # conversations whose partners a motion is paired with for RPCC_*_other
Clips = Sequence[np.ndarray]
# of Benchmark.frames of conversations: which motion, of which listener, and to whom where it is not
# the only other one
_STORED = re.compile(r"(own|true|partner|other\d+)_(\d+)(?:_(\d+))?")


def fd(pred: Clips, truth: Clips) -> np.ndarray:
    """Frechet distance of every clip that has two frames."""
    return np.array([frechet.frechet(p, t) for p, t in zip(pred, truth, strict=True)
                     if min(len(p), len(t)) > 1])


def pfd(pred: Clips, truth: Clips, speaker: Clips,
        truth_speaker: Clips | None = None) -> np.ndarray:
    """Paired FD of every clip. `truth_speaker`: who the truth listened to, where that is not
    `speaker` (a shuffled partner)."""
    truth_speaker = speaker if truth_speaker is None else truth_speaker
    return fd([np.concatenate([s[:len(p)], p[:len(s)]], axis=-1) for s,
               p in zip(speaker, pred, strict=True)],
              [np.concatenate([s[:len(t)], t[:len(s)]], axis=-1) for s,
               t in zip(truth_speaker, truth, strict=True)])


def mse(pred: Clips, truth: Clips) -> np.ndarray:
    """Of every clip that has frames."""
    return np.array([np.mean(np.square(p.astype(np.float64) - t))
                     for p, t in zip(pred, truth, strict=True) if len(p)])


def variance(clips: Clips) -> float:
    """Of all numbers; NaN of none."""
    flat = _flat(clips)
    return float(np.var(flat)) if len(flat) else float("nan")


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
    """Smoothness difference; NaN of fewer than 2 frames."""
    pred_ND, truth_ND = (np.concatenate(x).astype(np.float64) for x in (pred, truth))
    if len(truth_ND) < 2:
        return float("nan")
    apart_ND = np.diff(truth_ND, axis=0) - np.diff(pred_ND, axis=0)
    return float(np.sqrt(np.sum(np.square(apart_ND)) / 0.1))


def sid(clips: Clips, centroids_KD: np.ndarray) -> float:
    """Entropy in bits of the nearest-centroid histogram; NaN of no frames."""
    if not sum(map(len, clips)):
        return float("nan")
    x_ND, c_KD = np.concatenate(clips).astype(np.float64), np.asarray(centroids_KD, np.float64)
    nearest = np.argmin(-2 * x_ND @ c_KD.T + np.square(c_KD).sum(1), axis=1)
    p = np.bincount(nearest, minlength=len(c_KD)) / len(x_ND)
    return float(-np.sum(p * np.log2(p + 1e-6)))


def _flat(clips: Clips) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in clips])


@dataclasses.dataclass(frozen=True)
class _Listening:
    """Clips of all conversations, float64: {"own", "true", "partner", "other0", ...: a list}.

    Attributes:
      listeners: a clip a listener.
      examples: the number of each listener's conversation.
      paired: a clip a listener and partner; of two speakers the same.
      pairs: those of {"1 to 2": speaker 1 listens to speaker 2}; {} of two speakers.
    """

    listeners: dict[str, list[np.ndarray]]
    examples: list[int]
    paired: dict[str, list[np.ndarray]]
    pairs: dict[str, dict[str, list[np.ndarray]]]


def _listening(pool) -> dict[str, _Listening] | None:
    """{part of motion: its clips}; None where nobody listens."""
    listeners: dict[str, list[np.ndarray]] = {}
    examples: list[int] = []
    pairs: dict[str, dict[str, list[np.ndarray]]] = {}
    for example, stored in enumerate(pool.frames):
        for key, clip in stored.items():
            if not (whose := _STORED.fullmatch(key)):
                continue
            name, listener, partner = whose.groups()
            if name == "own" and partner is None:
                examples.append(example)
            found = (listeners if partner is None
                     else pairs.setdefault(pair_name(int(listener), int(partner)), {}))
            found.setdefault(name, []).append(np.asarray(clip, np.float64))
    if "own" not in listeners:
        return None
    paired: dict[str, list[np.ndarray]] = {}
    for found in pairs.values() if pairs else (listeners,):
        for name, clips in found.items():
            paired.setdefault(name, []).extend(clips)

    def of(found, columns):
        return {name: [clip[:, columns] for clip in clips] for name, clips in found.items()}

    return {part: _Listening(of(listeners, columns), examples, of(paired, columns),
                             {name: of(pairs[name], columns) for name in sorted(pairs)})
            for part, columns in pool.benchmark.columns.items()}


def pair_name(first: int, second: int) -> str:
    """Of two speakers of a conversation, who are counted from 1 here: first listens to second, or
    the floor passes from first to second."""
    return f"{first + 1} to {second + 1}"


@pooling.labelled("all listening frames of all speakers")
def _fd_pooled(name, pool):
    """With an interval over conversations; `n` counts listeners."""
    found = pool.once(_listening)
    if found is None:
        return None
    x = found[name.split("_")[2]]
    clips = {number: [k for k, of in enumerate(x.examples) if of == number]
             for number in dict.fromkeys(x.examples)}
    entry = frechet.of_examples(list(clips.values()), lambda some: tuple(
        np.concatenate([x.listeners[side][k] for k in some]) for side in ("own", "true")))
    return entry | {"n": len(x.examples)}


def _sid(x, clusters: int):
    truth = np.concatenate(x["true"])
    distinct = len(np.unique(truth, axis=0))
    return sid(x["own"], kmeans2(truth, min(clusters, distinct), minit="++", seed=0)[0])


def _pfd_shuffled(x):
    rolled = [np.roll(clip, len(clip) // 2, axis=0) for clip in x["partner"]]
    return pfd(x["own"], x["true"], rolled, x["partner"])


def _rpcc_other(x):
    others = [clips for name, clips in x.items()
              if name.startswith("other") and len(clips) == len(x["own"])]
    return np.mean([rpcc(x["own"], x["true"], o, x["partner"]) for o in others]) if others else None


def _recipe(benchmark):
    several = {"pairs": "every listener with each other speaker"} if benchmark.parties > 2 else {}
    return RECIPE | several | {
        "frames": "25 Hz, the true partner speaks and the true self is silent",
        "RPCC_other": f"partners of {STRANGERS} other dialogues, averaged",
        "PFD_shuffled": "the partner's frames rolled by half", "SID": SID_CLUSTERS}


def _entry(function, x) -> dict | None:
    """Of the clips `x`."""
    value = function(x) if "own" in x else None
    if isinstance(value, np.ndarray):  # one a listener
        return pooling.interval(value, pooling.mean)
    return None if value is None else {"value": float(value), "n": len(x["own"])}


def _pooling(function, part: str, paired: bool):
    @pooling.labelled("all listening frames of all speakers")
    def pooled(name, pool):
        found = pool.once(_listening)
        if found is None:
            return None
        x = found[part]
        if not paired or "partner" not in x.paired:
            return None if paired else _entry(function, x.listeners)
        entry = _entry(function, x.paired)
        each = {name: _entry(function, of) for name, of in x.pairs.items()}
        each = {name: one for name, one in each.items() if one}
        return entry | {pooling.PAIRS: each} if entry and each else entry
    return pooled


def _declare(name, function, better, meaning, part, unit="", paired=False):
    declare(name.format(part), better, meaning.format(PARTS[part]), family="listening", unit=unit,
            recipe=_recipe, needs=("motion", "conversation"),
            pool=_pooling(function, part, paired))


for _part in SID_CLUSTERS:
    _declare("FD_listen_{}", lambda x: fd(x["own"], x["true"]), "down",
             "Fréchet distance of {} while listening, per listener", _part)
for _part in SID_CLUSTERS:
    declare(f"FD_listen_{_part}_pooled", "down", f"Fréchet distance of {PARTS[_part]} while "
            "listening, all listeners' frames together", family="listening", recipe=_recipe,
            needs=("motion", "conversation"), pool=_fd_pooled)
for _part in SID_CLUSTERS:
    _declare("MSE_listen_{}", lambda x: mse(x["own"], x["true"]), "down",
             "mean square error of {} while listening", _part)
    _declare("STS_{}", lambda x: sts(x["own"], x["true"]), "down",
             "how differently {} change from frame to frame while listening", _part)
for _part, _clusters in SID_CLUSTERS.items():
    _declare("SID_{}", functools.partial(_sid, clusters=_clusters), "truth",
             "diversity of {} while listening: entropy of k-means clusters", _part, unit="bits")
for _part in SID_CLUSTERS:
    _declare("var_listen_{}", lambda x: variance(x["own"]), "truth",
             "variance of {} while listening", _part)
for _part in SID_CLUSTERS:
    _declare("PFD_{}", lambda x: pfd(x["own"], x["true"], x["partner"]), "down",
             "Fréchet distance of {} paired with its partner's", _part, paired=True)
    _declare("PFD_{}_shuffled", _pfd_shuffled, "up",
             "PFD with the partner's motion of another time", _part, paired=True)
for _part in SID_CLUSTERS:
    _declare("RPCC_{}", lambda x: rpcc(x["own"], x["true"], x["partner"]), "down",
             "correlation of {} with its partner's, off the truth's", _part, paired=True)
    _declare("RPCC_{}_other", _rpcc_other, "up", "RPCC with other partners", _part, paired=True)
