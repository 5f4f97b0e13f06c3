"""How fast a run is: what a step processes, and where its time goes, without making the device
wait.

*Positions.* A batch has rows (entries of its first axis: examples, or several packed together where
the System has `rows`) and sequences: arrays whose sequence axis has the same length share one. A
sequence is called "frames" where that axis is named "time", else by the resource that a row holds
so many of (System.rows.capacity: "tokens", "patches"), else after the first of its arrays. A step's
positions of a sequence are rows x length, padding included: what the devices compute on. All of it
follows from the System's batch_spec, so that speeds mean the same for every paper.

*Time.* Dispatch is asynchronous: the host only sees when metrics are ready. Metrics of a step are
read after the next one has been dispatched, so the wait for them is device work that the host did
not hide. The device's time for a step runs from its dispatch, or from the end of the step before
where that is later, to the moment its metrics are ready; a thread that waits for nothing else takes
that moment. With several processes it contains the wait for the slowest, in the step's collectives.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

NON_STEP = ("evaluation", "checkpoint")  # phases of the main thread that are no part of a step


class Counters(NamedTuple):
    """Running sums at one moment.

    Attributes:
      time: time.perf_counter(), seconds.
      seconds: of the main thread, by phase.
      done: real positions so far, by name.
      device_wait: seconds that the host waited for metrics.
      busy, finished: seconds of the device, in so many steps.
    """

    time: float
    step: int
    seconds: dict[str, float]
    done: dict[str, int]
    device_wait: float
    busy: float
    finished: int


class StepClock:
    """Times the steps of one process: call `dispatched` after every step, `read` for its metrics,
    `close` at the end."""

    def __init__(self):
        self._device_wait = 0.0
        self._busy = (0.0, 0)
        self._seen = 0  # steps whose metrics the host has read
        self._finished = threading.Condition()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def dispatched(self, began: float, metrics: Any) -> None:
        """A step whose dispatch began at `began` (time.perf_counter) will produce `metrics`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="step clock", daemon=True)
            self._thread.start()
        self._queue.put((began, metrics))

    def read(self, unpack: Callable, metrics: Any) -> Any:
        """`unpack(metrics)`; its wait for the device is counted."""
        began = time.perf_counter()
        values = unpack(metrics)
        self._device_wait += time.perf_counter() - began
        self._seen += 1
        return values

    def counters(self, step: int, seconds: Mapping[str, float],
                 done: Mapping[str, int]) -> Counters:
        if self._thread is not None:  # what the host has seen, the thread is about to see
            with self._finished:
                self._finished.wait_for(lambda: self._busy[1] >= self._seen, timeout=1.0)
        return Counters(time.perf_counter(), step, dict(seconds), dict(done), self._device_wait,
                        *self._busy)

    def _watch(self) -> None:
        end = 0.0
        while (item := self._queue.get()) is not None:
            began, metrics = item
            try:
                metrics.block_until_ready()
            except Exception:  # the main thread meets the same error and reports it
                return
            now = time.perf_counter()
            busy, finished = self._busy
            with self._finished:
                self._busy = busy + now - max(began, end), finished + 1
                self._finished.notify()
            end = now
            del item, metrics  # not kept while waiting for the next

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=1.0)


def averages(before: Counters, after: Counters) -> dict[str, float]:
    """Averages of the steps between two moments, {} where there are none. In seconds a step:

    step_seconds: the main thread's time, without evaluations and saves; the sum of the next three.
    data_wait_seconds: the next batch was not ready.
    device_wait_seconds: the host was done and waited for the device, which is what an efficient job
      does most of the time.
    host_seconds: dispatch, records, and whatever else this process does between steps.
    device_seconds: the device's own time (absent until one is known).
    steps_per_second, real_..._per_second: per second of wall time, evaluations and saves included.
    """
    steps = after.step - before.step
    wall = after.time - before.time
    if steps <= 0 or wall <= 0:
        return {}

    def spent(phase: str) -> float:
        return after.seconds.get(phase, 0.0) - before.seconds.get(phase, 0.0)

    loop = wall - sum(map(spent, NON_STEP))
    data = spent("data wait")
    device = after.device_wait - before.device_wait
    found = {"steps_per_second": steps / wall, "step_seconds": loop / steps,
             "data_wait_seconds": data / steps, "device_wait_seconds": device / steps,
             "host_seconds": max(0.0, loop - data - device) / steps}
    if after.finished > before.finished:
        found["device_seconds"] = (after.busy - before.busy) / (after.finished - before.finished)
    rates = {f"{name}_per_second": (count - before.done.get(name, 0)) / wall
             for name, count in after.done.items()}
    return found | rates


def sequences(system, time: int) -> dict[str, int]:
    """{name of a sequence: its length in a row}; `time` is the length of axes named "time"."""
    found: dict[int | str, tuple[str, int]] = {}
    resources = {n: name for name, n in system.rows.capacity.items()} if system.rows else {}
    for name, spec in system.batch_spec.items():
        axis = spec.sequence_axis
        if axis is None or name in ("mask", "weight"):
            continue
        length = spec.shape[axis]
        if isinstance(length, str):
            found.setdefault(length, ("frames" if length == "time" else length, time))
        else:
            found.setdefault(length, (resources.get(length, name), length))
    return dict(found.values())


def positions(system, *, rows: int, time: int) -> dict[str, int]:
    """{"examples" or "rows": rows, sequence: positions of a step with padding}, over all hosts."""
    packed = system.rows is not None
    return {"rows" if packed else "examples": rows,
            **{name: rows * length for name, length in sequences(system, time).items()}}


def real_positions(batch: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> dict[str, int]:
    """{"real_" + sequence: positions that are not padding} of one host's share of a batch, where
    the batch tells: by "<name>_length", or by an array of two axes that is 0 on padding ("mask", or
    ids "segment" and "<...>_segment").

    lengths: from `sequences`.
    """
    real: dict[str, int] = {}
    masks = [array for name, array in batch.items()
             if (name in ("mask", "segment") or name.endswith("_segment")) and array.ndim == 2]
    for name, length in lengths.items():
        mask = next((m for m in masks if m.shape[1] == length), None)
        if f"{name}_length" in batch:
            real[f"real_{name}"] = int(batch[f"{name}_length"].sum())
        elif mask is not None:
            real[f"real_{name}"] = int(np.count_nonzero(mask))
    return real
