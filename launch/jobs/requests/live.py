"""Several requests streamed at once: `avjax generate --requests=FILE --stream`.

A request has files that grow and a player of its own, which begins to count when the request gets
its place in the batch. Its real-time factor is of the clock, others' share included: below 1, it
comes faster than it is played.
"""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.live.parts import Settings
from data_pipelines.live.speakers import Packet, Speakers
from data_pipelines.prompting import Prompt
from launch.jobs import live
from launch.jobs import targets as places
from launch.jobs.playback import Playback

ROWS = 4  # at a time, by default (ours)


class Request:
    """One that is under way.

    Args:
      avatar: launch.jobs.generate.Avatar.
      wanted: its files.
    """

    def __init__(self, avatar, prompt: Prompt, wanted: Sequence[places.Target],
                 settings: Settings):
        self._avatar, self._prompt, self._wanted = avatar, prompt, wanted
        self._numbers: dict[str, np.ndarray] = {}  # what has no time axis
        self._speakers, self._feed = _fed(avatar, prompt, wanted, settings)
        self._files = contextlib.ExitStack()
        files = [self._files.enter_context(places.opened(target, None)) for target in wanted]
        self.player = Playback()
        self._into = [live.writer_of(target, self.player.watched(file), avatar.decoder,
                                     self._speakers.fps)
                      for target, file in zip(wanted, files, strict=True)]

    def add(self, chunk) -> None:
        """Decodes and writes."""
        specs = self._avatar.system.streams_spec
        self._numbers |= {name: np.asarray(x) for name, x in chunk.streams.items()
                          if name not in specs or "time" not in specs[name].shape}
        if chunk.streams:
            self._write(self._feed.packet(chunk))

    def end(self) -> dict:
        """The last of it; how it went. UserError where nothing came."""
        self._write(self._speakers.finish())
        for writer in self._into:
            writer.finish()
        live.check_made(self.player, self._prompt)
        self._files.close()
        for line in self._avatar.builder.remarks(self._prompt, self._numbers, self._avatar.system):
            print(f"\n{line}", file=sys.stderr)
        return live.report_of(self.player, self._wanted, True) | self._avatar.builder.told(
            self._prompt, self._numbers, self._avatar.system)

    def cut(self) -> dict:
        """Ends it early, while an exception is under way: what was written plays; how it went."""
        for writer in self._into:
            with contextlib.suppress(OSError, ValueError):
                writer.finish()
        report = live.report_of(self.player, self._wanted, False)
        with contextlib.suppress(BaseException):
            self._files.__exit__(*sys.exc_info())
        return report

    def _write(self, packet: Packet) -> None:
        if len(packet.sound_N):
            self.player.packet(len(packet.sound_N) / self._avatar.decoder.sample_rate)
        for writer in self._into:
            writer.add(packet.sound_N, packet.pictures)


def stream(avatar, prompts: Mapping[str, Prompt], wanted: Mapping[str, Sequence[places.Target]], *,
           settings: Settings, rows: int = 0) -> Iterator[tuple[str, dict | Exception]]:
    """Yields (id, how it went) of prompts of one task as they end; of all that were under way when
    it was stopped, too. Of one that cannot be decoded, drawn or written the exception, as soon as
    that is known; the others go on.

    Args:
      wanted: files of each.
      settings: of the vocoder.
      rows: so many at a time; 0 = `ROWS`.

    Raises what sampling raises, when all that are under way are cut; SystemExit with 128 + the
    signal when stopped by one.
    """
    rows = min(rows or ROWS, len(prompts))
    began = time.perf_counter()
    with contextlib.suppress(Exception):  # what fails here fails again where it is made
        _compile(avatar, prompts, wanted, settings, rows)
    startup = round(time.perf_counter() - began, 3)
    began, made, seconds = time.perf_counter(), 0, 0.0
    running: dict[str, Request] = {}
    failed = set()
    about = {"rows": rows, "startup_s": startup}
    with live.Stopping() as stopping:
        try:
            for name, chunk in avatar.stream_several(prompts, rows):
                if name in failed:  # its row goes on to its end
                    continue
                try:
                    with stopping.writing():
                        if name not in running:
                            running[name] = Request(avatar, prompts[name], wanted[name], settings)
                        if chunk is not None:
                            running[name].add(chunk)
                            continue
                        result = running[name].end() | about
                except live.Stopped:
                    raise
                except Exception as error:
                    failed.add(name)
                    result = error
                    if name in running:
                        running.pop(name).cut()
                else:
                    one = running.pop(name)
                    made, seconds = made + 1, seconds + one.player.seconds
                    print(f"\r{name}: {live.line_of(one.player)}", file=sys.stderr, flush=True)
                yield name, result
        except live.Stopped as stopped:
            for name, one in running.items():
                yield name, one.cut() | about
            print(f"\n{stopped}: {', '.join(running)} cut", file=sys.stderr)
            sys.exit(stopped.code)
        except BaseException:
            for one in running.values():
                one.cut()
            raise
    wall = time.perf_counter() - began
    print(f"{made} requests, {rows} at a time: {seconds:.2f} s made in {wall:.2f} s, "
          f"real-time factor of all {wall / max(seconds, 1e-9):.3f}", file=sys.stderr)


def _fed(avatar, prompt: Prompt, wanted, settings) -> tuple[Speakers, live.Feed]:
    draws = any(target.kind == "mp4" for target in wanted)
    speakers = Speakers(avatar.decoder, prompt, settings, draws)
    return speakers, live.Feed(speakers, avatar.system.streams_spec, prompt.frames)


def _compile(avatar, prompts, wanted, settings, rows: int) -> None:
    """Runs until there has been sound twice, so that the clocks measure generation alone."""
    fed = {name: _fed(avatar, prompt, wanted[name], settings)
           for name, prompt in itertools.islice(prompts.items(), rows)}
    next(iter(fed.values()))[0].compile()
    heard = (1 for name, chunk in avatar.stream_several(prompts, rows)
             if name in fed and chunk is not None and chunk.streams
             and len(fed[name][1].packet(chunk).sound_N))
    for _ in itertools.islice(heard, 2 * rows):
        pass
