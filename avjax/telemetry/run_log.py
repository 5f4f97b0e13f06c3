"""The log of one run: progress, records, speeds, goodput, traces. Only host 0 logs and writes
records.

Records of kind "data" (at log steps) say what has been drawn of each source; "speed", where a
step's time went and how much it processed (avjax.telemetry.speed), and what memory is used;
"goodput" (at the end) sums up all starts of the workdir.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from avjax.checkpoint.remote import Mirror
from avjax.hosts import distributed
from avjax.sharding.mesh import batch_share
from avjax.storage import paths
from avjax.telemetry import goodput, profiling, speed
from avjax.telemetry.metrics_writer import METRICS, MetricsWriter, NullWriter
from avjax.telemetry.report import memory, slowest_data, speed_line
from avjax.telemetry.tracking import Wandb


class RunLog:
    """The log of one process; on hosts other than 0 it measures but writes nothing. Call `close` at
    the end.

    Args:
      t: config.train.
      start: steps done when it begins.
      began: seconds ago that the run began.
      seconds: of the main thread so far, by phase; the loop goes on adding to it.
      config: the experiment's, as JSON, for the tracker.
      remake: kinds of records of step `start` that will be made anew.

    Attributes:
      step: the newest step, kept up to date by the loop.
      outcome: how the run ended, for goodput.json.
      done: real positions of the steps so far.
    """

    def __init__(self, t, workdir: Any, *, start: int, began: float, seconds: Mapping[str, float],
                 config: Mapping[str, Any], remake: Sequence[str] = ()):
        self.step = start
        self.outcome = "failed"
        self.seconds = seconds
        self.done: Counter = Counter()
        self._drawn = None
        self.clock = speed.StepClock()
        self._profiler: profiling.Profiler | None = None
        self._mirror: Mirror | None = None
        self._ledger: goodput.Ledger | None = None
        self._writer: MetricsWriter | NullWriter = NullWriter()
        if distributed.is_main():
            local = workdir
            remote = paths.is_remote(workdir)
            if remote:  # files that grow line by line do so on a local disk
                self._mirror = Mirror(workdir, fetch=(METRICS, goodput.FILE))
                local = self._mirror.folder
            tracker = Wandb(t.wandb, workdir, config) if t.wandb else None
            self._writer = MetricsWriter(local, start=start, total=int(t.steps), tracker=tracker,
                                         remake=remake)
            self._profiler = profiling.Profiler(workdir, local / profiling.FOLDER,
                                                first=t.profile_at, steps=t.profile_steps,
                                                every=30.0 if remote else 1.0)
            self._ledger = goodput.Ledger(local, step=start, began=began)
        self.print = self._writer.print
        self.record = self._writer.record

    def begin(self, step: int, system, mesh, *, rows: int, time: int, mfu: float) -> None:
        """Call before the first step.

        Args:
          rows, time: of a batch.
          mfu: at one step a second.
        """
        self._mfu = mfu
        self._shares = batch_share(mesh)[1]
        self.positions = speed.positions(system, rows=rows, time=time)
        self._sequences = speed.sequences(system, time)
        self._first = self._logged = self.clock.counters(step, self.seconds, self.done)

    def begin_data(self, step: int, loader: Any, steps: int) -> None:
        """Call with the loader before its first batch: tells its sources, if it knows them, and
        what `steps` steps take from each."""
        self._drawn = getattr(loader, "drawn", None)
        if self._drawn:
            self.print(self._drawn.report(steps))
        for text in getattr(loader, "notes", ()):
            self.note(step, text)

    def note(self, step: int, text: str) -> None:
        """Prints a line and records it."""
        self.print(text)
        self.record(step, "note", {"text": text}, scalars=False)

    def real_positions(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """Of the whole batch, estimated from this host's share of it."""
        own = speed.real_positions(batch, self._sequences)
        return {name: self._shares * count for name, count in own.items()}

    def before_step(self, step: int, state: Any) -> None:
        if self._profiler and (event := self._profiler.before_step(step, state)):
            self.note(step, event)

    def log(self, step: int, values: Mapping[str, float], batch_id: int | None,
            position: Mapping[str, int] | None = None) -> None:
        """Records the metrics of a step, the speed of those since the last call, and what was drawn
        of each source before the loader came to `position`. Rates are per wall second, evaluation
        and saving included."""
        before = self._logged
        self._logged = self.clock.counters(step, self.seconds, self.done)
        shown = {"loss": f"{values['loss']:.4g}"}
        if found := speed.averages(before, self._logged):
            rate = found.pop("steps_per_second")
            data_share = found["data_wait_seconds"] / found["step_seconds"]
            values = {**values, "steps_per_second": rate, "mfu": rate * self._mfu}
            shown |= {"steps/s": f"{rate:.2f}", "MFU": f"{values['mfu']:.1%}"}
            if data_share > 0.05:
                shown["data wait"] = f"{data_share:.0%}"
            found |= {f"{name}_per_second": n * rate for name, n in self.positions.items()}
            self.record(step, "speed", found | slowest_data(found["data_wait_seconds"]) | memory())
        self._writer.progress(step, **shown)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.record(step, "train", finite | ({} if batch_id is None else {"batch_id": batch_id}))
        if self._drawn and position:
            self.record(step, "data", self._drawn.after(position["next_index"]))
        self.update_goodput(step)

    def evaluated(self, step: int, name: str, metrics: Mapping[str, float],
                  artefacts: Mapping[str, Any]) -> None:
        """Records and prints what an evaluator found."""
        self.record(step, name, {k: v for k, v in metrics.items() if math.isfinite(v)})
        self._writer.artefacts(step, name, artefacts)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in list(metrics.items())[:6])
        self.print(f"step {step}: {name}: {shown}")

    def update_goodput(self, step: int | None = None, **how) -> None:
        """Brings goodput.json up to date; `how` as for goodput.Ledger.update."""
        if self._ledger:
            seconds = {k: v for k, v in self.seconds.items() if k not in ("total", "other")}
            self._ledger.update(self.step if step is None else step, seconds, **how)

    def send_soon(self) -> None:
        """Sends the records to the object store, to be as safe as the checkpoint just saved."""
        if self._mirror:
            self._mirror.soon()

    def summarise(self) -> None:
        """At the end: where this run's seconds went, and the sums over all starts."""
        self.outcome = "done"
        rounded = {name: round(s, 3) for name, s in self.seconds.items()}
        self.record(self.step, "seconds", {"seconds": rounded}, scalars=False)
        self.print(f"trained to step {self.step} in {self.seconds['total']:.1f} s")
        if self._ledger:
            self.update_goodput(outcome=self.outcome)
            summary = self._ledger.summary()
            self.record(self.step, "goodput", summary.record())
            self.print(summary.table())
            last = self.clock.counters(self.step, self.seconds, self.done)
            self.print(speed_line(speed.averages(self._first, last), self.positions, self._mfu))

    def close(self) -> None:
        if self._profiler:
            self._profiler.close()
        self.update_goodput(outcome=self.outcome)
        self.clock.close()
        self._writer.close()
        if self._mirror:
            self._mirror.close()
