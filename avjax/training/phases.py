"""Where the main thread's time goes, by phase."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from avjax.hosts.watchdog import Watchdog

# These may take minutes, so goodput.json is brought up to date after them.
LONG_PHASES = ("compile", "evaluation", "checkpoint")


class PhaseTimer:
    """Sums up wall time by phase and keeps the watchdog informed.

    Attributes:
      seconds: phase -> seconds; `finish` adds "total" and "other".
      after_long_phase: called after each of LONG_PHASES.
    """

    def __init__(self, watchdog: Watchdog):
        self.seconds: dict[str, float] = defaultdict(float)
        self.after_long_phase: Callable[[], None] = lambda: None
        self._watchdog = watchdog
        self._began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def phase(self, name: str, *, watched_as: str = "") -> Iterator[None]:
        """Counts the time inside as `name`; the watchdog knows it as `watched_as` (default:
        name)."""
        began = time.perf_counter()
        try:
            with self._watchdog.phase(watched_as or name):
                yield
        finally:
            self.seconds[name] += time.perf_counter() - began
            if name in LONG_PHASES:
                self.after_long_phase()

    def finish(self) -> None:
        counted = sum(self.seconds.values())
        self.seconds["total"] = self.elapsed()
        self.seconds["other"] = self.seconds["total"] - counted
