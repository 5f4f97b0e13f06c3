"""A generation that reports while it runs."""

from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems.api import Chunk, System


class Progress:
    """Iterates over the chunks of `System.stream` (or of `System.steps`), and joins them.

    `result` is what `System.generate` returns, without padding. It runs whatever has not been
    iterated over yet, so a caller that does not care about progress reads it at once.

    Args:
      keep: whether chunks are kept for it; of streams without end they are not, and `result` is
        what has no time axis.
    """

    def __init__(self, system: System, chunks: Iterator[Chunk], *, keep: bool = True):
        self._system, self._chunks, self._keep = system, chunks, keep
        self._made: dict[str, list[np.ndarray]] = {}
        self.seconds = 0.0  # made so far

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            self.seconds = chunk.seconds
            for name, value in jax.device_get(dict(chunk.streams)).items():
                if self._keep or not self._is_timed(name):
                    self._made.setdefault(name, []).append(np.asarray(value))
            yield chunk

    @property
    def specs(self):
        """Of the streams, {name: Spec}."""
        return self._system.streams_spec

    def _is_timed(self, name: str) -> bool:
        return name in self.specs and "time" in self.specs[name].shape

    def pieces(self, name: str) -> list[np.ndarray]:
        """What each chunk brought of one stream."""
        return self._made.get(name, [])

    @property
    def result(self) -> dict[str, np.ndarray]:
        """Streams with a time axis are joined along it; of others the last value counts."""
        for _ in self:
            pass
        return {name: self._joined(name) for name in self._made}

    def _joined(self, name: str) -> np.ndarray:
        made = self._made[name]
        if not self._is_timed(name):
            return made[-1]
        if len(made) > 1:
            made[:] = [np.concatenate(made, axis=self.specs[name].shape.index("time"))]
        return made[0]
