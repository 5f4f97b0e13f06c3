"""How the events of turn-taking (avjax/encoders/voice_activity/turn_taking.py) compare with the
truth's: rates, durations and floor transfers."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from avjax.encoders.voice_activity.turn_taking import JOIN_MS, ipus
from eval import jackknife, pooling
from eval.metrics.listener import pair_name
from eval.registry import declare

EVENTS = ("ipu", "pause", "gap", "overlap", "turn")
RECIPE = {"implementation": "avjax eval.metrics.turns 1", "definition": "dGSLM", "join_ms": JOIN_MS,
          "vad": "energy (ours): frames of the log-mel within 35 dB of the channel's 95th "
          "percentile, smoothed over 5 frames; the same for truth and generated",
          "unit": "per minute of dialogue"}


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
    return np.array([seconds for *_, seconds in transfers(vads)], np.float64)


def transfers(vads: Sequence[np.ndarray]) -> list[tuple[int, int, float]]:
    """(channel that had the floor, channel that gets it, offset in seconds) of every floor
    transfer."""
    spans = sorted((start, end, channel) for channel, v in enumerate(vads) for start,
                   end in ipus(v).tolist())
    out, holder, until = [], None, 0
    for start, end, channel in spans:
        if holder is not None and channel != holder and end > until:
            out.append((holder, channel, (start - until) / 1000))
        if holder is None or end > until:
            holder, until = channel, end
    return out


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """First Wasserstein distance of two sets of durations, in seconds; NaN where one is empty."""
    return float(stats.wasserstein_distance(a, b)) if len(a) and len(b) else float("nan")


def _timing(signals) -> dict[str, list[float]]:
    """{"<event>_s": durations} and "transfer_s", all in seconds; of three speakers or more also
    "transfer_pairs_s", those of each pair."""
    out = {f"{name}_s": durations(signals.events, name) for name in EVENTS}
    passed = transfers(signals.speech)
    out["transfer_s"] = np.array([seconds for *_, seconds in passed], np.float64)
    out = {name: spans.round(3).tolist() for name, spans in out.items()}
    if len(signals.speech) < 3:
        return out
    pairs: dict[str, list[float]] = {}
    for first, second, seconds in passed:
        pairs.setdefault(pair_name(first, second), []).append(round(seconds, 3))
    return out | {"transfer_pairs_s": pairs}


def _score(case):
    own, true = case.signals, case.truth
    return (rates(own.events, own.total_ms) | _timing(own) | {"seconds": own.total_ms / 1000}
            | {f"true_{name}": spans for name, spans in _timing(true).items()})


def _ratio(label: str, above, below):
    """Pooling of two sums over examples, one over the other, NaN of nothing; `n` counts events.

    Args:
      above, below: (durations of an event in an example (K,), seconds of it) -> number.
    """
    @pooling.labelled(label)
    def pooled(name, pool):
        seconds = pool.entries("seconds")
        if not seconds:
            return None
        spans = [np.array(x) for x in pool.entries(f"{name.split('_')[0]}_s")]
        sums_n2 = np.array([[of(*pair) for of in (above, below)]
                            for pair in zip(spans, seconds, strict=True)], np.float64)
        entry = pooling.interval(sums_n2, pooling.ratio) | {"n": sum(map(len, spans))}
        return entry | _pairs(name, pool, lambda own, _: float(np.mean(own)))
    return pooled


def _pairs(name: str, pool, statistic) -> dict:
    """{PAIRS: of each pair of three or more speakers} of a metric of floor transfers, else {}.
    statistic: (offsets, the truth's) of all examples -> number."""
    own, true = ({}, {})
    for found, key in ((own, "transfer_pairs_s"), (true, "true_transfer_pairs_s")):
        for row in pool.entries(key) if name.startswith("transfer_") else ():
            for pair, offsets in row.items():
                found.setdefault(pair, []).extend(offsets)
    each = {pair: {"value": statistic(np.array(own[pair]), np.array(true.get(pair, []))),
                   "n": len(own[pair])} for pair in sorted(own)}
    return {pooling.PAIRS: each} if each else {}


@pooling.labelled("events of all examples together")
def _distance(name, pool):
    event = name.split("_")[0]
    own, true = (pool.entries(key) for key in (f"{event}_s", f"true_{event}_s"))
    if not own:
        return None

    def of(some) -> float:
        return distance(*(np.concatenate([side[k] for k in some]) for side in (own, true)))

    return (jackknife.of_examples(len(own), of) | {"n": sum(map(len, own))}
            | _pairs(name, pool, distance))


def _minutes(spans, seconds):
    return seconds / 60


_per_minute = _ratio("events of all examples over their minutes",
                     lambda spans, _: len(spans), _minutes)
_share = _ratio("seconds of all examples over their minutes", lambda spans, _: spans.sum(),
                _minutes)
_mean = _ratio("mean over the events of all examples", lambda spans, _: spans.sum(),
               lambda spans, _: len(spans))


def _recipe(benchmark):
    of_sound = {"vad": benchmark.detector.recipe} if benchmark.detector else {}
    several = {"pairs": "who had the floor, who gets it"} if benchmark.parties > 2 else {}
    return RECIPE | of_sound | several | {
        "W1_s": "first Wasserstein distance to the truth's, all dialogues of the split together"}


_SHARED = {"family": "turn-taking", "score": _score, "recipe": _recipe,
           "needs": ("audio", "conversation")}
_MEANINGS = {"ipu": "stretches of speech", "turn": "turns", "gap": "silences between turns",
             "pause": "silences inside turns", "overlap": "stretches where several speak at once",
             "transfer": "floor transfers (below 0 where speakers overlap)"}
for _event, _meaning in _MEANINGS.items():
    if _event in EVENTS:
        declare(f"{_event}_per_minute", "truth", _meaning, unit="per minute", pool=_per_minute,
                **_SHARED)
        declare(f"{_event}_s_per_minute", "truth", f"time in {_meaning}",
                unit="s per minute", pool=_share, **_SHARED)
    declare(f"{_event}_mean_s", "truth", f"mean length of {_meaning}", unit="s", pool=_mean,
            **_SHARED)
for _event, _meaning in _MEANINGS.items():
    declare(f"{_event}_W1_s", "down", f"distance of the lengths of {_meaning} from the truth's",
            unit="s", pool=_distance, **_SHARED)
