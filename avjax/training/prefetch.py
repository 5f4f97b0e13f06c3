"""Loads the next batches and copies them to the devices, in a thread, while a step runs."""

import contextlib
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding

from avjax.sharding.mesh import put_batch


class Fetched(NamedTuple):
    """A batch on the devices.

    Attributes:
      batch: name -> jax.Array on the mesh.
      batch_id: CRC-32 of the example ids, for the record.
      position: the loader's state after this batch.
      real: `count` of the batch.
    """

    batch: Any
    batch_id: int | None
    position: Any
    real: dict[str, int] = {}


class Prefetcher(Iterator[Fetched]):
    """Iterates a loader (of numpy dicts, with get_state) up to `depth` batches ahead, without their
    "example" ids.

    Errors of the loader are raised at the batch they belong to. `close` stops the thread.
    """

    def __init__(self, loader: Iterator[Mapping[str, np.ndarray]],
                 shardings: NamedSharding | Mapping[str, NamedSharding], depth: int = 2,
                 count: Callable[[Mapping[str, np.ndarray]], dict[str, int]] | None = None):
        self._count = count
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(loader, shardings), daemon=True)
        self._thread.start()

    def _work(self, loader, shardings):
        while not self._stop.is_set():
            try:
                batch = dict(next(loader))
                ids = batch.pop("example", None)
                crc = None if ids is None else zlib.crc32(np.ascontiguousarray(ids).tobytes())
                real = self._count(batch) if self._count else {}
                item = Fetched(put_batch(batch, shardings), crc, loader.get_state(), real)
            except BaseException as error:  # handed to the consumer, StopIteration included
                item = error
            while not self._stop.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put(item, timeout=0.1)
                    break
            if isinstance(item, BaseException):
                return

    def __next__(self) -> Fetched:
        return self.take()

    def take(self, seconds: float | None = None) -> Fetched:
        """The next batch. Raises queue.Empty when there is none within `seconds`."""
        item = self._queue.get(timeout=seconds)
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join(timeout=10)
