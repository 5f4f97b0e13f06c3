"""Sound out of any file: one channel, at one rate, every sample at its time.

A file's sound is decoded into runs of one rate and one set of channels (joined files change both),
each run is mixed down by `downmix`, and stretches of it are laid where their timestamps say: gaps
are silent, and a stretch whose timestamps go faster or slower than its samples is stretched to
them.
"""

import dataclasses
import itertools
import math
import sys

import av
import numpy as np
import soxr

from data_pipelines.media import containers, downmix
from data_pipelines.media.containers import MediaError

# seconds: by so much and more, lasting, timestamps leave the count of samples at once: a gap or
# overlap
_STEP = 0.015
# seconds by which they may leave it little by little before the sound is stretched to them
_DRIFT = 0.004
_ANCHOR = 2.0  # seconds of sound over which drift is measured: timestamps jitter
# stretching: samples at a time, around them, and between each two
_CHUNK, _MARGIN, _FINER = 1 << 18, 256, 4
_LONGEST = 24 * 3600.0
# Samples of padding that a coder puts in front of the sound, cut off where neither the file nor a
# timestamp says so: LAME's and the decoder's of mp3, the first frame of AAC, what FFmpeg's encoders
# of the others declare.
_PADDING = {"mp3": 1105, "mp3float": 1105, "aac": 1024, "mp2": 481, "mp2float": 481, "ac3": 256,
            "eac3": 256}


@dataclasses.dataclass(frozen=True)
class Sound:
    """One channel of sound, on the container's clock."""

    samples: np.ndarray  # (N,) float32
    rate: int
    start: float  # seconds, of the first sample
    remarks: tuple[str, ...] = ()  # what was mended
    broken: int = 0  # numbers in the file that were no numbers, here silence

    @property
    def end(self) -> float:
        return self.start + len(self.samples) / self.rate

    @property
    def told(self) -> tuple[str, ...]:
        """What the user should see."""
        broken = (f"warning: {self.broken} samples are no numbers: silent",) if self.broken else ()
        return self.remarks + broken

    def between(self, begin: float, end: float) -> np.ndarray:
        """(round((end - begin) * rate),) samples; silence where there is no sound."""
        out = np.zeros(max(0, round((end - begin) * self.rate)), np.float32)
        _lay(out, self.samples, round((self.start - begin) * self.rate))
        return out


@dataclasses.dataclass
class _Run:
    """Frames that follow each other with the same rate and channels."""

    rate: int
    names: tuple[str, ...]
    statistics: downmix.Statistics
    counts: list[int] = dataclasses.field(default_factory=list)
    # seconds, NaN where a frame has none
    times: list[float] = dataclasses.field(default_factory=list)
    # float32; grows without a second copy
    mono: bytearray = dataclasses.field(default_factory=bytearray)
    remarks: list[str] = dataclasses.field(default_factory=list)
    broken: int = 0


def read_audio(path, rate: int = 22050, start: float | None = None,
               end: float | None = None) -> np.ndarray:
    """(N,) float32, one channel, at `rate`, from `start` to `end` seconds of the container's clock.

    `start` defaults to the first sample's time, `end` to the last one's. N = round((end - start) *
    rate) when both are given. Repairs are printed on stderr. Raises MediaError as `read` does.
    """
    heard = read(path, rate)
    say(path, heard)
    if start is None and end is None:
        return heard.samples
    return heard.between(heard.start if start is None else start, heard.end if end is None else end)


def say(path, heard: Sound) -> None:
    """Prints what the user should see on stderr, a line each."""
    for remark in heard.told:
        print(f"remark: {path}: {remark}", file=sys.stderr, flush=True)


def read(path, rate: int = 22050, start: float | None = None, end: float | None = None, *,
         channel: int | None = None) -> Sound:
    """The whole sound of a file at `rate`, all its channels mixed down, or one, counted from 0; or
    of it, what is needed from `start` to `end` seconds of the container's clock, and some more on
    either side.

    Raises MediaError: "no audio", "too short", "unreadable", "damaged", "no such channel".
    """
    pieces, remarks, after, broken = [], [], 0.0, 0
    for run in _decode(path, start, end, channel):
        pieces += [(at, _at_rate(x, run.rate, rate, drift)) for at, x,
                   drift in _stretches(run, after)]
        after = pieces[-1][0] + len(pieces[-1][1]) / rate
        remarks += run.remarks
        broken += run.broken
    heard = _laid(path, pieces, rate, tuple(dict.fromkeys(remarks)))
    return dataclasses.replace(heard, broken=broken)


def channels(path) -> int | None:
    """How many channels the sound of a file has, by its header; None without sound. Raises
    MediaError("unreadable")."""
    with containers.opened(path) as container:
        stream = containers.first(container.streams.audio)
        return stream and stream.codec_context.layout.nb_channels


def first_time(path) -> float | None:
    """Time of the first sample of a file's sound, None without one."""
    with containers.opened(path) as container:
        stream = containers.first(container.streams.audio)
        frame = stream and containers.head(container, stream)[1]
        return float(frame.pts * frame.time_base) if frame and frame.pts is not None else None


def _laid(path, pieces, rate: int, remarks) -> Sound:
    begin = pieces[0][0]
    stops = [at + len(x) / rate for at, x in pieces]
    if max(stops) - begin > _LONGEST:
        raise MediaError("unreadable", path, expected=f"at most {_LONGEST / 3600:.0f} h of sound",
                         found=f"timestamps {max(stops) - begin:.0f} s apart", hint="convert it")
    if len(pieces) == 1:
        return Sound(pieces[0][1], rate, begin, remarks)
    out = np.zeros(round((max(stops) - begin) * rate) + 1, np.float32)
    for at, x in pieces:
        _lay(out, x, round((at - begin) * rate))
    return Sound(out[: round((max(stops) - begin) * rate)], rate, begin, remarks)


def _lay(out: np.ndarray, x: np.ndarray, at: int) -> None:
    """Copies x into `out` from index `at` on, as far as it fits."""
    x = x[max(0, -at) :][: max(0, len(out) - max(0, at))]
    out[max(0, at) :][: len(x)] = x


def _decode(path, start: float | None, end: float | None, channel: int | None) -> list[_Run]:
    """Runs with their mixed samples, or those of a channel. Files of several channels are decoded
    twice to be mixed: an hour of six would not fit into memory, and the mix depends on all of
    it."""
    runs: list[_Run] = []
    for x_CN, rate, names, time, broken in _frames(path, start, end):
        if not runs or (runs[-1].rate, runs[-1].names) != (rate, names):
            runs.append(_Run(rate, names, downmix.Statistics(len(names))))
        run = runs[-1]
        run.broken += broken
        run.counts.append(x_CN.shape[1])
        run.times.append(time)
        if channel is not None and channel >= len(names):
            raise MediaError("no such channel", path, expected=f"{channel + 1} channels",
                             found=str(len(names)))
        if len(names) == 1 or channel is not None:
            run.mono += x_CN[channel or 0].tobytes()
        else:
            run.statistics.add(x_CN)
    if not runs:
        raise MediaError("too short", path, expected="sound", found="0 samples")
    if channel is None and any(len(run.names) > 1 for run in runs):
        frames = _frames(path, start, end)
        for run in runs:
            mix_C, run.remarks = downmix.weights(run.names, run.statistics.covariance())
            for _, (x_CN, *_) in zip(run.counts, frames, strict=False):
                run.mono += (mix_C.astype(np.float32) @ x_CN).tobytes()
    return runs


def _frames(path, start: float | None = None, stop: float | None = None):
    """Yields ((C, N) float32, rate, names of the channels, time in seconds or NaN, how many of its
    numbers were none) without the coder's padding; from about `start` on where the format lets one
    skip, and until a little after `stop`."""
    end = 0.0
    for k, link in enumerate(containers.links(path)):
        with containers.opened(path, link) as container:
            stream = containers.sound(container, path)
            if stream is None:
                raise MediaError("no audio", path, expected="an audio stream", found="none")
            padding, moved = _padding(path, link, container, stream)
            if start is not None and containers.skip_to(container, stream, start):
                padding = 0
            for frame in containers.decoded(container, stream, path):
                (x_CN, broken), rate = _samples(frame), frame.sample_rate
                cut = min(padding, x_CN.shape[1])
                padding -= cut
                counted = frame.pts is None or container.format.name in containers.UNTIMED
                time = math.nan
                if not counted:
                    time = float(frame.pts * frame.time_base) - moved + cut / rate
                if k and math.isfinite(time) and x_CN.shape[1] > cut:  # another file from here on
                    moved, time, k = moved + time - end, end, 0
                if cut < x_CN.shape[1]:
                    end = (end if math.isnan(time) else time) + (x_CN.shape[1] - cut) / rate
                    names = tuple(c.name for c in frame.layout.channels)
                    yield x_CN[:, cut:], rate, names, time, broken
                    if stop is not None and end > stop + containers.LEAD:
                        return


def _padding(path, link, container, stream) -> tuple[int, float]:
    """Samples of a coder's padding that will be decoded, and seconds by which timestamps are late
    because of it.

    Where timestamps are written, pictures go by the same clock, and nothing is to be done. Where
    they are not (sound alone, and AVI), the padding is either cut off already and still counted by
    the clock, or it is decoded.
    """
    name = stream.codec_context.name
    video = containers.first(containers.moving(container))
    lossless = name.startswith("pcm") or name in ("flac", "alac")
    if lossless or (video is not None and container.format.name != "avi"):
        return 0, 0.0
    hole = _hole(path) if video is not None else 0.0
    with containers.opened(path, link) as again:
        packet, frame = containers.head(again, containers.sound(again, path))
        if frame is None or packet.pts is None or packet.pts < 0:
            return 0, 0.0
        cut_off = max(0.0,
                      float((frame.pts or 0) * frame.time_base - packet.pts * packet.time_base))
        if cut_off:
            return 0, cut_off
        # one frame of AAC, however long
        padding = frame.samples if name == "aac" else _PADDING.get(name, 0)
        seconds = padding / frame.sample_rate
        return padding, seconds - (hole if hole < seconds + 0.05 else 0.0)


def _hole(path) -> float:
    """Seconds of empty places in front of the second picture of an AVI: FFmpeg's way to delay
    pictures by the padding of the sound, in whole frames (seen with FFmpeg 8.1)."""
    with containers.opened(path) as container:
        video = containers.first(containers.moving(container))
        places = [p.dts for p in itertools.islice((p for p in container.demux(video) if p.size), 2)]
        return float((places[-1] - len(places) + 1) * video.time_base) if places else 0.0


def _stretches(run: _Run, after: float):
    """Yields (time of its first sample, samples, drift) of stretches without a gap: drift is None,
    or the seconds from the beginning and the seconds by which these samples are late, at increasing
    points."""
    counts, times = np.array(run.counts), np.array(run.times)
    x = np.frombuffer(run.mono, np.float32)
    known = np.isfinite(times)
    counted = (np.cumsum(counts) - counts) / run.rate
    late = np.interp(counted, counted[known],
                     (times - counted)[known]) if known.any() else np.full(len(times), after)
    steady = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(late, 2, mode="edge"), 5),
                       axis=1)
    cuts = np.flatnonzero(np.abs(np.diff(steady)) > _STEP) + 1
    for a, b in zip([0, *cuts], [*cuts, len(late)], strict=True):
        begin = round(counted[a] * run.rate)
        here = x[begin : begin + counts[a:b].sum()]
        since = counted[a:b] - counted[a]
        which = (since // _ANCHOR).astype(int)
        groups = [which == k for k in np.unique(which)]
        point = np.array([since[g].mean() for g in groups])
        moved = np.array([np.median(late[a:b][g]) for g in groups])
        if np.ptp(moved) < _DRIFT:
            yield counted[a] + np.median(late[a:b]), here, None
            continue
        # beyond the outermost points as between the two next to them
        ends = np.array([0.0, len(here) / run.rate])
        slopes = np.diff(moved[[0, 1, -2, -1]])[::2] / np.diff(point[[0, 1, -2, -1]])[::2]
        outer = moved[[0, -1]] + slopes * (ends - point[[0, -1]])
        point, moved = np.r_[ends[0], point, ends[1]], np.r_[outer[0], moved, outer[1]]
        yield counted[a] + moved[0], here, (point, moved - moved[0])


def _at_rate(x: np.ndarray, native: int, rate: int, drift) -> np.ndarray:
    """x at another rate, stretched by its drift (see `_stretches`)."""
    if native != rate:
        x = soxr.resample(x, native, rate, quality="HQ")
    if drift is None:
        return x
    point, moved = drift
    out = np.zeros(round((point[-1] + moved[-1]) * rate), np.float32)
    for k in range(0, len(out), _CHUNK):
        wanted = np.arange(k, min(k + _CHUNK, len(out))) / rate
        at = np.interp(wanted, point + moved, point) * rate
        first = max(0, int(at[0]) - _MARGIN)
        fine = soxr.resample(x[first : int(at[-1]) + _MARGIN], rate, _FINER * rate, quality="HQ")
        out[k : k + len(at)] = np.interp((at - first) * _FINER, np.arange(len(fine)), fine)
    return out


def _samples(frame) -> tuple[np.ndarray, int]:
    """(C, N) float32 of a decoded frame, and how many of its numbers are none (NaN, infinite)."""
    # PyAV 18.1 takes the bytes behind them for a ninth
    if frame.format.is_planar and frame.layout.nb_channels >= 8:
        frame, = av.AudioResampler(frame.format.packed, frame.layout,
                                   frame.sample_rate).resample(frame)
    x = frame.to_ndarray()
    x_CN = x if frame.format.is_planar else x.reshape(-1, frame.layout.nb_channels).T
    if x.dtype.kind == "f":
        broken = int(x_CN.size - np.count_nonzero(np.isfinite(x_CN)))
        return np.nan_to_num(x_CN.astype(np.float32), posinf=0.0, neginf=0.0), broken
    silence, full = (128, 128) if x.dtype == np.uint8 else (0, -np.iinfo(x.dtype).min)
    return ((x_CN - np.float64(silence)) / full).astype(np.float32), 0
