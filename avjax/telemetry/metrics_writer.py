"""What a run writes and shows: metrics.jsonl (one JSON record a line), TensorBoard events, a
progress bar."""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from avjax.storage import failures, paths
from avjax.telemetry.tracking import Wandb

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"


class MetricsWriter:
    """The records of one run.

    Records past `start` (the last moments of a killed run, which will be repeated) are dropped, and
    those of `start` itself whose kinds are in `remake`.
    """

    def __init__(self, workdir: str | Path, *, start: int, total: int, tracker: Wandb | None = None,
                 remake: Sequence[str] = ()):
        self._tracker = tracker
        self.path = Path(workdir) / METRICS
        if self.path.exists():
            _drop_records(self.path, start, remake)
        self._file = self.path.open("a", buffering=1)
        self._events = EventWriter(Path(workdir) / EVENTS, flush_secs=30,
                                   purge_step=start + 1 if start else None)
        self._is_log_file = not sys.stderr.isatty()  # a bar now and then is enough there
        self._bar = tqdm(total=total, initial=start, desc="train", unit="step", dynamic_ncols=True,
                         mininterval=10.0 if self._is_log_file else 0.2,
                         maxinterval=30.0 if self._is_log_file else 1.0, smoothing=0.1)

    def record(self, step: int, kind: str, values: Mapping[str, Any], *,
               scalars: bool = True) -> None:
        """Writes one line of metrics.jsonl; with `scalars` also its numbers, as "kind/name", to
        TensorBoard and the tracker."""
        with failures.working_on(self.path):
            self._file.write(json.dumps({"step": step, "kind": kind} | dict(values)) + "\n")
        self._events.check()
        numbers = {f"{kind}/{name}": value for name, value in values.items()
                   if scalars and isinstance(value, int | float)}
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)
        if self._tracker is not None and numbers:
            self._tracker.scalars(step, numbers)

    def artefacts(self, step: int, name: str, artefacts: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes {"images": {tag: (H, W, 3) uint8}, "audio": {tag: (samples (N,) float in [-1, 1],
        rate in Hz)}, "text": {tag: str}} to TensorBoard."""
        for tag, image in artefacts.get("images", {}).items():
            self._events.add_image(f"{name}/{tag}", np.asarray(image), step, dataformats="HWC")
        for tag, (samples, rate) in artefacts.get("audio", {}).items():
            samples = np.clip(np.asarray(samples, np.float32), -1, 1)
            self._events.add_audio(f"{name}/{tag}", samples[:, None], step, sample_rate=int(rate))
        for tag, text in artefacts.get("text", {}).items():
            self._events.add_text(f"{name}/{tag}", text, step)

    def progress(self, step: int, **shown: str) -> None:
        """Moves the bar to `step`, with `shown` beside it."""
        if shown:
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._is_log_file:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        self._events.close()
        with contextlib.suppress(OSError):  # of a record that could not be written before
            self._file.close()
        if self._tracker is not None:
            self._tracker.close()


class NullWriter:
    """The MetricsWriter of hosts other than 0, which write nothing."""

    def _nothing(self, *args, **kwargs) -> None:
        pass

    record = artefacts = progress = print = close = _nothing


def _drop_records(path: Path, step: int, remake: Sequence[str]) -> None:
    def keep(line: str) -> bool:
        try:
            record = json.loads(line)
            return record["step"] < step or (record["step"] == step
                                             and record["kind"] not in remake)
        except (ValueError, KeyError):
            return False  # a line that a kill cut short

    lines = path.read_text().splitlines(keepends=True)
    paths.write_text(path, "".join(filter(keep, lines)))


class EventWriter(SummaryWriter):
    """tensorboardX' writer, whose first error is raised by `check`.

    In 2.6.5 an error ends the thread that writes, with a traceback, and the eleventh event after
    that waits for ever.
    """

    def __init__(self, folder: Path, **options: Any):
        super().__init__(str(folder), **options)
        self._folder = folder
        events = self._get_file_writer().event_writer
        self._guarded = _FirstError(events._ev_writer)
        events._ev_writer = events._worker._record_writer = self._guarded

    def check(self) -> None:
        """Raises the first error since the beginning."""
        if self._guarded.error is not None:
            with failures.working_on(self._folder):
                raise self._guarded.error


class _FirstError:
    """Calls the methods of a writer until one fails, and keeps that error."""

    def __init__(self, writer):
        self._writer = writer
        self.error: Exception | None = None

    def __getattr__(self, name: str):
        def call(*args):
            if self.error is None:
                try:
                    return getattr(self._writer, name)(*args)
                except Exception as error:
                    self.error = error
        return call
