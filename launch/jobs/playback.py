"""How a player that plays in real time would fare with what is written for it."""

import contextlib
import time
from typing import BinaryIO


class Playback:
    """A player that begins with the first packet and waits whenever it has played all there is.

    Attributes:
      first: seconds until the first packet.
      seconds: of sound that have come.
      stalls, stalled: how often, and for how many seconds in all, it waited.
      buffer: seconds it would have had to wait before it began, to play without stalls.
      blocked: seconds that writing took, while a reader did not read.
    """

    def __init__(self, clock=time.perf_counter):
        self._clock = clock
        self._began = clock()
        self.first: float | None = None
        self.seconds = self.stalled = self.buffer = self.blocked = 0.0
        self.stalls = 0

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def factor(self) -> float:
        """Seconds of computing a second of sound: below 1, faster than it is played."""
        return (self.elapsed - self.blocked) / self.seconds if self.seconds else 0.0

    def packet(self, seconds: float) -> None:
        """So much more is there now."""
        now = self.elapsed
        if self.first is None:
            self.first = now
        late = now - self.first - self.stalled - self.seconds
        if late > 0:
            self.stalls += 1
            self.stalled += late
        self.buffer = max(self.buffer, now - self.first - self.seconds)
        self.seconds += seconds

    def watched(self, file: BinaryIO) -> "Watched":
        """The file, whose writes count as blocked."""
        return Watched(file, self)

    def report(self) -> dict:
        """As results.json holds it."""
        return {"seconds": round(self.seconds, 3),
                "first_packet_s": None if self.first is None else round(self.first, 4),
                "wall_s": round(self.elapsed, 3), "blocked_s": round(self.blocked, 3),
                "real_time_factor": round(self.factor, 4),
                "stalls": {"count": self.stalls, "seconds": round(self.stalled, 3),
                           "buffer_s": round(self.buffer, 3)}}


class Watched:
    """A file that adds the seconds which writing takes to a player's `blocked`."""

    def __init__(self, file: BinaryIO, player: Playback):
        self._file, self._player = file, player
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def write(self, data: bytes) -> int:
        with self._timed():
            return self._file.write(data)

    def flush(self) -> None:
        with self._timed():
            self._file.flush()

    @contextlib.contextmanager
    def _timed(self):
        before = self._player.elapsed
        try:
            yield
        finally:
            self._player.blocked += self._player.elapsed - before
