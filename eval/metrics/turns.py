"""Turn-taking of a dialogue with one clean channel a speaker: dGSLM's events (Nguyen et al. 2022,
arXiv:2203.16502).

    IPU      speech of a channel, joined over its own silences of at most 200 ms
    overlap  two channels (or more) inside an IPU
    pause    nobody speaks, and the channel that spoke last goes on
    gap      nobody speaks, and another channel goes on
    turn     IPUs of a channel joined over pauses: nobody else spoke between them
Times are integer milliseconds, intervals half-open, any number of channels. Silence before the
first and after the last word is neither pause nor gap. Where two channels stop (or start) on the
same millisecond, a silence counts as a pause if any channel is on both its sides; the paper does
not say.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from eval import pooling
from eval.registry import declare

EVENTS = ("ipu", "pause", "gap", "overlap", "turn")
JOIN_MS = 200
RECIPE = {"implementation": "avjax eval.metrics.turns 1", "definition": "dGSLM", "join_ms": JOIN_MS,
          "vad": "energy (ours): frames of the log-mel within 35 dB of the channel's 95th "
          "percentile, smoothed over 5 frames; the same for truth and generated",
          "unit": "per minute of dialogue"}


def activity(log_mel_TM: np.ndarray, rate: float, *, below_db: float = 35.0,
             floor_db: float = -60.0) -> np.ndarray:
    """(K, 2) ms intervals in which a clean channel is loud; the energy VAD of RECIPE.

    Args:
      log_mel_TM: natural logarithm of magnitudes, `rate` frames a second.
      floor_db: of the mean squared magnitude; a channel that never rises above it is silent.
    """
    power_T = np.square(np.exp(np.asarray(log_mel_TM, np.float64))).mean(-1)
    level_T = 10 * np.log10(np.convolve(power_T, np.full(5, 0.2), "same") + 1e-12)
    if not len(level_T) or level_T.max() < floor_db:
        return np.zeros((0, 2), np.int64)
    loud_T = level_T > max(np.percentile(level_T[level_T > floor_db], 95) - below_db, floor_db)
    return np.round(intervals(loud_T) * (1000 / rate)).astype(np.int64)


def intervals(active_N: np.ndarray) -> np.ndarray:
    """(K, 2) half-open runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.asarray(active_N, bool),
                                                   [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def ipus(vad_K2: np.ndarray, join_ms: int = JOIN_MS) -> np.ndarray:
    """Speech separated by at most `join_ms` becomes one interval."""
    joined: list[list[int]] = []
    for start, end in sorted(map(tuple, np.asarray(vad_K2, np.int64).reshape(-1, 2).tolist())):
        if joined and start - joined[-1][1] <= join_ms:
            joined[-1][1] = max(joined[-1][1], end)
        elif end > start:
            joined.append([start, end])
    return np.array(joined, np.int64).reshape(-1, 2)


def events(vads: Sequence[np.ndarray], total_ms: int) -> dict[str, np.ndarray]:
    """{event: (K, 2) ms}; IPUs and turns of all channels together, channel by channel.

    Args:
      vads: (K, 2) speech of every channel.
      total_ms: of the dialogue.
    """
    units = [ipus(v) for v in vads]
    speaking_CN = np.zeros((len(units), total_ms), bool)
    for channel, spans in enumerate(units):
        for start, end in spans:
            speaking_CN[channel, start:end] = True
    count_N = speaking_CN.sum(0)
    pauses, gaps = [], []
    for start, end in intervals(count_N == 0):
        if start == 0 or end == total_ms:
            continue
        same = (speaking_CN[:, start - 1] & speaking_CN[:, end]).any()
        (pauses if same else gaps).append((start, end))
    turns = [ipus_joined(spans, set(pauses)) for spans in units]
    table = {"ipu": units, "pause": [pauses], "gap": [gaps], "overlap": [intervals(count_N > 1)],
             "turn": turns}
    return {name: np.concatenate([np.asarray(x, np.int64).reshape(-1, 2) for x in parts]) for name,
            parts in table.items()}


def ipus_joined(ipus_K2: np.ndarray, pauses: set[tuple[int, int]]) -> np.ndarray:
    """Turns of one channel: its IPUs joined where what lies between two of them is a pause."""
    out: list[list[int]] = []
    for start, end in np.asarray(ipus_K2).tolist():
        if out and (out[-1][1], start) in pauses:
            out[-1][1] = end
        else:
            out.append([start, end])
    return np.array(out, np.int64).reshape(-1, 2)


def rates(found: dict[str, np.ndarray], total_ms: int) -> dict[str, float]:
    """{"<event>_per_minute", "<event>_seconds_per_minute"}."""
    minutes = total_ms / 60000
    out = {f"{name}_per_minute": len(x) / minutes for name, x in found.items()}
    return out | {f"{name}_seconds_per_minute": float((x[:, 1] - x[:, 0]).sum()) / 1000 / minutes
                  for name, x in found.items()}


def durations(found: dict[str, np.ndarray], event: str) -> np.ndarray:
    """Seconds."""
    return (found[event][:, 1] - found[event][:, 0]) / 1000


def floor_transfers(vads: Sequence[np.ndarray]) -> np.ndarray:
    """Floor transfer offsets in seconds: from the end of one channel's IPU to the next IPU of
    another that ends later; below 0 they overlap."""
    spans = sorted((start, end, channel) for channel, v in enumerate(vads) for start,
                   end in ipus(v).tolist())
    out, holder, until = [], None, 0
    for start, end, channel in spans:
        if holder is not None and channel != holder and end > until:
            out.append((start - until) / 1000)
        if holder is None or end > until:
            holder, until = channel, end
    return np.array(out, np.float64)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """First Wasserstein distance of two sets of durations, in seconds; NaN where one is empty."""
    return float(stats.wasserstein_distance(a, b)) if len(a) and len(b) else float("nan")


def _timing(signals) -> dict[str, list[float]]:
    """{"<event>_s": durations} and "transfer_s", all in seconds."""
    out = {f"{name}_s": durations(signals.events, name) for name in EVENTS}
    out["transfer_s"] = floor_transfers(signals.speech)
    return {name: spans.round(3).tolist() for name, spans in out.items()}


def _score(case):
    own, true = case.signals, case.truth
    return (rates(own.events, own.total_ms) | _timing(own) | {"seconds": own.total_ms / 1000}
            | {f"true_{name}": spans for name, spans in _timing(true).items()})


def _pooling(label: str, function):
    """Of `function`: (durations of an event, those of the truth, seconds) -> number."""
    @pooling.labelled(label)
    def pooled(name, pool):
        seconds = sum(pool.entries("seconds"))
        if not seconds:
            return None
        event = name.split("_")[0]
        own, true = (np.concatenate(pool.entries(key)) for key in (f"{event}_s", f"true_{event}_s"))
        return {"value": function(own, true, seconds), "n": len(own)}
    return pooled


_per_minute = _pooling("events of all examples over their minutes",
                       lambda own, true, seconds: len(own) / (seconds / 60))
_mean = _pooling("mean over the events of all examples",
                 lambda own, true, seconds: float(own.mean()) if len(own) else np.nan)
_distance = _pooling("events of all examples together",
                     lambda own, true, seconds: distance(own, true))


def _recipe(benchmark):
    return RECIPE | {"W1_s": "first Wasserstein distance to the truth's, all dialogues of the "
                     "split together"}


_SHARED = {"family": "turn-taking", "score": _score, "recipe": _recipe,
           "needs": ("audio", "conversation")}
_MEANINGS = {"ipu": "stretches of speech", "turn": "turns", "gap": "silences between turns",
             "pause": "silences inside turns", "overlap": "stretches where several speak at once",
             "transfer": "floor transfers (below 0 where speakers overlap)"}
for _event, _meaning in _MEANINGS.items():
    if _event in EVENTS:
        declare(f"{_event}_per_minute", "truth", _meaning, unit="per minute", pool=_per_minute,
                **_SHARED)
    declare(f"{_event}_mean_s", "truth", f"mean length of {_meaning}", unit="s", pool=_mean,
            **_SHARED)
for _event, _meaning in _MEANINGS.items():
    declare(f"{_event}_W1_s", "down", f"distance of the lengths of {_meaning} from the truth's",
            unit="s", pool=_distance, **_SHARED)
