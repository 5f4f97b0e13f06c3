"""What `resample.from_features` and `resample.convert` make, of frames that have not ended yet: the
same numbers, each as soon as the frames that it lies between are there."""

from collections.abc import Callable

import numpy as np

from avjax.signal import resample


class StreamedFrames:
    """`feed` takes frames and returns those at the new rate that are final by then, `finish` the
    rest.

    Args:
      rate: frames a second that come.
      new_rate: frames a second that leave.
      position: new frames' numbers, (n,) int -> their places between the frames that come.
      offset: the time of the first frame that comes, in frames.
      count: frames that came -> new frames that their duration holds; by default it is rounded.
    """

    def __init__(self, rate: float, new_rate: float, position: Callable[[np.ndarray], np.ndarray],
                 offset: float = 0.0, count: Callable[[int], int] | None = None):
        self.rate, self.new_rate, self._position = rate, new_rate, position
        self._offset = offset
        self._count = count or (lambda given: round(given * new_rate / rate))
        self._kept: np.ndarray | None = None  # frames from `_first` on
        self._first = self._made = 0

    @property
    def look_ahead(self) -> float:
        """Frames, of those that come, after the instant of a new frame that it depends on, at most:
        those it is interpolated between, or as many as it takes to know that the duration holds
        it."""
        numbers = np.arange(1000)
        times = numbers * (self.rate / self.new_rate)
        most = round(1001 * self.rate / self.new_rate) + 1
        counts = [self._count(given) for given in range(1, most + 1)]
        last = np.maximum(np.floor(self._position(numbers)) + 1,
                          np.searchsorted(counts, numbers + 1))
        return float(np.max(last + self._offset - times))

    def feed(self, x_TC: np.ndarray) -> np.ndarray:
        """(T, C) -> (n, C)"""
        if self._kept is None:
            self._kept = np.asarray(x_TC)
        else:
            self._kept = np.concatenate([self._kept, x_TC])
        given = self._first + len(self._kept)
        ready = self._count(given)
        numbers = np.arange(self._made, ready)
        return self._take(numbers[np.floor(self._position(numbers)) + 1 < given])

    def finish(self) -> np.ndarray:
        """The last ones, at least one of all: the end is held."""
        given = self._first + len(self._kept)
        return self._take(np.arange(self._made, max(1, self._count(given))))

    def _take(self, numbers: np.ndarray) -> np.ndarray:
        out = resample.interpolate(self._kept, self._position(numbers) - self._first)
        self._made += len(numbers)
        needed = int(np.floor(self._position(np.array([self._made]))[0]))
        drop = max(min(needed - self._first, len(self._kept) - 1), 0)  # none of no frames
        self._first += drop
        self._kept = self._kept[drop:]
        return out


def from_features(rate: float, mode: str = "timestamps") -> StreamedFrames:
    """As `resample.from_features`."""
    return StreamedFrames(1 / resample.HOP_SECONDS, rate,
                          lambda numbers: resample.feature_positions(numbers, rate, mode), 0.5,
                          lambda given: resample.count(given, rate, mode))


def convert(rate: float, new_rate: float) -> StreamedFrames:
    """As `resample.convert` to as many frames as the duration holds."""
    return StreamedFrames(rate, new_rate, lambda numbers: numbers * (rate / new_rate))
