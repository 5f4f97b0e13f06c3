"""Generation that is written while it is computed: `avjax generate --stream`.

A packet is what one chunk of `System.stream` makes final: sound, and the pictures until its end.
Results are printed on standard error and kept as JSON beside the output.
"""

import contextlib
import itertools
import json
import math
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from avjax.errors import StorageError, UserError
from avjax.storage import atomic
from data_pipelines import decode
from data_pipelines.live import writers
from data_pipelines.live.parts import Part, Settings
from data_pipelines.live.speakers import Packet, Speakers
from data_pipelines.prompting import Prompt
from launch.jobs import targets as places
from launch.jobs.playback import Playback

TOLD_EVERY = 0.25  # seconds between lines of progress
CLOSED = 128 + signal.SIGPIPE  # exit code when the reader has gone, as a shell reports it


class Stopped(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Stopping:
    """Turns SIGTERM and SIGINT into `Stopped` between two packets, or out of a write that waits for
    its reader."""

    def __init__(self):
        self._number = 0
        self._writing = False

    def __enter__(self):
        self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        if self._number:
            raise Stopped(self._number)

    @contextlib.contextmanager
    def writing(self):
        self.check()
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    def _handle(self, number, frame):
        again = self._number
        self._number = number
        if self._writing or again:
            raise Stopped(number)


def stream(avatar, prompt: Prompt, wanted: Sequence[places.Target], results: pathlib.Path, *,
           settings: Settings, chunk: int = 0, stdout: int | None = None) -> dict:
    """Generates and writes; returns what `results` then holds.

    Args:
      avatar: launch.jobs.generate.Avatar.
      wanted: where, and in which formats.
      results: JSON file; its "complete" is whether the stream came to its end.
      settings: of the vocoder.
      chunk: frames of conditions taken at a time, where the system lets one choose; 0 = its own.
      stdout: descriptor of standard output, where a target is that.

    Raises UserError where the system does not stream this task; SystemExit with 128 + SIGPIPE when
    the reader has gone, with 128 + the signal when stopped by one.
    """
    check_streams(avatar, prompt)
    draws = any(target.kind == "mp4" for target in wanted)
    prompt = avatar.builder.recut(prompt, avatar.system, chunk)

    def begin():
        speakers = Speakers(avatar.decoder, prompt, settings, draws)
        return speakers, avatar.progress(prompt, keep=False)

    began = time.perf_counter()
    _compile(*begin(), prompt.frames)
    speakers, progress = begin()
    about = {"task": prompt.task, "startup_s": round(time.perf_counter() - began, 3),
             "look_ahead": look_ahead(avatar.system, prompt, speakers)}
    _tell(about["look_ahead"])
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)  # of another stream
    complete, code, player = False, 0, Playback()
    try:
        with contextlib.ExitStack() as stack:
            stopping = stack.enter_context(Stopping())
            files = [stack.enter_context(places.opened(target, stdout)) for target in wanted]
            player = Playback()
            into = [writer_of(target, player.watched(file), avatar.decoder, speakers.fps)
                    for target, file in zip(wanted, files, strict=True)]
            made = packets(speakers, progress, prompt.frames)
            _write_all(made, into, player, avatar.decoder.sample_rate, stopping)
            check_made(player, prompt)
        complete = True
        about |= avatar.builder.told(prompt, progress.result, avatar.system)
        for line in avatar.builder.remarks(prompt, progress.result, avatar.system):
            print(f"\n{line}", file=sys.stderr)
    except BrokenPipeError:
        print(f"\nthe reader has gone after {player.seconds:.2f} s", file=sys.stderr)
        code = CLOSED
    except Stopped as stopped:
        print(f"\n{stopped} after {player.seconds:.2f} s", file=sys.stderr)
        code = stopped.code
    finally:
        report = report_of(player, wanted, complete) | about
        print(f"\r{line_of(player)}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError, StorageError):  # what went wrong is told by itself
            atomic.write(results, json.dumps(report, indent=1) + "\n")
    if code:
        sys.exit(code)
    return report


def check_streams(avatar, prompt: Prompt) -> None:
    """UserError where the system does not stream this task."""
    if not avatar.system.can_stream(prompt.task):
        raise UserError(f"{avatar.config.system.name} does not stream {prompt.task}",
                        where="--stream", hint="leave it out")


def check_made(player: Playback, prompt: Prompt) -> None:
    """UserError where no sound has come."""
    if not player.seconds:
        raise UserError("nothing was generated", where=prompt.task, expected="at least one frame",
                        found="0", hint="train longer, or raise --config.system.min_patches")


def report_of(player: Playback, wanted: Sequence[places.Target], complete: bool) -> dict:
    """How a stream went, and its files."""
    return player.report() | {
        "complete": complete, "real_time": player.factor < 1 and complete,
        "files": {target.kind: str(target) for target in wanted
                  if not (complete and target.missing)}}


class Feed:
    """The chunks of one prompt -> packets. Of streams without a length `frames` are real."""

    def __init__(self, speakers: Speakers, specs, frames: int):
        self._speakers = speakers
        self._left = {name: math.inf if f"{name}_length" in specs else frames
                      for name, spec in specs.items() if "time" in spec.shape}

    def packet(self, chunk) -> Packet:
        """UserError for numbers that are not finite."""
        new = {name: np.asarray(x)[0] for name, x in chunk.streams.items() if name in self._left}
        for name, x in new.items():
            new[name] = x[:min(self._left[name], len(x))]
            self._left[name] -= len(new[name])
            if not np.isfinite(x).all():
                raise UserError("the model generated values that are not finite", where=name,
                                expected="finite numbers",
                                hint="the training diverged: use an earlier checkpoint")
        return self._speakers.feed(new)


def packets(speakers: Speakers, progress, frames: int) -> Iterator[Packet]:
    """One a chunk, and one at the end; see `Feed`."""
    feed = Feed(speakers, progress.specs, frames)
    for chunk in progress:
        yield feed.packet(chunk)
    yield speakers.finish()


def _write_all(made: Iterator[Packet], into: Sequence[writers.Writer], player: Playback, rate: int,
               stopping: Stopping) -> None:
    """Ends the writers whatever happens, so that what was written plays."""
    told = 0.0
    try:
        for packet in made:
            if len(packet.sound_N):
                player.packet(len(packet.sound_N) / rate)
            with stopping.writing():
                for writer in into:
                    writer.add(packet.sound_N, packet.pictures)
            if player.elapsed > told + TOLD_EVERY:
                told = player.elapsed
                print(f"\r{line_of(player)}", end="", file=sys.stderr, flush=True)
    except BaseException:
        for writer in into:
            with contextlib.suppress(OSError, ValueError):
                writer.finish()
        raise
    with stopping.writing():
        for writer in into:
            writer.finish()


def writer_of(target: places.Target, file, decoder: decode.Decoder, fps: float) -> writers.Writer:
    """fps: of pictures."""
    rate = decoder.sample_rate
    if target.kind in writers.PCM:
        print(f"{target}: {target.kind}, {rate} Hz, mono: ffplay -f {target.kind} -ar {rate} "
              f"-ch_layout mono", file=sys.stderr)
    if target.kind == "mp4":
        return writers.FragmentedMp4Writer(file, fps, rate, alone=not target.optional)
    return writers.writer(file, target.kind, rate)


def _compile(speakers: Speakers, progress, frames: int) -> None:
    """Runs until there has been sound twice, so that the clock measures generation alone."""
    speakers.compile()
    heard = (packet for packet in packets(speakers, progress, frames) if len(packet.sound_N))
    for _ in itertools.islice(heard, 2):
        pass


def look_ahead(system, prompt: Prompt, speakers: Speakers) -> dict:
    """{"sound" | "pictures": {"parts": [{"part", "frames", "rate", "ms"}], "ms"}}: how much of the
    conditions after an instant is needed for it; None where that is all of them."""
    first = Part("sampler", *(system.look_ahead(prompt.task) or (math.inf, 1.0)))
    return {what: {"parts": [_row(part) for part in (first, *rest)],
                   "ms": _ms(sum(part.seconds for part in (first, *rest)))}
            for what, rest in speakers.look_ahead.items()}


def _row(part: Part) -> dict:
    frames = round(part.frames, 3) if math.isfinite(part.frames) else None
    return {"part": part.name, "frames": frames, "rate": round(part.rate, 4),
            "ms": _ms(part.seconds)}


def _ms(seconds: float) -> float | None:
    return round(1000 * seconds, 1) if math.isfinite(seconds) else None


def _tell(ahead: dict) -> None:
    for what, found in ahead.items():
        waits = " + ".join(
            f"{row['part']} " + ("all" if row["ms"] is None else
                                 f"{row['frames']:g} frames ({row['ms']:g} ms)")
            for row in found["parts"])
        total = "" if found["ms"] is None else f" = {found['ms']:g} ms"
        print(f"look-ahead of {what}: {waits}{total}", file=sys.stderr)
    sys.stderr.flush()


def line_of(player: Playback) -> str:
    if player.first is None:
        return "no sound yet"
    return (f"first packet after {player.first:.3f} s; {player.seconds:.2f} s made in "
            f"{player.elapsed:.2f} s, real-time factor {player.factor:.3f}; {player.stalls} stalls,"
            f" {player.stalled:.2f} s")
