"""The training loop, independent of any paper: a System, a config, a loader and evaluators.

The order of a round must not change: evaluate -> save -> next batch -> step. The loader advances
only after the save, so a checkpoint of step k says "the next batch is k". Metrics of a step are
read after the next step has been dispatched; nothing else waits for the device.

Every process runs this loop on its share of each batch. Only host 0 logs and writes records. A
signal to any process stops all of them before the same unit of work (avjax.hosts.preemption).
"""

import contextlib
import dataclasses
import json
import math
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from avjax.checkpoint.checkpoints import host_bytes
from avjax.checkpoint.tiers import local_bytes
from avjax.errors import StorageError, UserError
from avjax.hardware.accelerator import peak_flops
from avjax.hardware.compilations import count_compilations
from avjax.hosts import distributed, environment, preemption
from avjax.hosts.ownership import sole_writer
from avjax.hosts.preemption import RESTARTABLE, Preempted
from avjax.hosts.watchdog import Watchdog, rss_bytes
from avjax.sharding.mesh import make_mesh
from avjax.storage import paths
from avjax.telemetry.report import megabytes, start_report
from avjax.telemetry.run_log import RunLog
from avjax.training.evaluation import Evaluation
from avjax.training.evaluators import Evaluator
from avjax.training.optimizer import make_optimizer
from avjax.training.phases import PhaseTimer
from avjax.training.prefetch import Fetched, Prefetcher
from avjax.training.start import Start, check_settings, open_checkpoints, restore_or_init
from avjax.training.state import (
    abstract_batch,
    abstract_params,
    abstract_state,
    evaluation_params,
)
from avjax.training.step import CompiledStep, plain_step, step_of

__all__ = ["RESTARTABLE", "Preempted", "Result", "train"]

_PATIENCE = 60.0  # seconds that a stop waits for the batch of a step that other hosts have begun
_DATA_POLL = 0.1  # seconds between looks at signals and saves while waiting for a batch


@dataclasses.dataclass
class Result:
    """What a finished run returns.

    Attributes:
      metrics: of each evaluator's last run, "evaluator/metric" -> value.
      seconds: wall time by phase.
    """

    state: Any
    step: int
    metrics: dict[str, float]
    seconds: dict[str, float]

    @property
    def params(self) -> Any:
        return evaluation_params(self.state)


def train(config, system, workdir: str | Path,
          make_batches: Callable[[], Iterator[Mapping[str, Any]]],
          evaluators: Sequence[Evaluator] = (), meta: dict | None = None, mesh=None) -> Result:
    """Trains to config.train.steps, from the newest complete checkpoint in `workdir` if there is
    one.

    Args:
      config: see configs/base.py; reads seed, data.batch_size, data.segment, optimizer, train and
        mesh.
      system: see avjax.systems.api.System.
      workdir: gets checkpoints/, metrics.jsonl, tensorboard/, goodput.json. A folder, or
        gs://BUCKET/...
      make_batches: a new loader: an iterator with get_state(), set_state(state) and close(), whose
        batches hold this process's share of every array in system.batch_spec, and "example" ids for
        the record. With `drawn` (data_pipelines.loading.mixture.Drawn) and `notes`, what they hold
        of each source is told and recorded.
      evaluators: see avjax.training.evaluators.
      meta: JSON kept in every checkpoint (system name, recipes, ...).
      mesh: default make_mesh(config.mesh, dcn=config.dcn).

    Raises:
      UserError: the config, mesh, batch or checkpoint do not fit; the loss is not finite; another
        job writes to `workdir`.
      Preempted: after a signal, once the state is saved.
      Restart: another host is lost, or a save takes too long.
    """
    mesh = make_mesh(config.mesh, dcn=config.dcn) if mesh is None else mesh
    with (preemption.handle_signals(), sole_writer(workdir),
          Watchdog(config.train.watchdog_seconds, workdir) as watchdog,
          jax.set_mesh(mesh)):
        try:
            return _train(config, system, paths.folder(workdir), make_batches, evaluators,
                          meta or {}, mesh, watchdog)
        except jax.errors.JaxRuntimeError as error:
            distributed.raise_if_host_lost(error)
            raise


def _train(config, system, workdir, make_batches, evaluators, meta, mesh, watchdog) -> Result:
    timer = PhaseTimer(watchdog)
    check_settings(config, mesh)
    batch = abstract_batch(system, mesh, batch=config.data.batch_size, time=config.data.segment)
    workdir.mkdir(parents=True, exist_ok=True)
    watchdog.start()

    optimizer = make_optimizer(config.optimizer, int(config.train.steps), abstract_params(system),
                               system.turns)
    target = abstract_state(system, optimizer, mesh, ema=config.optimizer.ema_decay > 0)
    checkpoints = open_checkpoints(config.train, workdir, mesh)
    start = restore_or_init(config, system, optimizer, target, checkpoints, workdir, mesh, timer)

    meta = {"config": json.loads(config.to_json_best_effort()),
            "best_mode": config.train.best_mode, "environment": environment.settings()} | meta
    run_log = RunLog(config.train, workdir, start=start.step, began=timer.elapsed(),
                     seconds=timer.seconds, config=meta["config"], remake=start.due)
    timer.after_long_phase = lambda: run_log.update_goodput(now=True)
    for note in start.notes:
        run_log.note(start.step, note)

    with timer.phase("compile"):
        train_step = CompiledStep(step_of(config, system, optimizer), target, batch, mesh,
                                  plain_step(config, system, optimizer))
        peak, peak_source = peak_flops(mesh, config.train.peak_flops)
    run_log.print(start_report(config, system, start.state, train_step, mesh, peak, peak_source))
    if distributed.process_count() > 1:
        run_log.note(start.step, f"{distributed.process_count()} processes; a save copies "
                     f"{megabytes(host_bytes(start.state))} of the state into the memory of this "
                     "host, one save at a time")
    run_log.begin(start.step, system, mesh, rows=config.data.batch_size, time=config.data.segment,
                  mfu=train_step.model_flops / peak)

    loop = TrainLoop(config, start, train_step, Evaluation(config.train, evaluators, start.due),
                     checkpoints, meta, run_log, timer, watchdog)
    return loop.run(make_batches(), {name: x.sharding for name, x in batch.items()})


class TrainLoop:
    """Rounds of evaluate -> save -> next batch -> step, from `start` to config.train.steps."""

    def __init__(self, config, start: Start, train_step: CompiledStep, evaluation: Evaluation,
                 checkpoints, meta: dict, run_log: RunLog, timer: PhaseTimer, watchdog: Watchdog):
        self.t = config.train
        self.total = int(config.train.steps)
        self.start = self.step = start.step
        self.state = start.state
        self.position = start.position
        self.train_step = train_step
        self.evaluation = evaluation
        self.checkpoints = checkpoints
        self.meta = meta
        self.run_log = run_log
        self.timer = timer
        self.watchdog = watchdog
        # The step of the newest persistent checkpoint. A step that only the hosts' own disks hold
        # does not count: a stop before the next step would leave it there alone.
        persistent = not self.start or checkpoints.has(self.start)
        self.saved = self.start if persistent else -1
        self.in_flight: tuple[int, Any, Fetched] | None = None  # the step whose metrics are unread
        self.skipped = 0  # steps in a row that were not finite

    def run(self, loader, batch_shardings: Mapping[str, Any]) -> Result:
        if self.position is not None:
            loader.set_state(self.position)
        self.position = loader.get_state()
        self.run_log.begin_data(self.step, loader, self.total)
        prefetcher = Prefetcher(loader, batch_shardings, count=self.run_log.real_positions)
        # Whether all hosts come to the end of a save that is under way.
        all_hosts_here = distributed.process_count() == 1
        try:
            with preemption.stop_together() as self.stopping, \
                    count_compilations() as self.compilations:
                while True:
                    evaluated = self.evaluate()
                    finished = evaluated and self.step >= self.total
                    stop = not finished and (not evaluated or self.stopping.reached())
                    self.save(force=finished or stop)
                    if finished:
                        break
                    fetched = None if stop else self.next_batch(prefetcher)
                    if fetched is None or not self.proceed():
                        all_hosts_here = True
                        self.save_and_stop()
                    self.update(fetched)
                with self.timer.phase("checkpoint"):
                    self.checkpoints.wait()
                self.timer.finish()
                self.run_log.summarise()
                all_hosts_here = True
                if self.stopping.why:  # during the last step or save: what comes after this loop
                    self.save_and_stop()  # is for the next start
        finally:
            prefetcher.close()
            loader.close()
            if all_hosts_here:
                # Never hides the error that brought us here.
                with contextlib.suppress(UserError, StorageError, distributed.Restart):
                    self.checkpoints.close()
            self.run_log.close()
        return Result(self.state, self.step, self.evaluation.latest, dict(self.timer.seconds))

    def proceed(self) -> bool:
        """Whether all hosts do the next unit of work (a step, a batch of an evaluation)."""
        self.watchdog.progress()
        return self.stopping.proceed()

    def save_and_stop(self) -> None:
        self.save(force=True)
        with self.timer.phase("checkpoint"):
            self.checkpoints.wait()
        self.run_log.note(self.step, f"{self.stopping.why}: saved step {self.step}, stopping; "
                          "start the same command again to resume")
        self.run_log.outcome = "preempted"
        raise Preempted(self.step)

    def next_batch(self, prefetcher: Prefetcher) -> Fetched | None:
        """None when the job stops here and the batch is not needed."""
        waited_since_stop = 0.0
        try:
            with self.timer.phase("data wait"):
                while True:
                    try:
                        return prefetcher.take(_DATA_POLL)
                    except queue.Empty:
                        self.checkpoints.poll()
                    if self.stopping.reached():
                        return None
                    if self.stopping.why:
                        waited_since_stop += _DATA_POLL
                    if waited_since_stop > _PATIENCE:
                        raise distributed.Restart(
                            f"{self.stopping.why}: no batch for step {self.step + 1}, which other "
                            "hosts have begun, so nothing can be saved")
        except StopIteration as error:
            raise UserError("the loader ran out of batches", where=f"step {self.step}",
                            expected="an endless loader", hint="repeat the dataset") from error

    def update(self, fetched: Fetched) -> None:
        """One training step on a batch."""
        self.run_log.before_step(self.step, self.state)
        with self.timer.phase("step"):
            compiled_before = self.compilations.count
            began = time.perf_counter()
            self.state, metrics = self.train_step(self.state, fetched.batch)
            self.run_log.clock.dispatched(began, metrics)
            if self.compilations.count != compiled_before:
                raise RuntimeError(f"something was compiled inside step {self.step + 1}; a job "
                                   "compiles its step once, ahead of time")
            self.step = self.run_log.step = self.step + 1
            self.position = fetched.position
            self.read_metrics()
            self.in_flight = (self.step, metrics, fetched._replace(batch=None))
        self.evaluation.after_step(self.step, last=self.step >= self.total)
        self.watchdog.progress(self.step)
        self.checkpoints.poll()

    def read_metrics(self) -> None:
        """Reads and checks the metrics of the step before the one in flight."""
        if self.in_flight is None:
            return
        step, metrics, fetched = self.in_flight
        self.in_flight = None
        values = self.run_log.clock.read(self.train_step.unpack, metrics)
        self.run_log.done.update(fetched.real)
        not_finite = [name for name, value in values.items() if not math.isfinite(value)]
        if not_finite:
            self.skip_or_fail(step, not_finite, values)
        else:
            self.skipped = 0
        if _is_due(step, self.t.log_every) or step in (self.start + 1, self.total):
            self.run_log.log(step, values, fetched.batch_id, fetched.position)

    def skip_or_fail(self, step: int, names: list[str], values: dict[str, float]) -> None:
        """Records a step that is not finite. Raises UserError unless the policy is to skip it."""
        self.skipped += 1
        skipping = self.t.nan_policy == "skip"
        self.run_log.record(step, "not_finite",
                            {"terms": names, "values": {name: str(values[name]) for name in names}})
        if skipping and self.skipped <= self.t.max_skips:
            self.run_log.note(step, f"step {step}: {', '.join(names)} not finite; update skipped "
                              f"({self.skipped} in a row)")
            return
        with contextlib.suppress(UserError, StorageError):
            self.checkpoints.wait()
        # A term of the loss names the culprit better than the totals that it poisons.
        totals = ["loss", "grad_norm", "update_norm"]
        terms = sorted(set(names) - set(totals))
        culprit = [*terms, *(name for name in totals if name in names)][0]
        in_a_row = f", {self.skipped} steps in a row" if skipping else ""
        good = self.checkpoints.latest_step()
        kept = "none yet" if good is None else f"step {good}"
        raise UserError("the loss is not finite", where=f"step {step}, term {culprit!r}{in_a_row}",
                        expected="finite values",
                        found=", ".join(f"{name}={values[name]}" for name in names),
                        hint=f"last good checkpoint: {kept}; lower the learning rate, clip "
                        "gradients, or set config.train.nan_policy=skip")

    def evaluate(self) -> bool:
        """Runs the evaluators that are due; False when the job stops before all have run."""
        pending = self.evaluation.pending()
        if not pending:
            return True
        with self.timer.phase("step"):
            self.read_metrics()
        for evaluator in pending:
            if not self.proceed():
                return False
            with self.timer.phase("evaluation"):
                result = self.evaluation.run(evaluator, self.state, self.step, proceed=self.proceed)
            if result is None:
                return False
            self.run_log.evaluated(self.step, evaluator.name, *result)
        if self.evaluation.best_metric_is_missing():
            self.save(force=True)
            self.checkpoints.wait()
            raise self.evaluation.missing_best_metric(self.step)
        return True

    def save(self, *, force: bool) -> None:
        """Saves this step where it is due: to persistent storage, else to the hosts' own disks."""
        t = self.t
        if self.step == self.saved:
            return
        persistent = force or _is_due(self.step, t.checkpoint_every)
        local = t.local_dir and _is_due(self.step, t.local_every) and self.step > self.start
        if not persistent and not local:
            return
        with self.timer.phase("step"):
            self.read_metrics()  # a state that follows a NaN is never saved
        rss_before = rss_bytes()
        began = time.perf_counter()
        meta = self.meta | {"data": self.position}
        if self.evaluation.due:  # an evaluation that a stop came before
            meta["due"] = self.evaluation.due
        with self.timer.phase("checkpoint"):
            if persistent:
                self.checkpoints.save(self.step, self.state, meta, rank=self.evaluation.rank())
                self.saved = self.step
                self.run_log.send_soon()
            else:
                self.checkpoints.save_local(self.step, self.state, meta)
        size = host_bytes(self.state) if persistent else local_bytes(self.state)
        self.run_log.record(self.step, "checkpoint" if persistent else "local_checkpoint", {
            "blocked_seconds": round(time.perf_counter() - began, 3),
            "host_mb": round(size / 1e6, 3), "rss_mb": round(rss_bytes() / 1e6, 1),
            "rss_grown_mb": round((rss_bytes() - rss_before) / 1e6, 1)})


def _is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is done at this one; 0 = never."""
    return every > 0 and step % every == 0
