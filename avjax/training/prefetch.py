"""The next batches, made and copied to the devices by a thread while the current step runs."""

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
    batch: Any  # name -> jax.Array on the mesh
    batch_id: int | None  # CRC-32 of the example ids, for the record
    position: Any  # the loader's state once this batch is consumed
    real: dict[str, int] = {}  # what `count` finds in the batch


class Prefetcher(Iterator[Fetched]):
    """Iterates `loader` (numpy dicts; get_state) a few batches ahead. "example" ids are stripped
    from the batch.

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
        """The next batch. Raises queue.Empty when it is not there within `seconds`."""
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
