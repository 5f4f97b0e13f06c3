"""The files of a conversation on one clock: that of the first speaker's sound.

A file's own clock is its container's (MPEG-TS begins anywhere, so it counts from its first picture
or sample there). Where two files have heard the same, their distance is measured (offsets.py) and,
beyond 40 ms, corrected; else container times count.
"""

import dataclasses
import pathlib

import numpy as np

from data_pipelines import media
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.conversations import offsets
from data_pipelines.ingest.conversations.find import Conversation, Speaker

CORRECTED = 0.040  # seconds
_ANYWHERE = (".ts", ".mts", ".m2ts", ".mpg", ".mpeg")


@dataclasses.dataclass
class Track:
    """What was recorded of a speaker, each on its file's clock; seconds.

    shown: (first, last) of its pictures; None without. sound_shift, video_shift: to be added to get
    the common clock.
    """

    speaker: Speaker
    sound: media.Sound
    shown: tuple[float, float] | None = None
    sound_shift: float = 0.0
    video_shift: float = 0.0
    own: media.Sound | None = None  # of the video, where `sound` is another file's


@dataclasses.dataclass(frozen=True)
class Apart:
    """How far a file is from the one it was compared with: offset by leaked sound, beside what
    container times say. Seconds."""

    file: str
    reference: str
    offset: offsets.Offset
    corrected: bool

    def line(self) -> str:
        """For a reader."""
        found = self.offset
        if not found.known:
            return (f"{self.file}: by container times; what leaks from {self.reference} does not "
                    f"stand out ({found.confidence:.1f}, of {offsets.CLEAR} that are needed)")
        words = "corrected" if self.corrected else "within 40 ms, left as it is"
        drift = abs(found.drift) * 1e6
        more = f"; drifts by {drift:.0f} parts per million" if drift >= 20 else ""
        return (f"{self.file}: {1000 * found.seconds:+.0f} ms from {self.reference} by leaked "
                f"sound ({found.confidence:.1f}), {words}{more}")


def tracks(found: Conversation) -> list[Track]:
    """Decodes sounds and looks when the pictures are. Raises media.MediaError."""
    out = []
    for one in found.speakers:
        path = one.sound or one.video
        media.check_whole(path)
        sound = media.read_sound(path, recordings.RATE, channel=one.channel)
        media.check_whole(path, len(sound.samples) / sound.rate)
        media.say(path, sound)
        shown = None
        if one.video is not None:
            media.check_whole(one.video)
            times = media.video_times(one.video)
            last = np.median(np.diff(times)) if len(times) > 1 else 1 / recordings.FPS
            shown = float(times[0]), float(times[-1] + last)
        out.append(Track(one, sound, shown))
    return out


def align(found: Conversation, parts: list[Track]) -> list[Apart]:
    """Sets the shifts of all tracks; returns what was measured."""
    first, out, shifts = parts[0], [], {}
    reference = first.speaker.sound or first.speaker.video
    shifts[reference] = -_base(reference, first)
    everybody = _everybody(parts)
    for part in parts:
        path = part.speaker.sound or part.speaker.video
        if path not in shifts:
            by_clock = -_base(path, part)
            shifts[path] = by_clock
            # silence cannot be compared, and is refused later
            apart = _apart(found, path, part.sound, by_clock, reference, first.sound,
                           shifts[reference])
            shifts[path] += apart.offset.seconds if apart.corrected else 0.0
            out.append(apart)
        part.sound_shift = part.video_shift = shifts[path]
        if part.speaker.video is None or part.speaker.video == path:
            continue
        part.video_shift = _beside(part, path)
        part.own = own = _own_sound(part.speaker.video)
        if own is not None:
            heard = everybody if part.speaker.channel is not None else part.sound
            apart = _apart(found, part.speaker.video, own, part.video_shift, path, heard,
                           part.sound_shift)
            part.video_shift += apart.offset.seconds if apart.corrected else 0.0
            out.append(apart)
    return out


def owners(parts: list[Track]) -> list[int] | None:
    """Which channel is whose where every speaker has a video whose own sound tells: that of each
    speaker, by the channel that it has most in common with; None where nothing tells."""
    sounds = [p.own for p in parts]
    if any(x is None for x in sounds):
        return None
    alike_SC = np.array([[offsets.measure(p.sound.samples, x.samples, x.rate).confidence
                          for p in parts] for x in sounds])
    order = alike_SC.argmax(1)
    clear = all(alike_SC[s, c] >= offsets.CLEAR for s, c in enumerate(order))
    return list(map(int, order)) if clear and len(set(order)) == len(order) else None


def _apart(found, path, sound, by_clock: float, reference, heard, reference_shift: float) -> Apart:
    raw = offsets.measure(heard.samples, sound.samples, sound.rate)
    # on the common clock: how much later the file's sound is than its container says
    late = raw.seconds + heard.start + reference_shift - sound.start - by_clock
    offset = dataclasses.replace(raw, seconds=late)
    return Apart(found.place(path), found.place(reference), offset,
                 offset.known and abs(late) > CORRECTED)


def _everybody(parts: list[Track]) -> media.Sound:
    """All channels of the first speaker's sound file together."""
    path = parts[0].speaker.sound
    own = [p.sound.samples for p in parts if p.speaker.sound == path]
    count = min(map(len, own))
    return dataclasses.replace(parts[0].sound, samples=np.sum([x[:count] for x in own], axis=0))


def _own_sound(video: pathlib.Path) -> media.Sound | None:
    try:
        return media.read_sound(video, recordings.RATE)
    except media.MediaError:
        return None


def _base(path: pathlib.Path, part: Track) -> float:
    """Where a file's clock begins to count."""
    if path.suffix.lower() not in _ANYWHERE:
        return 0.0
    times = [part.sound.start, *(part.shown[:1] if part.speaker.video == path else ())]
    return min(times)


def _beside(part: Track, path: pathlib.Path) -> float:
    """The shift of a video whose sound is another file: a speaker's own begins when the video file
    does, everybody's counts on its own clock."""
    video = part.speaker.video
    if part.speaker.channel is None or video.suffix.lower() in _ANYWHERE:
        track = media.first_time(video)
        begin = min(part.shown[0], part.shown[0] if track is None else track)
        return part.sound.start + part.sound_shift - begin
    return part.sound_shift
