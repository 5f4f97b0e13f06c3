"""Media files: what is in them, and their packets on one clock.

Everything is on the container's own clock, in seconds: a stream that starts late starts late here
too. Headers only say which streams there are; times are those of what was decoded (`sound`,
`video`), because headers estimate and round.
"""

import contextlib
import dataclasses
import io
import math

import av

from avjax.errors import UserError
from data_pipelines.media import tar_tree

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".mts", ".m2ts", ".flv",
                  ".3gp", ".mpg",
                  ".mpeg", ".wmv")
# Formats without timestamps: their demuxers count bytes; nothing records how much padding a coder
# put in front.
UNTIMED = ("mp3", "aac", "ac3", "eac3")
# seconds by which a stream's clock goes back, or ahead, only where another file begins
_BACK, _JUMP = 1.0, 10.0
# formats that people join with `cat`, so that also a leap ahead is a new file
_JOINABLE = ("mpegts", "mpeg")
_LOST = 0.25  # seconds that may be undecodable
LEAD = 1.0  # seconds that are decoded before, and behind, a part of a file
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # formats with the places of all times


class MediaError(UserError):
    """A file that cannot be used. `reason` is one of a few words, for tables."""

    def __init__(self, reason: str, path, **details):
        self.reason = reason
        super().__init__(reason, where=str(path), **details)


@dataclasses.dataclass(frozen=True)
class Stream:
    """What the container declares about its first video or audio stream. Times in seconds on the
    container's clock."""

    start: float
    # None where the container does not say; often an estimate: no reason to refuse a file
    duration: float | None
    rate: float  # average frames, or samples, a second
    width: int = 0
    height: int = 0
    frames: int = 0  # pictures; 0 where the container does not say


@dataclasses.dataclass(frozen=True)
class Probe:
    video: Stream | None
    audio: Stream | None


# Tags that are no UTF-8 are no reason to refuse a recording: PyAV 19 reads any, and knows the
# option no more.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@contextlib.contextmanager
def opened(path, link: bytes | None = None):
    """The open container; FFmpeg's errors become MediaErrors. `link`: one of
    `links`."""
    try:
        place = path.url if isinstance(path, tar_tree.Member) else str(path)
        container = av.open(place if link is None else io.BytesIO(link), **_LENIENT)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    with container:
        yield container


def links(path) -> list[bytes | None]:
    """The files that a chained Ogg file (recorded radio, files joined end to end) consists of;
    [None] for any other.

    FFmpeg 8.1 ends at a link with other parameters than the first one's.
    """
    try:
        with tar_tree.opened(path) as file:
            data = file.read(4)
            data += file.read() if data == b"OggS" else b""
    except OSError as error:
        raise unreadable(path, error) from None
    if len(data) <= 4:
        return [None]
    starts, at, before = [], 0, False
    while at + 27 <= len(data) and data[at : at + 4] == b"OggS":
        # the first page of a stream; those of one link follow each other
        first = bool(data[at + 5] & 2)
        if first and not before:
            starts.append(at)
        before = first
        body = at + 27 + data[at + 26]
        at = body + sum(data[at + 27 : body])
    if len(starts) < 2:
        return [None]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def unreadable(path, error) -> MediaError:
    """The error of a file that FFmpeg gives up on."""
    found = (str(error).splitlines() or [type(error).__name__])[0]
    return MediaError("unreadable", path, found=found, hint="convert or remove it")


def moving(container) -> list:
    """Video streams; cover art of a sound file does not count."""
    return [s for s in container.streams.video if not s.disposition
            & av.stream.Disposition.attached_pic]


def first(streams):
    """The first stream that FFmpeg has a decoder for, or None."""
    return next((s for s in streams if s.codec_context is not None), None)


def pictures(container, path):
    """The video stream to use, or None. Raises MediaError("unreadable") when there are only such as
    nobody decodes."""
    return _usable(moving(container), path)


def sound(container, path):
    """The audio stream to use, or None. Raises MediaError("unreadable") when there are only such as
    nobody decodes."""
    return _usable(container.streams.audio, path)


def _usable(streams, path):
    if streams and first(streams) is None:
        raise MediaError("unreadable", path, expected=f"a {streams[0].type} codec that FFmpeg "
                                                      "decodes",
                         found="one that it does not know", hint="convert it to H.264 and AAC")
    return first(streams)


def probe(path) -> Probe:
    """Streams of a file from its headers. Raises MediaError("unreadable")."""
    with opened(path) as container:
        return declared(container)


def declared(container) -> Probe:
    """`probe` of an open container."""
    def times(stream):
        base = float(stream.time_base or 0)
        start = stream.start_time * base if stream.start_time is not None else 0.0
        duration = stream.duration * base if stream.duration else None
        if duration is None and container.duration:
            duration = container.duration / av.time_base
        return start, duration

    video, audio = first(moving(container)), first(container.streams.audio)
    return Probe(video and Stream(*times(video), float(video.average_rate or 0), video.width,
                                  video.height, video.frames),
                 audio and Stream(*times(audio), float(audio.rate)))


def decoded(container, stream, path):
    """Yields the frames of `stream` on one clock. Raises MediaError: "unreadable", "truncated",
    "damaged".

    A packet that cannot be decoded is left out; more than 0.25 s of them after the first frame are
    refused.
    """
    any_yet, lost, decode = False, 0.0, _decoder(stream)
    try:
        for packet in _packets(container, stream):
            try:
                frames = decode(packet)
            except av.error.InvalidDataError:
                lost += float((packet.duration or 0) * packet.time_base) if any_yet else 0.0
                continue
            any_yet |= bool(frames)
            yield from frames
    except (av.error.FFmpegError, OSError) as error:
        if not any_yet:
            raise unreadable(path, error) from None
        raise MediaError("truncated", path, found=str(error).splitlines()[0],
                         hint="copy or record it again") from None
    if lost > _LOST and container.format.name not in UNTIMED:
        raise MediaError("damaged", path, expected=f"at most {_LOST} s of a {stream.type} stream "
                                                   "lost",
                         found=f"{lost:.2f} s that cannot be decoded",
                         hint="copy or record it again")


def _decoder(stream):
    """packet -> its frames. FFmpeg's own VP8 and VP9 leave the transparency of WebM out, libvpx
    reads it."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") != "1":
        return lambda packet: packet.decode()
    context = av.CodecContext.create(name, "r")
    return lambda packet: context.decode(packet if packet.size else None)


def skip_to(container, stream, time: float) -> bool:
    """Moves on to where whatever is at `time` seconds and later can be decoded from, and says
    whether it did: formats without an index are read from their beginning."""
    if time <= LEAD or container.format.name not in _INDEXED:
        return False
    container.seek(math.floor((time - LEAD) / stream.time_base), stream=stream)
    return True


def head(container, stream):
    """(first packet, first frame) of a stream that `decoded` has not been asked for yet; None where
    there is none."""
    start = None
    with contextlib.suppress(av.error.FFmpegError, OSError):
        for packet in _packets(container, stream):
            start = start or packet
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    return start, frame
    return start, None


def _packets(container, wanted):
    """The packets of `wanted`, moved where the timestamps of any stream begin anew (files joined
    end to end).

    In AVI a packet has the time of its place in the file and no other; FFmpeg's guess at when its
    picture is shown is wrong for H.264 with B-frames (FFmpeg 8.1), so the picture is given its
    place as its time: see `video`.
    """
    used = [s for s in (first(moving(container)), first(container.streams.audio)) if s is not None]
    places = container.format.name == "avi" and wanted.type == "video"
    jump = _JUMP if container.format.name in _JOINABLE else float("inf")
    ticks = {s.index: float(s.time_base) for s in used}  # seconds
    shift, ends = 0.0, {}
    for packet in container.demux(used):
        # not `stream_index`: that of the empty packets at the end is 0 (PyAV 18.1)
        index = packet.stream.index
        stamp, tick = packet.pts if packet.dts is None else packet.dts, ticks[index]
        if stamp is not None:
            time = stamp * tick + shift
            end = ends.get(index, time)
            if not -_BACK <= time - end <= jump:
                shift, time = shift + end - time, end
            ends[index] = time + (packet.duration or 0) * tick
            if shift:
                packet.dts = None if packet.dts is None else packet.dts + round(shift / tick)
                packet.pts = None if packet.pts is None else packet.pts + round(shift / tick)
            if places:
                packet.pts = packet.dts
        if index == wanted.index:
            yield packet
