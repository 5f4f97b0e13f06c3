"""What a training job begins with: checked settings, its checkpoints, and a restored or new
state."""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from avjax.checkpoint.checkpoints import Checkpoints, warm_start
from avjax.checkpoint.tiers import TieredCheckpoints
from avjax.errors import UserError
from avjax.hosts import environment
from avjax.sharding.mesh import check_batch
from avjax.training.optimizer import Optimizer
from avjax.training.phases import PhaseTimer
from avjax.training.state import State, init_state, new_average


@dataclasses.dataclass
class Start:
    """The state of step `step`, and what else a checkpoint of that step holds.

    Attributes:
      position: the loader's state; None = from the beginning.
      due: names of evaluators that a stop came before.
      notes: lines for the user and the record.
    """

    step: int
    state: State
    position: Any = None
    due: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def check_settings(config, mesh: Mesh) -> None:
    """Raises UserError for settings that cannot train, before anything is written."""
    environment.check()
    if config.train.nan_policy not in ("stop", "skip"):
        raise UserError("unknown policy", where="config.train.nan_policy",
                        expected="stop or skip", found=repr(config.train.nan_policy))
    check_batch(config.data.batch_size, mesh, accumulate=config.optimizer.accumulate)


def check_steps(reached: int, total: int, workdir: Any) -> None:
    """Raises UserError when a workdir has been trained further than `total` steps."""
    if reached > total:
        raise UserError("training is further than that already",
                        where=f"config.train.steps, {workdir}", found=str(total),
                        expected=f"at least {reached}, the step of the newest checkpoint",
                        hint="ask for as many steps or more, or use another --workdir")


def open_checkpoints(t, workdir: Path, mesh: Mesh) -> Checkpoints | TieredCheckpoints:
    """The workdir's checkpoints; with a tier on the hosts' own disks where config.train (`t`) asks
    for one."""
    checkpoints = Checkpoints(workdir, keep_last=t.keep_last, keep_best=t.keep_best,
                              best_mode=t.best_mode, save_seconds=t.save_timeout)
    if not t.local_dir:
        return checkpoints
    return TieredCheckpoints(checkpoints, workdir, t.local_dir, t.local_every, mesh,
                             save_seconds=t.save_timeout)


def restore_or_init(config, system, optimizer: Optimizer, target: State, checkpoints,
                    workdir: Path, mesh: Mesh, timer: PhaseTimer) -> Start:
    """The newest complete checkpoint, or a new state at step 0 (warm-started where the config
    says).

    Args:
      target: the abstract state, with shardings.
    """
    notes: list[str] = []
    with timer.phase("restore", watched_as="start"):
        found = checkpoints.restore(target, warn=notes.append)
    with timer.phase("start"):
        if not found:
            return Start(0, _new_state(config, system, optimizer, mesh, notes), notes=notes)
        step, state, saved = found
        check_steps(step, int(config.train.steps), workdir)
        notes += environment.compare(saved.get("environment", {}), f"step {step}")
        notes.append(f"resuming from step {step}")
        return Start(step, state, saved["data"], saved.get("due", []), notes)


def _new_state(config, system, optimizer: Optimizer, mesh: Mesh, notes: list[str]) -> State:
    t = config.train
    ema = config.optimizer.ema_decay > 0
    state = init_state(system, optimizer, mesh, seed=config.seed, ema=ema)
    params = state["params"]
    sources = [("", t.init_from, "")] if t.init_from else []
    for into, path, of in [*sources, *t.init_parts]:
        params, note = warm_start(params, path, include=t.init_include, into=into, of=of)
        notes.append(note)
    if notes and ema:
        state["ema"] = new_average(params, optimizer)
    state["params"] = params
    return state
