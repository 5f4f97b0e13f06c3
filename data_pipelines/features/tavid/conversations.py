"""Recorded dialogues, checked: who said what and when, one channel a speaker, cut into pieces where
nobody speaks.

All cuts are whole frames of RATE, at which units (two a frame), pictures and 22 050 Hz sound (882
samples) meet.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np

from avjax.signal import level as level_library
from avjax.signal import rates
from data_pipelines.features.common.clips import to_float
from data_pipelines.features.tavid import script
from data_pipelines.store.columns import PREFIXES
from data_pipelines.store.dataset import Unusable

RATE = rates.FRAMES
SAMPLE_RATE = 22050
HOP = SAMPLE_RATE // RATE
_APART = 2  # frames that channels, or sound and pictures, may differ by; the shorter one counts
_SILENT = 1e-3  # peak, of full scale
_LOUDER = 4.0  # power ratio (6 dB) by which the wrong channel is louder where channels are swapped
_SAME = 0.98  # correlation of two channels that are one recording


def speaker_prefixes(clips) -> tuple[str, ...]:
    """Prefixes of the speakers that a clip dataset has channels of."""
    return tuple(p for p in PREFIXES if f"{p}audio" in clips.features)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One dialogue. audio: (N,) float32 of every speaker, `frames` / RATE seconds, each at the
    level of speech, all zeros of who says nothing here; script: with times where known, without
    turns where nobody's words are."""

    clip: dict
    names: tuple[str, ...]
    audio: tuple[np.ndarray, ...]
    script: script.Script
    frames: int

    @property
    def spoken(self) -> list[tuple[float, float]]:
        """(start, end) of every turn with what is heard in it, seconds; [] where not known."""
        turns = self.script.turns
        if any(t.start is None for t in turns):
            return []
        if turns:
            return [(t.start, max([t.end, *(b.end for b in t.backchannels)])) for t in turns]
        return sorted((e["start"], e["end"]) for e in json.loads(self.clip.get("events", "[]"))
                      if e["kind"] in ("turn", "backchannel"))


@dataclasses.dataclass(frozen=True)
class Piece:
    """Frames [start, end) of a recording and the turns in it, timed from the piece's start."""

    start: int
    end: int
    script: script.Script


def conversation(clip: dict, prefixes: Sequence[str], tracks: Sequence[int] = (), *,
                 rate: int = SAMPLE_RATE, level: dict | None = level_library.RECIPE,
                 needs_script: bool = True) -> Conversation:
    """The dialogue of a clip dataset's record.

    Args:
      clip: with speaker, audio of every speaker, text; events and words where known.
      prefixes: of the speakers' columns.
      tracks: frames at RATE that the pictures of each speaker last, where there are any.
      rate: of the sound, Hz, a multiple of RATE.
      level: recipe of the level that every channel is brought to; None = as it comes.
      needs_script: False takes it without one, and looks for none.

    Raises:
      store.Unusable: lengths differ, silent channel, channels swapped, one channel twice, no
      script.
    """
    audio, hop = [to_float(clip[f"{p}audio"]) for p in prefixes], rate // RATE
    lengths = [len(a) // hop for a in audio] + list(tracks)
    if max(lengths) - min(lengths) > _APART:
        raise Unusable("lengths differ", expected=f"channels and pictures within {_APART} frames "
                                                  "of each other",
                       found=" ".join(map(str, lengths)) + " frames",
                       hint="cut them to the same duration")
    frames = min(lengths)
    audio = tuple(a[: frames * hop] for a in audio)
    names = tuple(clip[f"{p}speaker"] for p in prefixes)
    for name, a in zip(names, audio, strict=True):
        if not np.isfinite(a).all():
            raise Unusable("sound is not finite", found=f"NaN in the channel of {name}")
    said = _script(clip, names, prefixes) if needs_script else script.Script((), names)
    audio = _heard(audio, names, _speaking(clip, said))
    _check_channels(audio, said, names, hop)
    audio = tuple(level_library.normalised(a, rate, level) for a in audio)
    return Conversation(clip, names, audio, said, frames)


def _heard(audio, names, speaking: set[int] | None) -> tuple[np.ndarray, ...]:
    """The channels; nothing at all is left of one in which nobody is heard and nobody is said to
    speak. Raises Unusable: silent channel."""
    silent = [not len(a) or np.abs(a).max() < _SILENT for a in audio]
    for k, name in enumerate(names):
        if silent[k] and (speaking is None or k in speaking or all(silent)):
            raise Unusable("silent channel", expected="speech of every speaker",
                           found=f"nothing of {name}")
    return tuple(np.zeros_like(a) if quiet else a for a, quiet in zip(audio, silent, strict=True))


def _speaking(clip, said: script.Script) -> set[int] | None:
    """Who is said to speak, by the script or else by the events; None where neither says it."""
    if said.turns:
        return {x.speaker for t in said.turns for x in (t, *t.backchannels)}
    events = json.loads(clip.get("events", "[]"))
    return {int(e["speaker"]) for e in events if "speaker" in e} if events else None


def pieces(record: Conversation, max_seconds: float) -> Iterator[Piece | Unusable]:
    """The recording whole if it is short enough, else cut in the middle of silences between turns,
    each piece as long as it may be. Where turns follow each other without a silence for longer than
    that, those are left out, as an Unusable."""
    limit = int(max_seconds * RATE)
    if record.frames <= limit:
        yield Piece(0, record.frames, record.script)
        return
    spoken = record.spoken
    if not spoken:
        yield Unusable("too long", expected=f"at most {max_seconds:g} s, or known times to cut it "
                                            "by",
                       found=f"{record.frames / RATE:.1f} s",
                       hint="raise --max_seconds, or prepare the times")
        return
    cuts = _cuts(spoken, record.frames)  # (frame, number of turns before it)
    first = 0
    while first < len(cuts) - 1:
        last = max((k for k in range(first + 1, len(cuts)) if cuts[k][0] - cuts[first][0] <= limit),
                   default=0)
        start, end = cuts[first], cuts[last or first + 1]
        if last:
            yield Piece(start[0], end[0],
                        record.script.part(start[1], end[1], origin=start[0] / RATE))
        else:
            yield Unusable("too long", expected=f"a silence to cut at every {max_seconds:g} s",
                           found=f"none from {start[0] / RATE:.1f} to {end[0] / RATE:.1f} s",
                           hint="raise --max_seconds")
        first = last or first + 1


def _cuts(spoken, frames: int) -> list[tuple[int, int]]:
    cuts, latest = [(0, 0)], 0.0
    for k, (start, end) in enumerate(spoken):
        if k and start > latest:
            cuts.append((round((start + latest) / 2 * RATE), k))
        latest = max(latest, end)
    return [*(c for c in cuts if c[0] < frames), (frames, len(spoken))]


def _script(clip, names, prefixes) -> script.Script:
    words = [json.loads(clip[f"{p}words"]) if f"{p}words" in clip else () for p in prefixes]
    events = json.loads(clip["events"]) if "events" in clip else ()
    said = script.of_puppet(clip["text"], events, names=names, words=words)
    if not said.turns:
        raise Unusable("no script", expected="turns, as text or events",
                       found=repr(clip["text"][:60]))
    return said


def _check_channels(audio, said: script.Script, names, hop: int) -> None:
    """Raises Unusable by who is loud where, by the script, only one speaks."""
    power_SN = np.stack([(a**2).reshape(-1, hop).mean(1) for a in audio])
    for i in range(len(audio)):
        for j in range(i):
            loud = power_SN[[i, j]].max(1).min() > 0
            if loud and np.corrcoef(audio[i][::7], audio[j][::7])[0, 1] > _SAME:
                raise Unusable("one channel twice", expected="a clean channel of every speaker",
                               found=f"{names[j]} and {names[i]} sound the same",
                               hint="separate the speakers")
    if not said.turns or any(t.start is None for t in said.turns):
        return
    frames = power_SN.shape[1]
    active_SN = np.zeros((len(audio), frames), bool)
    for one in (x for t in said.turns for x in (t, *t.backchannels)):
        active_SN[one.speaker, round(one.start * RATE): round(one.end * RATE)] = True
    alone_N = active_SN.sum(0) == 1
    own, loudest = [], []
    for s in range(len(audio)):
        solo_N = active_SN[s] & alone_N
        if solo_N.any():
            means_S = power_SN[:, solo_N].mean(1)
            own.append(s)
            loudest.append(int(means_S.argmax()) if means_S.max() > _LOUDER * means_S[s] else s)
    if any(o != found for o, found in zip(own, loudest, strict=True)):
        raise Unusable("channels swapped",
                       expected="every speaker loud in its own channel while it speaks alone",
                       found=", ".join(f"{names[o]} in the channel of {names[f]}"
                                       for o, f in zip(own, loudest, strict=True) if o != f),
                       hint="exchange the channels, or the script's speakers")
