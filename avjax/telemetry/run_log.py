"""The course of one run, as it is told and kept: progress, records, speeds, goodput, traces.

Records of kind "speed" (at log steps) say where a step's time went
(`avjax.telemetry.stepclock.split`), how much it processed (`avjax.telemetry.throughput`), and what
memory is used; "goodput" (at the end) sums up all starts of the workdir.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from avjax.checkpoint.remote import Mirror
from avjax.hosts import distributed
from avjax.sharding.mesh import feed
from avjax.storage import paths
from avjax.telemetry import goodput, throughput
from avjax.telemetry.profiling import FOLDER as PROFILES
from avjax.telemetry.profiling import Profiler
from avjax.telemetry.stepclock import StepClock, split
from avjax.telemetry.telemetry import METRICS, Silent, Telemetry, memory, slowest_data, speeds
from avjax.telemetry.tracking import Wandb


class Journal:
    """Of one process; those of other hosts than 0 tell and keep nothing, but measure. Call `close`
    at the end.

    Args:
      start: steps done when it begins.
      began: seconds ago that the run began.
      seconds: what the main thread did so far, by name; the loop goes on adding to it.
      config: the experiment's, as JSON, for the tracker.
      again: kinds of records of step `start` that will be made anew.
    """

    def __init__(self, t, workdir: Any, *, start: int, began: float, seconds: Mapping[str, float],
                 config: Mapping[str, Any],
                 again: Sequence[str] = ()):
        self.seconds, self.end = seconds, "failed"
        self.clock, self.done = StepClock(), Counter()  # done: real positions of the steps so far
        self._profiler: Profiler | None = None
        self._mirror: Mirror | None = None
        self._ledger: goodput.Ledger | None = None
        self._sink: Any = Silent()
        if distributed.is_main():
            here, remote = workdir, paths.is_remote(workdir)
            if remote:  # what grows line by line does so on a local disk
                self._mirror = Mirror(workdir, fetch=(METRICS, goodput.FILE))
                here = self._mirror.folder
            tracker = Wandb(t.wandb, workdir, config) if t.wandb else None
            self._sink = Telemetry(here, start=start, total=int(t.steps), tracker=tracker,
                                   again=again)
            self._profiler = Profiler(workdir, here / PROFILES, first=t.profile_at,
                                      steps=t.profile_steps,
                                      every=30.0 if remote else 1.0)
            self._ledger = goodput.Ledger(here, step=start, began=began)
        self.say, self.record, self.artefacts = self._sink.say, self._sink.record, self._sink.artefacts

    def begin(self, step: int, system, mesh, *, rows: int, time: int, mfu: float) -> None:
        """Before the first step. rows, time: of a batch; mfu: at one step a second."""
        self._mfu, self._shares = mfu, feed(mesh)[1]
        self.positions = throughput.positions(system, rows=rows, time=time)
        self._sequences = throughput.sequences(system, time)
        self._first = self._logged = self.clock.mark(step, self.seconds, self.done)

    def tell(self, step: int, text: str) -> None:
        """For the reader now, and for the record."""
        self.say(text)
        self.record(step, "note", {"text": text}, scalars=False)

    def count(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """Real positions of a batch of which this host has a share."""
        return {name: self._shares * n for name,
                n in throughput.real_positions(batch, self._sequences).items()}

    def before(self, step: int, state: Any) -> None:
        """Before every step."""
        if self._profiler and (happened := self._profiler.before(step, state)):
            self.tell(step, happened)

    def log(self, step: int, values: Mapping[str, float], batch_id: int | None) -> None:
        """The metrics of a step, and the speed of those since the last call. Rates are per wall
        second, evaluation and saving included."""
        before, self._logged = self._logged, self.clock.mark(step, self.seconds, self.done)
        shown = {"loss": f"{values['loss']:.4g}"}
        if speed := split(before, self._logged):
            rate = speed.pop("steps_per_second")
            values = {**values, "steps_per_second": rate, "mfu": rate * self._mfu}
            shown |= {"steps/s": f"{rate:.2f}", "MFU": f"{values['mfu']:.1%}"}
            if speed["data_wait_seconds"] > 0.05 * speed["step_seconds"]:
                shown["data wait"] = f"{speed['data_wait_seconds'] / speed['step_seconds']:.0%}"
            speed |= {f"{name}_per_second": n * rate for name, n in self.positions.items()}
            self.record(step, "speed", speed | slowest_data(speed["data_wait_seconds"]) | memory())
        self._sink.progress(step, **shown)
        finite = {k: v for k, v in values.items() if math.isfinite(v)}
        self.record(step, "train", finite | ({} if batch_id is None else {"batch_id": batch_id}))
        self.note(step)

    def note(self, step: int, **how) -> None:
        """Brings goodput.json up to date, and what lies in an object store."""
        if self._ledger:
            self._ledger.note(step,
                              {k: v for k, v in self.seconds.items()
                               if k not in ("total", "other")}, **how)

    def saved(self) -> None:
        """A checkpoint is on its way: what is recorded up to it should be as safe."""
        if self._mirror:
            self._mirror.soon()

    def summarise(self, step: int) -> None:
        """At the end: the split of this run's seconds, and the sums of all."""
        self.end = "done"
        self.record(step, "seconds", {"seconds": {k: round(v, 3) for k, v in self.seconds.items()}},
                    scalars=False)
        self.say(f"trained to step {step} in {self.seconds['total']:.1f} s")
        if self._ledger:
            self.note(step, end=self.end)
            summary = self._ledger.summary()
            self.record(step, "goodput", summary.record())
            self.say(summary.table())
            self.say(speeds(split(self._first, self.clock.mark(step, self.seconds, self.done)),
                            self.positions, self._mfu))

    def close(self, step: int) -> None:
        if self._profiler:
            self._profiler.close()
        self.note(step, end=self.end)
        self.clock.close()
        self._sink.close()
        if self._mirror:
            self._mirror.close()
