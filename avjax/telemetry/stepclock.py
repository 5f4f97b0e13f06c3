"""Where the time of a step goes, without making the device wait for the answer.

Dispatch is asynchronous, so the host never sees the device work; it only sees when metrics are
ready. Metrics of a step are read after the next one has been dispatched, so the wait for them is
the device's work that the host did not hide, and the device always has a step to go on with. The
device's own time of a step runs from its dispatch, or from the end of the step before where that is
later, to the moment its metrics are ready; a thread that waits for nothing else takes that moment.
With several processes it contains the wait for the slowest of them, in the step's collectives.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# what the main thread does between steps that is no part of them
AWAY = ("evaluation", "checkpoint")


class Mark(NamedTuple):
    """Where the sums stand."""

    time: float
    step: int
    seconds: dict[str, float]  # of the main thread, by what it did
    done: dict[str, int]  # real positions, see avjax.telemetry.throughput
    device_wait: float
    busy: float
    finished: int


class StepClock:
    """Sums of one process. `dispatched` after every step, `read` for its metrics, `close` at the
    end."""

    def __init__(self):
        self._device_wait, self._busy = 0.0, (0.0, 0)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def dispatched(self, began: float, metrics: Any) -> None:
        """A step whose dispatch began at `began` (time.perf_counter) and that makes `metrics` is on
        its way."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="step clock", daemon=True)
            self._thread.start()
        self._queue.put((began, metrics))

    def read(self, unpack: Callable, metrics: Any) -> Any:
        """`unpack(metrics)`, its wait for the device counted."""
        began = time.perf_counter()
        values = unpack(metrics)
        self._device_wait += time.perf_counter() - began
        return values

    def mark(self, step: int, seconds: Mapping[str, float], done: Mapping[str, int]) -> Mark:
        return Mark(time.perf_counter(), step, dict(seconds), dict(done), self._device_wait,
                    *self._busy)

    def _watch(self) -> None:
        end = 0.0
        while (item := self._queue.get()) is not None:
            began, metrics = item
            try:
                metrics.block_until_ready()
            except Exception:  # the main thread meets the same error, and says so
                return
            now = time.perf_counter()
            busy, finished = self._busy
            self._busy = busy + now - max(began, end), finished + 1
            end = now
            del item, metrics  # not kept while waiting for the next

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=1.0)


def split(before: Mark, after: Mark) -> dict[str, float]:
    """Averages of the steps between two marks, {} where there are none. Seconds a step:

    step_seconds: all of the main thread's time, without evaluations and saves; the sum of the next
      three.
    data_wait_seconds: the next batch was not ready.
    device_wait_seconds: the host was done and waited for the device: what an efficient job does
      most of the time.
    host_seconds: dispatch, records, and whatever else this process does between steps.
    device_seconds: the device's own time (absent before one is known).
    steps_per_second, real_..._per_second: a second of wall time, evaluations and saves included.
    """
    steps, wall = after.step - before.step, after.time - before.time
    if steps <= 0 or wall <= 0:
        return {}

    def spent(name: str) -> float:
        return after.seconds.get(name, 0.0) - before.seconds.get(name, 0.0)

    loop = wall - sum(map(spent, AWAY))
    data, device = spent("data wait"), after.device_wait - before.device_wait
    found = {"steps_per_second": steps / wall, "step_seconds": loop / steps,
             "data_wait_seconds": data / steps, "device_wait_seconds": device / steps,
             "host_seconds": max(0.0, loop - data - device) / steps}
    if after.finished > before.finished:
        found["device_seconds"] = (after.busy - before.busy) / (after.finished - before.finished)
    return found | {f"{name}_per_second": (n - before.done.get(name, 0)) / wall for name,
                    n in after.done.items()}
