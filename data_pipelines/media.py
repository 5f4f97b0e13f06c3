"""Sound and pictures out of files, by timestamps (mp4.py writes them).

Everything here lives on the container's own clock, in seconds: a stream that starts late starts late here too, a
variable frame rate is resampled by presentation times, and gaps in the audio become silence. Callers ask for times.
"""

import dataclasses
import os
import pathlib
import struct
from collections.abc import Iterator

import av
import numpy as np
import soundfile
import soxr

from avjax.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_GAP = 0.04  # seconds: timestamps that differ by less from the running sample count are jitter, not a gap


class MediaError(UserError):
    """A file that cannot be used. `reason` is one of a few words, for tables."""

    def __init__(self, reason: str, path, **details):
        self.reason = reason
        super().__init__(reason, where=str(path), **details)


@dataclasses.dataclass(frozen=True)
class Stream:
    """What the container declares about its first video or audio stream. Times in seconds on the container's clock."""

    start: float
    duration: float | None  # None where the container does not say
    rate: float  # average frames, or samples, a second
    width: int = 0
    height: int = 0


@dataclasses.dataclass(frozen=True)
class Probe:
    video: Stream | None
    audio: Stream | None


# Tags that are no UTF-8 are no reason to refuse a recording: PyAV 19 reads any, and knows the option no more.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _open(path):
    try:
        return av.open(str(path), **_LENIENT)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError("unreadable", path, found=_first_line(error), way_out="convert or remove it") from None


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _pictures(container):
    """The first real video stream; cover art of a sound file does not count."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    return streams[0] if streams else None


def probe(path) -> Probe:
    """Streams of a file from its headers. Raises MediaError("unreadable")."""
    with _open(path) as container:
        def times(stream):
            base = float(stream.time_base or 0)
            start = stream.start_time * base if stream.start_time is not None else 0.0
            duration = stream.duration * base if stream.duration else None
            if duration is None and container.duration:
                duration = container.duration / av.time_base
            return start, duration
        video, audio = _pictures(container), next(iter(container.streams.audio), None)
        return Probe(video and Stream(*times(video), float(video.average_rate or 0), video.width, video.height),
                     audio and Stream(*times(audio), float(audio.rate)))


def iterate_video(path, max_side: int | None = None) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yields (time, duration in seconds, (H, W, 3) uint8 RGB) in order of presentation, upright, shrunk to `max_side`.

    Frames without a timestamp, or not later than the one before, are dropped. Raises MediaError("unreadable") when the
    file cannot be opened or holds no picture; a file damaged further on ends there (see `check_complete`).
    """
    with _open(path) as container:
        stream = _pictures(container)
        if stream is None:
            raise MediaError("no video", path, expected="a video stream", found="audio only")
        stream.thread_type = "AUTO"
        usual = 1 / float(stream.average_rate) if stream.average_rate else 1 / 30
        last = -np.inf
        try:
            for frame in container.decode(stream):
                if frame.pts is None or float(frame.pts * frame.time_base) <= last:
                    continue
                last = float(frame.pts * frame.time_base)
                shrink = min(1.0, (max_side or np.inf) / max(frame.width, frame.height))
                image = frame.to_ndarray(format="rgb24", width=round(frame.width * shrink),
                                         height=round(frame.height * shrink))
                if turns := round(frame.rotation / 90) % 4:  # the display matrix' angle is counter-clockwise
                    image = np.ascontiguousarray(np.rot90(image, turns))
                yield last, float(frame.duration * frame.time_base) if frame.duration else usual, image
        except (av.error.FFmpegError, OSError) as error:
            if last == -np.inf:
                raise MediaError("unreadable", path, found=_first_line(error)) from None
    if last == -np.inf:
        raise MediaError("unreadable", path, expected="at least one picture", found="none")


def frames_at(path, fps: float = 30.0, start: float | None = None, end: float | None = None,
              max_side: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time, image) at start + k / fps while that is before `end`: each the decoded frame nearest in time.

    `start` defaults to the first frame's time, `end` to the last one's plus its duration. The first frame is held
    before its time and the last one after it.
    """
    held = None  # (time, image): the latest frame not after the wanted time
    k = 0
    stop = None
    for time, duration, image in iterate_video(path, max_side):
        start = time if start is None else start
        while held is not None and (wanted := start + k / fps) <= time and (end is None or wanted < end - 1e-6):
            yield wanted, image if time - wanted < wanted - held[0] else held[1]
            k += 1
        if end is not None and start + k / fps >= end - 1e-6:
            return
        held, stop = (time, image), time + duration
    end = stop if end is None else end
    while (wanted := start + k / fps) < end - 1e-6:
        yield wanted, held[1]
        k += 1


def video_times(path) -> np.ndarray:
    """Presentation times in seconds of every packet of pictures, sorted, without decoding."""
    with _open(path) as container:
        stream = _pictures(container)
        if stream is None:
            raise MediaError("no video", path, expected="a video stream", found="audio only")
        try:
            times = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None and p.size]
        except av.error.FFmpegError as error:
            raise MediaError("truncated", path, found=_first_line(error)) from None
    return np.sort(np.array(times))


def read_audio(path, rate: int = 22050, start: float | None = None, end: float | None = None) -> np.ndarray:
    """(N,) float32 mono (mean of the channels) at `rate`, from `start` to `end` seconds of the container's clock.

    `start` defaults to the first sample's time, `end` to the last one's. Where the file has no sound, silence; N =
    round((end - start) * rate) when both are given. Raises MediaError: "no audio", "unreadable".
    """
    audio, native, first = _decode_audio(path)
    if native != rate:
        audio = soxr.resample(audio, native, rate, quality="HQ").astype(np.float32)
    begin = first if start is None else start
    stop = first + len(audio) / rate if end is None else end
    out = np.zeros(max(0, round((stop - begin) * rate)), np.float32)
    shift = round((first - begin) * rate)  # where the first sample falls in `out`
    source = audio[max(0, -shift) :][: max(0, len(out) - max(0, shift))]
    out[max(0, shift) :][: len(source)] = source
    return out


def _decode_audio(path) -> tuple[np.ndarray, int, float]:
    """(N,) float32, native rate, time of the first sample."""
    if pathlib.Path(path).suffix.lower() in (".wav", ".flac"):
        try:
            audio, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
            if len(audio):
                return np.nan_to_num(audio.mean(1)), rate, 0.0
            raise MediaError("too short", path, expected="sound", found="0 samples")
        except soundfile.LibsndfileError:
            pass  # some codecs in WAV only FFmpeg reads
    with _open(path) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise MediaError("no audio", path, expected="an audio stream", found="none")
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        rate, parts, length, first = stream.rate, [], 0, None
        try:
            for frame in container.decode(stream):
                time = None if frame.pts is None else float(frame.pts * frame.time_base)
                first = (time or 0.0) if first is None else first
                missing = 0 if time is None else round((time - first) * rate) - length
                if missing > _GAP * rate:
                    parts.append(np.zeros(missing, np.float32))
                    length += missing
                frame.pts = None
                for piece in resampler.resample(frame):
                    parts.append(piece.to_ndarray().mean(0))
                    length += len(parts[-1])
        except (av.error.FFmpegError, OSError) as error:
            if not parts:
                raise MediaError("unreadable", path, found=_first_line(error)) from None
    if not length:
        raise MediaError("unreadable", path, expected="sound", found="an empty audio stream")
    return np.nan_to_num(np.concatenate(parts)), rate, first


def check_complete(path, decoded_end: float, declared: Stream) -> None:
    """Raises MediaError("truncated") when decoding ended clearly before what the header declares."""
    if declared.duration is None:
        return
    expected = declared.start + declared.duration
    if decoded_end < expected - max(0.25, 0.02 * declared.duration):
        raise MediaError("truncated", path, expected=f"{expected:.2f} s (header)", found=f"{decoded_end:.2f} s decoded",
                         way_out="copy or record it again")


def check_wav(path) -> None:
    """Raises MediaError("truncated") when a RIFF file's data chunk is longer than the file."""
    with open(path, "rb") as file:
        check_riff(file, path)


def check_riff(file, path) -> None:
    """`check_wav` of an open binary file at its beginning; `path` only names it. Leaves the position anywhere."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(12)[:4] != b"RIFF":
        return
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            if 0 < length < 0xFFFFFFFF - 8 and file.tell() + length > size + 1:
                raise MediaError("truncated", path, expected=f"{length} bytes of samples (header)",
                                 found=f"{size - file.tell()}", way_out="copy or record it again")
            return
        file.seek(length + length % 2, os.SEEK_CUR)
