"""Where the main thread's time goes, by phase, and how many programs XLA compiles meanwhile."""

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import jax

from avjax.hosts.watchdog import Watchdog

# These may take minutes, so goodput.json is brought up to date after them.
LONG_PHASES = ("compile", "evaluation", "checkpoint")
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


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


@dataclasses.dataclass
class Compilations:
    count: int = 0


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Counts the XLA compilations of this process while inside."""
    found = Compilations()

    def on_event(event: str, duration: float, **kwargs) -> None:
        del duration, kwargs
        found.count += event == _COMPILE_EVENT

    jax.monitoring.register_event_duration_secs_listener(on_event)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(on_event)
