"""A generation that reports while it runs."""

from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems.api import Chunk, System


class Progress:
    """Iterates over the chunks of `System.stream` (or of `System.steps`), and joins them.

    `result` is what `System.generate` returns, without padding. It runs whatever has not been
    iterated over yet, so a caller that does not care about progress reads it at once.
    """

    def __init__(self, system: System, chunks: Iterator[Chunk]):
        self._system, self._chunks = system, chunks
        self._made: dict[str, list[np.ndarray]] = {}
        self.seconds = 0.0  # made so far

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            self.seconds = chunk.seconds
            for name, value in jax.device_get(dict(chunk.streams)).items():
                self._made.setdefault(name, []).append(np.asarray(value))
            yield chunk

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
        made, spec = self._made[name], self._system.streams_spec.get(name)
        if spec is None or "time" not in spec.shape:
            return made[-1]
        if len(made) > 1:
            made[:] = [np.concatenate(made, axis=spec.shape.index("time"))]
        return made[0]
