"""Who speaks when in a dataset of clips, by its transcripts and by voice activities: rates and
lengths of the events of turn-taking, and how far they agree."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from avjax.encoders.voice_activity import Detector
from avjax.encoders.voice_activity.detector import own_speech
from avjax.encoders.voice_activity.segments import inside
from avjax.encoders.voice_activity.turn_taking import events
from avjax.errors import UserError
from data_pipelines.features.common.clips import to_float
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import PREFIXES
from eval.metrics import turns

TRANSCRIPT = "transcript"
_SAID = ("turn", "backchannel")


@dataclasses.dataclass
class Found:
    """What one way finds, over all clips. agree: seconds, of all channels, in which it says what
    the first way says."""

    spans: dict[str, list] = dataclasses.field(
        default_factory=lambda: {event: [] for event in turns.EVENTS})
    transfers: list = dataclasses.field(default_factory=list)
    speech: float = 0.0
    agree: float = 0.0


def count(clips: store.Dataset, split: str, detectors: Mapping[str, Detector]) -> dict:
    """The report of a split, as JSON values.

    Args:
      clips: of one speaker or several, a channel each; a conversation that has a clip from each
        side is taken once.
      detectors: {name: voice activity}. What the clips' events say comes first where they have any.

    Raises UserError: no sound, no such split.
    """
    prefixes = [p for p in PREFIXES if f"{p}audio" in clips.features]
    if not prefixes or split not in clips.splits:
        raise UserError("no conversations to count in", where=f"{clips.dir}, split {split}",
                        expected=f"clips with audio, of {', '.join(clips.splits)}",
                        found=", ".join(clips.features))
    wanted = ("id", "side", "events", *(f"{p}audio" for p in prefixes))
    rate = clips.features[f"{prefixes[0]}audio"].rate
    found: dict[str, Found] = {}
    seconds = clips_read = 0
    for clip in clips.source(split, tuple(w for w in wanted if w in clips.features)):
        if clip.get("side", "0") != "0":
            continue
        channels = [to_float(clip[f"{p}audio"]) for p in prefixes]
        total = min(map(len, channels)) / rate
        heard = {name: own_speech(detector(channels, rate), channels, rate)
                 for name, detector in detectors.items()}
        said = [e for e in json.loads(clip.get("events", "[]")) if e["kind"] in _SAID]
        if said:
            heard = {TRANSCRIPT: [_spans(said, s) for s in range(len(prefixes))]} | heard
        first = next(iter(heard.values()))
        for name, channels_K2 in heard.items():
            _add(found.setdefault(name, Found()), channels_K2, first, total)
        seconds, clips_read = seconds + total, clips_read + 1
    return {"clips": clips_read, "channels": len(prefixes), "seconds": seconds,
            "by": {name: _numbers(one, seconds, seconds * len(prefixes))
                   for name, one in found.items()}}


def _spans(said: Sequence[Mapping], speaker: int) -> np.ndarray:
    return np.array([[e["start"], e["end"]] for e in said if e["speaker"] == speaker],
                    np.float64).reshape(-1, 2)


def _add(to: Found, channels: Sequence[np.ndarray], first: Sequence[np.ndarray],
         seconds: float) -> None:
    total = round(1000 * seconds)
    vads = [np.clip(np.round(1000 * x), 0, total).astype(np.int64) for x in channels]
    for name, spans in events(vads, total).items():
        to.spans[name] += turns.durations({name: spans}, name).tolist()
    to.transfers += turns.floor_transfers(vads).tolist()
    at = (np.arange(total // 10) + 0.5) / 100
    for mine, other in zip(channels, first, strict=True):
        a, b = (inside(x, at) for x in (mine, other))
        to.speech += a.sum() / 100
        to.agree += (a == b).sum() / 100


def _numbers(one: Found, seconds: float, of_channels: float) -> dict:
    out = {"speech_s": one.speech, "agrees_s": one.agree, "agrees": one.agree / of_channels}
    for name, spans in one.spans.items():
        out |= {f"{name}_per_minute": len(spans) / seconds * 60,
                f"{name}_mean_s": float(np.mean(spans)) if spans else None}
    transfers = one.transfers
    return out | {"transfer_mean_s": float(np.mean(transfers)) if transfers else None}


def text(report: Mapping) -> str:
    """The report of `count` as a table: per minute, and mean seconds, of each event."""
    names = [*turns.EVENTS, "transfer"]
    wide = max(map(len, (*report["by"], " " * 10))) + 2
    head = f"{'by':<{wide}}{'speech s':>10}{'agrees':>8}" + "".join(f"{n:>16}" for n in names)
    lines = [f"{report['clips']} clips, {report['channels']} channels, "
             f"{report['seconds'] / 60:.2f} minutes; events a minute and their mean seconds; "
             f"agreement with {next(iter(report['by']), 'nothing')}", head]
    for name, n in report["by"].items():
        cells = []
        for event in names:
            rate = f"{n[f'{event}_per_minute']:.1f}" if event in turns.EVENTS else ""
            mean = n[f"{event}_mean_s"]
            cells.append(f"{rate:>8}{f'{mean:.2f} s' if mean is not None else '-':>8}")
        lines.append(f"{name:<{wide}}{n['speech_s']:>10.1f}{n['agrees']:>8.1%}" + "".join(cells))
    return "\n".join(lines)
