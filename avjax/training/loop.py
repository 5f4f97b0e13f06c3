"""The training loop. It knows nothing of any paper: a System, a config, a loader and some evaluators.

Order of a round, DO NOT CHANGE: evaluate -> save -> next batch -> step. The loader is advanced only after the save, so
a checkpoint of step k says "the next batch is k". Metrics of a step are read after the next one has been dispatched;
nothing else waits for the device.
"""

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from avjax.errors import UserError
from avjax.sharding.mesh import batch_sharding, check_batch, make_mesh
from avjax.systems.api import example_batch
from avjax.training.checkpoints import Checkpoints, warm_start
from avjax.training.evaluators import Evaluator
from avjax.training.hardware import peak_flops
from avjax.training.optimizer import make_optimizer
from avjax.training.prefetch import Fetched, Prefetcher
from avjax.training.state import abstract_params, abstract_state, evaluation_params, init_state
from avjax.training.step import CompiledStep, make_train_step
from avjax.training.telemetry import Telemetry, start_report

RESTARTABLE = 75  # exit code of a run that was asked to stop and saved first (EX_TEMPFAIL)
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Preempted(SystemExit):
    """SIGTERM or SIGINT arrived; the state is saved. Exits with RESTARTABLE."""

    def __init__(self, step: int):
        super().__init__(RESTARTABLE)
        self.step = step


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


def train(config, system, workdir: str | Path, make_batches: Callable[[], Iterator[Mapping[str, Any]]],
          evaluators: Sequence[Evaluator] = (), meta: dict | None = None, mesh=None) -> Result:
    """Trains to config.train.steps, going on from the newest whole checkpoint of `workdir` when there is one.

    Args:
      config: see configs/base.py; reads seed, data.batch_size, data.segment, optimizer, train and mesh.
      system: see avjax.systems.api.System.
      workdir: gets checkpoints/, metrics.jsonl and tensorboard/.
      make_batches: a fresh loader: an iterator with get_state() and set_state(state) whose batches hold this process's
        share of every array in system.batch_spec, and "example" ids for the record.
      evaluators: see avjax.training.evaluators.
      meta: JSON kept in every checkpoint (system name, recipes, ...).
      mesh: default make_mesh(config.mesh).

    Raises:
      UserError: config, mesh, batch or checkpoint that do not fit; a loss that is not finite.
      Preempted: after a signal, once the state is saved.
    """
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    with jax.set_mesh(mesh):
        return _Run(config, system, Path(workdir), evaluators, meta or {}, mesh).run(make_batches)


class _Run:
    def __init__(self, config, system, workdir, evaluators, meta, mesh):
        self.config, self.mesh, self.evaluators = config, mesh, list(evaluators)
        self.total = int(config.train.steps)
        self.seconds: dict[str, float] = defaultdict(float)
        self.began = time.perf_counter()
        self.meta = {"config": json.loads(config.to_json_best_effort()), "best_mode": config.train.best_mode} | meta
        if config.train.nan_policy not in ("stop", "skip"):
            raise UserError("unknown policy", where="config.train.nan_policy", expected="stop or skip",
                            found=repr(config.train.nan_policy))
        check_batch(config.data.batch_size, mesh, accumulate=config.optimizer.accumulate)
        workdir.mkdir(parents=True, exist_ok=True)

        optimizer = make_optimizer(config.optimizer, self.total, abstract_params(system))
        ema = config.optimizer.ema_decay > 0
        target = abstract_state(system, optimizer, mesh, ema=ema)
        self.checkpoints = Checkpoints(workdir, keep_last=config.train.keep_last, keep_best=config.train.keep_best,
                                       best_mode=config.train.best_mode)
        with self.timed("start"):
            notes: list[str] = []
            found = self.checkpoints.restore(target, warn=notes.append)
            if found:
                self.start, self.state, saved = found
                self.position = saved["data"]
                notes.append(f"going on from step {self.start}")
            else:
                self.start, self.position = 0, None
                self.state = init_state(system, optimizer, mesh, seed=config.seed, ema=ema)
                t, params = config.train, self.state["params"]
                if t.get("init_from"):
                    params, note = warm_start(params, t.init_from, include=t.init_include)
                    notes.append(note)
                for into, path, of in t.get("init_parts", ()):
                    params, note = warm_start(params, path, include=t.init_include, into=into, of=of)
                    notes.append(note)
                if notes and ema:
                    self.state["ema"] = jax.tree.map(jnp.copy, params)
                self.state["params"] = params
        self.step = self.saved = self.start
        self.telemetry = Telemetry(workdir, start=self.start, total=self.total)
        for note in notes:
            self.tell(note)

        with self.timed("compile"):
            train_step = make_train_step(system, optimizer, seed=config.seed, accumulate=config.optimizer.accumulate,
                                         ema_decay=config.optimizer.ema_decay, guard=config.train.nan_policy == "skip")
            batch = example_batch(system, batch=config.data.batch_size, time=config.data.segment)
            self.train_step = CompiledStep(train_step, target, batch, mesh)
            self.peak, source = peak_flops(mesh, config.train.get("peak_flops", 0.0))
        self.telemetry.say(start_report(config, system, self.state, self.train_step, mesh, self.peak, source))
        self.workdir = workdir
        self.pending: tuple[int, Any, Fetched] | None = None
        self.evaluated: dict[str, float] = {}
        self.rank_step = -1  # when self.evaluated was last brought up to date
        self.skips = self.compiles = 0
        self.tracing = False
        self.rate_mark = (self.start, time.perf_counter())  # step and time of the last log line

    def run(self, make_batches) -> Result:
        loader = make_batches()
        if self.position is not None:
            loader.set_state(self.position)
        self.position = loader.get_state()
        prefetcher = Prefetcher(loader, batch_sharding(self.mesh))
        try:
            with _signals() as asked, _compilations(self):
                while True:
                    stop = bool(asked)
                    if self.step > self.start and not stop:
                        self.evaluate()
                    last = self.step >= self.total
                    self.save(force=last or stop)
                    if last:
                        break
                    if stop:
                        self.checkpoints.wait()
                        self.tell(f"signal {asked[0]}: saved step {self.step}, stopping; start the same command again "
                                  "to go on")
                        raise Preempted(self.step)
                    with self.timed("data wait"):
                        fetched = self.next_batch(prefetcher)
                    self.update(fetched)
            with self.timed("checkpoint"):
                self.checkpoints.wait()
            self.summarise()
        finally:
            if self.tracing:
                jax.profiler.stop_trace()
            prefetcher.close()
            if hasattr(loader, "close"):
                loader.close()
            with contextlib.suppress(UserError):  # never hides the error that brought us here
                self.checkpoints.close()
            self.telemetry.close()
        return Result(self.state, self.step, self.evaluated, dict(self.seconds))

    def next_batch(self, prefetcher: Prefetcher) -> Fetched:
        try:
            return next(prefetcher)
        except StopIteration as error:
            raise UserError("the loader ran out of batches", where=f"step {self.step}", expected="an endless loader",
                            way_out="repeat the dataset") from error

    def update(self, fetched: Fetched) -> None:
        self.profile()
        with self.timed("step"):
            before = self.compiles
            self.state, vector = self.train_step(self.state, fetched.batch)
            if self.compiles != before:
                raise RuntimeError(f"something was compiled inside step {self.step + 1}; a job compiles its step once, "
                                   "ahead of time")
            self.step += 1
            self.position = fetched.position
            self.flush()
            self.pending = (self.step, vector, fetched._replace(batch=None, position=None))
        self.checkpoints.poll()

    def flush(self) -> None:
        """Reads and checks the metrics of the step before the one in flight."""
        if self.pending is None:
            return
        step, vector, fetched = self.pending
        self.pending = None
        values = self.train_step.unpack(vector)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        self.skips = self.skips + 1 if bad else 0
        if bad:
            self.not_finite(step, bad, values)
        if step % self.config.train.log_every == 0 or step in (self.start + 1, self.total):
            self.log(step, values, fetched)

    def not_finite(self, step: int, bad: list[str], values: dict[str, float]) -> None:
        # A term names the culprit better than the total or the gradient norm it poisons.
        totals = ("loss", "grad_norm", "update_norm")
        culprit = sorted(bad, key=lambda name: (name in totals, totals.index(name) if name in totals else 0, name))[0]
        self.telemetry.record(step, "not_finite", {"terms": bad, "values": {k: str(values[k]) for k in bad}})
        if self.config.train.nan_policy == "skip" and self.skips <= self.config.train.max_skips:
            self.tell(f"step {step}: {', '.join(bad)} not finite; update skipped ({self.skips} in a row)")
            return
        with contextlib.suppress(UserError):
            self.checkpoints.wait()
        good = self.checkpoints.latest_step()
        more = f", {self.skips} steps in a row" if self.config.train.nan_policy == "skip" else ""
        kept = f"step {good}" if good is not None else "none yet"
        raise UserError("the loss is not finite", where=f"step {step}, term {culprit!r}{more}",
                        expected="finite values", found=", ".join(f"{name}={values[name]}" for name in bad),
                        way_out=f"last good checkpoint: {kept}; lower the learning rate, clip gradients, or set "
                        "config.train.nan_policy=skip")

    def log(self, step: int, values: dict[str, float], fetched: Fetched) -> None:
        since, then = self.rate_mark
        now = time.perf_counter()
        if step > since and now > then:
            rate = (step - since) / (now - then)
            # Rates are per wall second, evaluation and saving included.
            values = values | {"steps_per_second": rate, "mfu": rate * self.train_step.flops / self.peak}
            self.rate_mark = (step, now)
        shown = {"loss": f"{values['loss']:.4g}"}
        if "mfu" in values:
            shown |= {"steps/s": f"{values['steps_per_second']:.2f}", "MFU": f"{values['mfu']:.1%}"}
        self.telemetry.progress(step, **shown)
        finite = {k: v for k, v in values.items() if math.isfinite(v)}
        if fetched.batch_id is not None:
            finite["batch_id"] = fetched.batch_id
        self.telemetry.record(step, "train", finite)

    def evaluate(self) -> None:
        due = [e for e in self.evaluators if e.every > 0 and (self.step % e.every == 0 or self.step >= self.total)]
        if not due:
            return
        self.flush()
        for evaluator in due:
            with self.timed("evaluation"):
                result = evaluator.run(evaluation_params(self.state), self.step)
                metrics, artefacts = result if isinstance(result, tuple) else (result, {})
            self.evaluated |= {f"{evaluator.name}/{name}": float(value) for name, value in metrics.items()}
            self.telemetry.record(self.step, evaluator.name, {k: float(v) for k, v in metrics.items()
                                                              if math.isfinite(v)})
            self.telemetry.artefacts(self.step, evaluator.name, artefacts)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:6])
            self.telemetry.say(f"step {self.step}: {evaluator.name}: {shown}")
        self.rank_step = self.step

    def rank(self) -> float | None:
        """The value of config.train.best_metric ("evaluator/metric", or a bare metric of the first evaluator that has
        it), when it was evaluated at this very step."""
        if self.rank_step != self.step or not self.evaluated or not self.config.train.keep_best:
            return None
        wanted = self.config.train.best_metric
        for name, value in self.evaluated.items():
            if wanted in (name, name.split("/", 1)[1]):
                return value if math.isfinite(value) else None
        raise UserError("no evaluator measures the metric that picks the best checkpoint",
                        where="config.train.best_metric", expected=" or ".join(self.evaluated), found=repr(wanted))

    def save(self, *, force: bool) -> None:
        if self.step == self.saved or not (force or self.step % self.config.train.checkpoint_every == 0):
            return
        self.flush()  # a state that follows a NaN is never saved
        with self.timed("checkpoint"):
            self.checkpoints.save(self.step, self.state, self.meta | {"data": self.position}, rank=self.rank())
        self.saved = self.step

    def profile(self) -> None:
        first = self.config.train.profile_at
        if self.step == first and not self.tracing:
            jax.profiler.start_trace(str(self.workdir / "profile"))
            self.tracing = True
        elif self.tracing and self.step >= first + self.config.train.profile_steps:
            jax.block_until_ready(self.state)
            jax.profiler.stop_trace()
            self.tracing = False
            self.tell(f"profile of {self.config.train.profile_steps} steps in {self.workdir / 'profile'}")

    def summarise(self) -> None:
        self.seconds["total"] = time.perf_counter() - self.began
        self.seconds["other"] = self.seconds["total"] - sum(v for k, v in self.seconds.items() if k not in
                                                            ("total", "other"))
        split = {k: round(v, 3) for k, v in self.seconds.items()}
        self.telemetry.record(self.step, "seconds", {"seconds": split}, scalars=False)
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items() if name != "total")
        self.telemetry.say(f"trained to step {self.step} in {self.seconds['total']:.1f} s ({parts})")

    def tell(self, text: str) -> None:
        self.telemetry.say(text)
        self.telemetry.record(self.step, "note", {"text": text}, scalars=False)

    @contextlib.contextmanager
    def timed(self, name: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@contextlib.contextmanager
def _signals():
    """Collects SIGTERM and SIGINT in a list instead of dying; a second one has its usual effect."""
    asked: list[str] = []

    def note(number, frame):
        del frame
        asked.append(signal.Signals(number).name)
        for other, before in previous.items():
            signal.signal(other, before)

    previous = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are someone else's
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


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
