"""The training loop. It knows nothing of any paper: a System, a config, a loader and some
evaluators.

Order of a round, DO NOT CHANGE: evaluate -> save -> next batch -> step. The loader is advanced only
after the save, so a checkpoint of step k says "the next batch is k". Metrics of a step are read
after the next one has been dispatched; nothing else waits for the device.

With several processes every one runs this same loop on its share of each batch; host 0 alone tells
and records. A signal to any of them stops all before the same unit of work (see
avjax.hosts.preemption).
"""

import contextlib
import dataclasses
import json
import math
import queue
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from avjax.checkpoint.checkpoints import Checkpoints, host_bytes, warm_start
from avjax.checkpoint.tiers import Tiers, local_bytes
from avjax.errors import StorageError, UserError
from avjax.hardware.accelerator import peak_flops
from avjax.hosts import distributed, environment, preemption
from avjax.hosts.ownership import sole_writer
from avjax.hosts.preemption import RESTARTABLE, Preempted
from avjax.hosts.watchdog import Watchdog, rss_bytes
from avjax.sharding.mesh import check_batch, make_mesh
from avjax.storage import paths
from avjax.telemetry.run_log import Journal
from avjax.telemetry.telemetry import megabytes, start_report
from avjax.training.evaluators import Evaluator, Interrupted
from avjax.training.optimizer import make_optimizer
from avjax.training.prefetch import Fetched, Prefetcher
from avjax.training.state import (
    abstract_batch,
    abstract_params,
    abstract_state,
    evaluation_params,
    init_state,
)
from avjax.training.step import CompiledStep, plain_step, step_of

__all__ = ["RESTARTABLE", "Preempted", "Result", "train"]

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
# may take minutes: goodput.json is brought up to date after them
LONG = ("compile", "evaluation", "checkpoint")
_PATIENCE = 60.0  # seconds
_DATA_POLL = 0.1  # seconds between looks at what else happened while a batch is waited for


@dataclasses.dataclass
class Result:
    """What a finished run hands on."""

    state: Any
    step: int
    metrics: dict[str, float]  # of the last evaluation, "evaluator/metric"
    seconds: dict[str, float]  # where the time went

    @property
    def params(self) -> Any:
        return evaluation_params(self.state)


def train(config, system, workdir: str | Path,
          make_batches: Callable[[], Iterator[Mapping[str, Any]]],
          evaluators: Sequence[Evaluator] = (), meta: dict | None = None, mesh=None) -> Result:
    """Trains to config.train.steps, going on from the newest whole checkpoint of `workdir` when
    there is one.

    Args:
      config: see configs/base.py; reads seed, data.batch_size, data.segment, optimizer, train and
        mesh.
      system: see avjax.systems.api.System.
      workdir: gets checkpoints/, metrics.jsonl, tensorboard/, goodput.json. A folder, or
        gs://BUCKET/...
      make_batches: a fresh loader: an iterator with get_state() and set_state(state) whose batches
        hold this process's share of every array in system.batch_spec, and "example" ids for the
        record.
      evaluators: see avjax.training.evaluators.
      meta: JSON kept in every checkpoint (system name, recipes, ...).
      mesh: default make_mesh(config.mesh, dcn=config.dcn).

    Raises:
      UserError: config, mesh, batch or checkpoint that do not fit; a loss that is not finite;
        another job writes there.
      Preempted: after a signal, once the state is saved.
      Restart: a peer is lost, or a save takes too long.
    """
    mesh = make_mesh(config.mesh, dcn=config.dcn) if mesh is None else mesh
    with (preemption.signals(), sole_writer(workdir),
          Watchdog(config.train.watchdog_seconds, workdir) as watchdog,
          jax.set_mesh(mesh)):
        try:
            return _Run(config, system, paths.folder(workdir), evaluators, meta or {}, mesh,
                        watchdog).run(make_batches)
        except jax.errors.JaxRuntimeError as error:
            distributed.lost(error)
            raise


class _Run:
    def __init__(self, config, system, workdir, evaluators, meta, mesh, watchdog):
        self.config, self.mesh, self.evaluators, self.watchdog = config, mesh, list(
            evaluators), watchdog
        self.total = int(config.train.steps)
        self.seconds: dict[str, float] = defaultdict(float)
        self.began = time.perf_counter()
        environment.check()
        self.meta = {"config": json.loads(config.to_json_best_effort()),
                     "best_mode": config.train.best_mode,
                     "environment": environment.settings()} | meta
        if config.train.nan_policy not in ("stop", "skip"):
            raise UserError("unknown policy", where="config.train.nan_policy",
                            expected="stop or skip",
                            found=repr(config.train.nan_policy))
        check_batch(config.data.batch_size, mesh, accumulate=config.optimizer.accumulate)
        batch = abstract_batch(system, mesh, batch=config.data.batch_size, time=config.data.segment)
        self.batch_shardings = {name: x.sharding for name, x in batch.items()}
        workdir.mkdir(parents=True, exist_ok=True)
        watchdog.start()

        optimizer = make_optimizer(config.optimizer, self.total, abstract_params(system))
        ema = config.optimizer.ema_decay > 0
        target = abstract_state(system, optimizer, mesh, ema=ema)
        self.checkpoints = Checkpoints(workdir, keep_last=config.train.keep_last,
                                       keep_best=config.train.keep_best,
                                       best_mode=config.train.best_mode,
                                       save_seconds=config.train.save_timeout)
        if config.train.local_dir:
            self.checkpoints = Tiers(self.checkpoints, workdir, config.train.local_dir,
                                     config.train.local_every, mesh,
                                     save_seconds=config.train.save_timeout)
        notes: list[str] = []
        self.due: list[str] = []  # evaluators that are to run before the next step
        with self.timed("restore", phase="start"):
            found = self.checkpoints.restore(target, warn=notes.append)
        with self.timed("start"):
            if found:
                self.start, self.state, saved = found
                self.position, self.due = saved["data"], saved.get("due", [])
                check_steps(self.start, self.total, workdir)
                notes += environment.compare(saved.get("environment", {}), f"step {self.start}")
                notes.append(f"going on from step {self.start}")
            else:
                self.start, self.position = 0, None
                self.state = init_state(system, optimizer, mesh, seed=config.seed, ema=ema)
                t, params = config.train, self.state["params"]
                if t.get("init_from"):
                    params, note = warm_start(params, t.init_from, include=t.init_include)
                    notes.append(note)
                for into, path, of in t.get("init_parts", ()):
                    params, note = warm_start(params, path, include=t.init_include, into=into,
                                              of=of)
                    notes.append(note)
                if notes and ema:
                    self.state["ema"] = jax.tree.map(jnp.copy, params)
                self.state["params"] = params
        self.step = self.start
        # Not what only the hosts' own disks have: a stop before the next step would leave it there
        # alone.
        self.saved = self.start if not self.start or self.checkpoints.has(self.start) else -1
        self.journal = Journal(config.train, workdir, start=self.start,
                               began=time.perf_counter() - self.began, seconds=self.seconds,
                               config=self.meta["config"], again=self.due)
        for note in notes:
            self.tell(note)

        with self.timed("compile"):
            self.train_step = CompiledStep(step_of(config, system, optimizer), target, batch, mesh,
                                           plain_step(config, system, optimizer))
            peak, source = peak_flops(mesh, config.train.get("peak_flops", 0.0))
        self.journal.say(start_report(config, system, self.state, self.train_step, mesh, peak,
                                      source))
        if distributed.process_count() > 1:
            self.tell(f"{distributed.process_count()} processes; a save copies "
                      f"{megabytes(host_bytes(self.state))} of the state into the memory of this "
                      "host, one save at a time")
        self.pending: tuple[int, Any, Fetched] | None = None
        self.evaluated: dict[str, float] = {}
        self.measured: dict[str, float] = {}  # those of this very step
        self.skips = self.compiles = 0
        self.journal.begin(self.start, system, mesh, rows=config.data.batch_size,
                           time=config.data.segment,
                           mfu=self.train_step.model_flops / peak)

    def run(self, make_batches) -> Result:
        loader = make_batches()
        if self.position is not None:
            loader.set_state(self.position)
        self.position = loader.get_state()
        prefetcher = Prefetcher(loader, self.batch_shardings, count=self.journal.count)
        whole = distributed.process_count() == 1
        try:
            with preemption.saving() as self.stopping, _compilations(self):
                while True:
                    evaluated = self.evaluate()
                    last = evaluated and self.step >= self.total
                    stop = not last and (not evaluated or self.stopping.reached())
                    self.save(force=last or stop)
                    if last:
                        break
                    if not stop:
                        fetched = self.next_batch(prefetcher)
                        stop = fetched is None or not self.proceed()
                    if stop:
                        whole = True
                        self.stop()
                    self.update(fetched)
                with self.timed("checkpoint"):
                    self.checkpoints.wait()
                self.summarise()
                whole = True
                # asked for during the last step or save: what comes after is for the next start
                if self.stopping.why:
                    self.stop()
        finally:
            prefetcher.close()
            if hasattr(loader, "close"):
                loader.close()
            if whole:  # else other hosts may never come to finish a save that is under way
                # Never hides the error that brought us here.
                with contextlib.suppress(UserError, StorageError, distributed.Restart):
                    self.checkpoints.close()
            self.journal.close(self.step)
        return Result(self.state, self.step, self.evaluated, dict(self.seconds))

    def proceed(self) -> bool:
        """Whether the next unit of work that all hosts share (a step, a batch of an evaluation) is
        to be done."""
        self.watchdog.progress()
        return self.stopping.proceed()

    def stop(self) -> None:
        self.save(force=True)
        with self.timed("checkpoint"):
            self.checkpoints.wait()
        self.tell(f"{self.stopping.why}: saved step {self.step}, stopping; start the same command "
                  "again to go on")
        self.journal.end = "preempted"
        raise Preempted(self.step)

    def next_batch(self, prefetcher: Prefetcher) -> Fetched | None:
        """None when the job is to stop here and the batch is not needed."""
        try:
            with self.timed("data wait"):
                # for how long a stop has been waiting for this batch, of a step that other hosts
                # have begun
                asked = 0.0
                while True:
                    try:
                        return prefetcher.take(_DATA_POLL)
                    except queue.Empty:
                        self.checkpoints.poll()
                        if self.stopping.reached():
                            return None
                        asked += _DATA_POLL if self.stopping.why else 0.0
                        if asked > _PATIENCE:
                            raise distributed.Restart(f"{self.stopping.why}: no batch for step "
                                                      f"{self.step + 1}, which other hosts have "
                                                      "begun, so nothing can be saved") from None
        except StopIteration as error:
            raise UserError("the loader ran out of batches", where=f"step {self.step}",
                            expected="an endless loader",
                            hint="repeat the dataset") from error

    def update(self, fetched: Fetched) -> None:
        self.journal.before(self.step, self.state)
        with self.timed("step"):
            before, began = self.compiles, time.perf_counter()
            self.state, vector = self.train_step(self.state, fetched.batch)
            self.journal.clock.dispatched(began, vector)
            if self.compiles != before:
                raise RuntimeError(f"something was compiled inside step {self.step + 1}; a job "
                                   "compiles its step once, ahead of time")
            self.step += 1
            self.measured = {}
            self.position = fetched.position
            self.flush()
            self.pending = (self.step, vector, fetched._replace(batch=None, position=None))
        self.due = [e.name for e in self.evaluators
                    if e.every > 0 and (_at(self.step, e.every) or self.step >= self.total)]
        self.watchdog.progress(self.step)
        self.checkpoints.poll()

    def flush(self) -> None:
        """Reads and checks the metrics of the step before the one in flight."""
        if self.pending is None:
            return
        step, vector, fetched = self.pending
        self.pending = None
        values = self.journal.clock.read(self.train_step.unpack, vector)
        self.journal.done.update(fetched.real)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        self.skips = self.skips + 1 if bad else 0
        if bad:
            self.not_finite(step, bad, values)
        if _at(step, self.config.train.log_every) or step in (self.start + 1, self.total):
            self.journal.log(step, values, fetched.batch_id)

    def not_finite(self, step: int, bad: list[str], values: dict[str, float]) -> None:
        # A term names the culprit better than the total or the gradient norm it poisons.
        totals = ("loss", "grad_norm", "update_norm")
        culprit = sorted(bad, key=lambda name: (name in totals, totals.index(name) if name in totals
                                                else 0, name))[0]
        self.journal.record(step, "not_finite",
                            {"terms": bad, "values": {k: str(values[k]) for k in bad}})
        if self.config.train.nan_policy == "skip" and self.skips <= self.config.train.max_skips:
            self.tell(f"step {step}: {', '.join(bad)} not finite; update skipped ({self.skips} in "
                      "a row)")
            return
        with contextlib.suppress(UserError, StorageError):
            self.checkpoints.wait()
        good = self.checkpoints.latest_step()
        more = f", {self.skips} steps in a row" if self.config.train.nan_policy == "skip" else ""
        kept = f"step {good}" if good is not None else "none yet"
        raise UserError("the loss is not finite", where=f"step {step}, term {culprit!r}{more}",
                        expected="finite values",
                        found=", ".join(f"{name}={values[name]}" for name in bad),
                        hint=f"last good checkpoint: {kept}; lower the learning rate, clip "
                        "gradients, or set "
                        "config.train.nan_policy=skip")

    def evaluate(self) -> bool:
        """Runs the evaluators that are due; False when the job is to stop before all have."""
        due = [e for e in self.evaluators if e.name in self.due]
        if not due:
            return True
        with self.timed("step"):
            self.flush()
        for evaluator in due:
            if not self.proceed():
                return False
            if hasattr(evaluator, "should_stop"):
                evaluator.should_stop = lambda: not self.proceed()
            try:
                with self.timed("evaluation"):
                    result = evaluator.run(evaluation_params(self.state), self.step)
            except Interrupted:
                return False
            metrics, artefacts = result if isinstance(result, tuple) else (result, {})
            self.due.remove(evaluator.name)
            self.measured |= {f"{evaluator.name}/{name}": float(value) for name,
                              value in metrics.items()}
            self.journal.record(self.step, evaluator.name, {k: float(v) for k, v in metrics.items()
                                                            if math.isfinite(v)})
            self.journal.artefacts(self.step, evaluator.name, artefacts)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:6])
            self.journal.say(f"step {self.step}: {evaluator.name}: {shown}")
        self.evaluated |= self.measured
        self.check_best_metric()
        return True

    def best(self, metrics: dict[str, float]) -> list[float]:
        """Values of config.train.best_metric: "evaluator/metric", or a bare metric."""
        return [value for name, value in metrics.items()
                if self.config.train.best_metric in (name, name.split("/", 1)[1])]

    def check_best_metric(self) -> None:
        """UserError, once all evaluators have run, when none measures it. The steps so far are
        saved first."""
        missing = {e.name for e in self.evaluators if e.every > 0} - {name.split("/", 1)[0]
                                                                      for name in self.evaluated}
        if missing or self.best(self.evaluated) or not self.config.train.keep_best:
            return
        self.save(force=True)
        self.checkpoints.wait()
        raise UserError("no evaluator measures the metric that picks the best checkpoint",
                        where="config.train.best_metric", expected=" or ".join(self.evaluated),
                        found=repr(self.config.train.best_metric),
                        hint=f"step {self.step} is saved: change it and start again")

    def rank(self) -> float | None:
        """What the first evaluator that measured config.train.best_metric at this very step
        found."""
        value = next(iter(self.best(self.measured)),
                     math.nan) if self.config.train.keep_best else math.nan
        return value if math.isfinite(value) else None

    def save(self, *, force: bool) -> None:
        if self.step == self.saved:
            return
        t = self.config.train
        local = not force and not _at(self.step, t.checkpoint_every)
        if local and not (t.local_dir and _at(self.step, t.local_every) and self.step > self.start):
            return
        with self.timed("step"):
            self.flush()  # a state that follows a NaN is never saved
        before, began = rss_bytes(), time.perf_counter()
        with self.timed("checkpoint"):
            due = {"due": self.due} if self.due else {}  # an evaluation that a stop came before
            meta = self.meta | {"data": self.position} | due
            if local:
                self.checkpoints.save_local(self.step, self.state, meta)
            else:
                self.checkpoints.save(self.step, self.state, meta, rank=self.rank())
                self.saved = self.step
                self.journal.saved()
        size = local_bytes(self.state) if local else host_bytes(self.state)
        self.journal.record(self.step, "local_checkpoint" if local else "checkpoint", {
            "blocked_seconds": round(time.perf_counter() - began, 3),
            "host_mb": round(size / 1e6, 3), "rss_mb": round(rss_bytes() / 1e6, 1),
            "rss_grown_mb": round((rss_bytes() - before) / 1e6, 1)})

    def summarise(self) -> None:
        self.seconds["total"] = time.perf_counter() - self.began
        self.seconds["other"] = self.seconds["total"] - sum(v for k, v in self.seconds.items()
                                                            if k not in
                                                            ("total", "other"))
        self.journal.summarise(self.step)

    def tell(self, text: str) -> None:
        self.journal.tell(self.step, text)

    @contextlib.contextmanager
    def timed(self, name: str, phase: str = ""):
        """Counts the time inside as `name`; `phase` is what the watchdog knows it by."""
        start = time.perf_counter()
        try:
            with self.watchdog.phase(phase or name):
                yield
        finally:
            self.seconds[name] += time.perf_counter() - start
            if name in LONG and hasattr(self, "journal"):
                self.journal.note(self.step, now=True)


def check_steps(reached: int, total: int, workdir: Any) -> None:
    """UserError when a workdir is further than it is to be trained."""
    if reached > total:
        raise UserError("training is further than that already",
                        where=f"config.train.steps, {workdir}", found=str(total),
                        expected=f"at least {reached}, the step of the newest checkpoint",
                        hint="ask for as many steps or more, or use another --workdir")


def _at(step: int, every: int) -> bool:
    """Whether something that is done every so many steps is done at this one; 0 = never."""
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _compilations(run: _Run):
    """Counts XLA compilations of this process in run.compiles."""

    def count(event: str, duration: float, **kwargs):
        del duration, kwargs
        if event == _COMPILE_EVENT:
            run.compiles += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
