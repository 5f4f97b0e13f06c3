"""How many programs XLA compiles, and jax traces, meanwhile."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

_STAGES = "/jax/core/compile/"
_COMPILED = f"{_STAGES}backend_compile_duration"


@dataclasses.dataclass
class Compilations:
    """Of this process.

    Attributes:
      count: programs that were compiled.
      stages: how often anything was traced, lowered or compiled; 0 where all was ready.
    """

    count: int = 0
    stages: int = 0


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Counts while inside."""
    found = Compilations()

    def on_event(event: str, duration: float, **kwargs) -> None:
        del duration, kwargs
        found.count += event == _COMPILED
        found.stages += event.startswith(_STAGES)

    jax.monitoring.register_event_duration_secs_listener(on_event)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(on_event)
