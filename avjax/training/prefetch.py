"""The next batches, made and copied to the devices by a thread while the current step runs."""

import contextlib
import queue
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding

from avjax.sharding.mesh import put_batch


class Fetched(NamedTuple):
    batch: Any  # name -> jax.Array on the mesh
    batch_id: int | None  # CRC-32 of the example ids, for the record
    position: Any  # the loader's state once this batch is consumed


class Prefetcher(Iterator[Fetched]):
    """Iterates `loader` (numpy dicts; get_state) a few batches ahead. "example" ids are stripped from the batch.

    Errors of the loader are raised at the batch they belong to. `close` stops the thread.
    """

    def __init__(self, loader: Iterator[Mapping[str, np.ndarray]], sharding: NamedSharding, depth: int = 2):
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(loader, sharding), daemon=True)
        self._thread.start()

    def _work(self, loader, sharding):
        while not self._stop.is_set():
            try:
                batch = dict(next(loader))
                ids = batch.pop("example", None)
                crc = None if ids is None else zlib.crc32(np.ascontiguousarray(ids).tobytes())
                item = Fetched(put_batch(batch, sharding), crc, loader.get_state())
            except BaseException as error:  # handed to the consumer, StopIteration included
                item = error
            while not self._stop.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put(item, timeout=0.1)
                    break
            if isinstance(item, BaseException):
                return

    def __next__(self) -> Fetched:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join(timeout=10)
