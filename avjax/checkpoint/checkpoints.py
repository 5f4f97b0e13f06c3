"""Checkpoints of a training loop: Orbax behind one small file.

`<workdir>/checkpoints/<step>/` holds what avjax.checkpoint.files says. A save is atomic. A torn or
corrupt newest checkpoint is set aside with a warning and the one before it is used.

With several processes each writes and reads its own shards of the same folder, on storage they all
see (a network file system or gs://); host 0 verifies, seals and sets aside, and every barrier among
them is timed. avjax.checkpoint.tiers adds frequent saves to the hosts' own disks.
"""

import contextlib
import dataclasses
import logging
import shutil
import sys
import threading
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from avjax.checkpoint.files import (
    COMMIT,
    FOLDER,
    Broken,
    Unreadable,
    meta_or_none,
    problem,
    processes,
    read_arrays,
    read_meta,
    resolve,
    seal,
    settled,
    steps_in,
)
from avjax.checkpoint.loading import load, load_meta, load_params, warm_start
from avjax.errors import StorageError, UserError
from avjax.hosts import distributed
from avjax.hosts.peers import first_line
from avjax.storage import failures, paths

__all__ = ["BROKEN", "FOLDER", "Checkpoints", "host_bytes", "load", "load_meta", "load_params",
           "read_meta", "resolve",
           "warm_start"]

BROKEN = "checkpoints_broken"
_DISK_MARGIN = 1.2  # free space asked for before a save, in sizes of the state

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every file it touches


@dataclasses.dataclass
class _Keep(policies.PreservationPolicy):
    """The last `last` checkpoints and the `best` best-ranked ones. Ranks live in our own meta, so
    that they survive a restart (Orbax's own are kept only under its deprecated options)."""

    last: int
    best: int
    ranks: dict[int, float]  # step -> value, lower is better

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = sorted(info.step for info in checkpoints)
        ranked = sorted((step for step in steps if step in self.ranks),
                        key=lambda step: (self.ranks[step], step))
        keep = set(steps[-max(self.last, 1):]) | set(ranked[:self.best])
        return [info.step in keep for info in checkpoints]


@contextlib.contextmanager
def _restartable():
    try:
        yield
    except Unreadable as error:
        raise distributed.Restart(str(error)) from error


class Checkpoints:
    """The checkpoints of one workdir, for the training loop. Call `poll` every step and `close` at
    the end.

    A save that is not whole after `save_seconds` raises Restart: storage hangs, and starting again
    may mend it.
    """

    def __init__(self, workdir: Any, *, keep_last: int = 2, keep_best: int = 1,
                 best_mode: str = "min",
                 save_seconds: float = 1200.0):
        self.folder, self.save_seconds = paths.folder(workdir) / FOLDER, float(save_seconds)
        check_scheme(self.folder)
        self._began = 0.0  # when the save under way was asked for
        # of this process' part of it, while other processes still wait
        self._error: BaseException | None = None
        self._late = False
        self._sign = {"min": 1.0, "max": -1.0}.get(best_mode)
        if self._sign is None:
            raise UserError("unknown mode", where="config.train.best_mode", expected="min or max",
                            found=best_mode)
        with _restartable():
            ranks = {step: self._sign * meta["rank"] for step in steps_in(self.folder)
                     if (meta := meta_or_none(self.folder / str(step)))
                     and meta.get("rank") is not None}
        self._keep = _Keep(keep_last, keep_best, ranks)
        self._sealer: threading.Thread | None = None
        self._unsealed: list[int] = []
        self._open()

    def _open(self):
        several = distributed.process_count() > 1
        if several and distributed.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier("the checkpoint folder")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep, cleanup_tmp_directories=True, create=not several,
            multiprocessing_options=processes(),
            async_options=ocp.AsyncOptions(timeout_secs=max(1, int(self.save_seconds)),
                                           barrier_sync_fn=self._sync if several else None))
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def _sync(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's barrier between processes, from its threads. Called while an error of this
        process' part is on its way out, it does not wait for those that are still writing theirs:
        the error is for the loop to see."""
        error = sys.exc_info()[1]
        if error is not None:
            self._error = error
            raise error
        distributed.barrier(f"checkpoint, {key}", timeout_ms / 1000)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict, *, rank: float | None = None) -> None:
        """Copies the state off the devices, returns, and writes in the background. `rank` is the
        value of the metric that picks the best. Raises UserError when the disk is full or an
        earlier save failed; the checkpoints already there stay whole."""
        self.wait()
        self._began = time.monotonic()
        self._check_space(self._bytes(state))
        if rank is not None:
            self._keep.ranks[step] = self._sign * rank
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state),
                                  meta=ocp.args.JsonSave(meta | {"rank": rank}))
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._failed(error, step) from error
        self._unsealed.append(step)

    def _bytes(self, state: Any) -> int:
        """What a save adds to the storage."""
        return sum(x.nbytes for x in jax.tree.leaves(state))

    def _check_space(self, size: int) -> None:
        if paths.is_remote(self.folder):
            return
        free = shutil.disk_usage(self.folder).free
        if free < _DISK_MARGIN * size:
            raise UserError("not enough disk space for a checkpoint", where=str(self.folder),
                            expected=f"{_DISK_MARGIN * size / 1e6:.0f} MB",
                            found=f"{free / 1e6:.0f} MB",
                            hint="free space and start again; last whole checkpoint: step "
                            f"{self.latest_step()}")

    def poll(self) -> None:
        """Cheap: notices a finished, failed or late save, and writes its checksums in the
        background."""
        if self._error is not None:
            self._late = True
            raise self._failed(self._error) from self._error
        if self._unsealed and self._manager.is_saving_in_progress():
            if time.monotonic() - self._began > self.save_seconds:
                self._late = True
                raise distributed.Restart(
                    f"saving step {self._unsealed[-1]} has taken longer than "
                    "config.train.save_timeout "
                    f"({self.save_seconds:.0f} s), so the storage of {self.folder} hangs; last "
                    "whole checkpoint: "
                    f"{self._whole(self._unsealed[-1])}")
        elif self._unsealed:
            self._finish()
            steps, self._unsealed = self._unsealed, []
            self._join()
            self._sealer = threading.Thread(target=lambda: [self._seal(self.folder / str(step))
                                                            for step in steps])
            self._sealer.start()

    def _seal(self, folder: Any) -> None:
        if distributed.is_main():
            seal(folder)

    def wait(self) -> None:
        """Until everything saved so far is whole on disk."""
        while self._unsealed and self._manager.is_saving_in_progress():
            self.poll()
            time.sleep(0.002)
        self._finish()
        self.poll()
        self._join()

    def close(self) -> None:
        if self._late:  # its threads cannot be waited for
            return
        try:
            self.wait()
        finally:
            if not self._late:
                self._manager.close()

    def _join(self):
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None

    def _finish(self):
        """Joins a save that is over; raises what went wrong in it. (Orbax's check_for_errors would
        not do: its own thread has fetched the error before.)"""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException, step: int | None = None) -> BaseException:
        step = step if step is not None else self._unsealed[-1] if self._unsealed else -1
        if isinstance(error, distributed.Restart):
            return error
        if distributed.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError
                                                          | TimeoutError):
            return distributed.Restart(f"saving step {step} failed, most likely for want of "
                                       "another host: "
                                       f"{first_line(error)}; last whole checkpoint: "
                                       f"{self._whole(step)}")
        where, whole = f"{self.folder}, step {step}", f"last whole checkpoint: {self._whole(step)}"
        if known := failures.explained(error, self.folder):
            self._clear_up(step)
            kind = UserError if known.code == distributed.USER else StorageError
            return kind("saving a checkpoint failed", where=where,
                        found=f"{type(error).__name__}: {known.found}",
                        hint=f"{known.hint}; {whole}")
        return UserError("saving a checkpoint failed", where=where, found=first_line(error),
                         hint=f"fix the folder and start again; {whole}")

    def _clear_up(self, step: int) -> None:
        """Removes what Orbax wrote of a save that failed (other processes may still be writing
        theirs)."""
        if distributed.process_count() == 1 and not paths.is_remote(self.folder):
            for left in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)

    def _whole(self, but: int) -> str:
        """The newest checkpoint other than the one being written, in words."""
        try:
            whole = [s for s in steps_in(self.folder) if s != but]
        except Unreadable:
            return "not known"
        return f"step {whole[-1]}" if whole else "none"

    @_restartable()
    def steps(self) -> list[int]:
        """Committed checkpoints, oldest first: the same on every host, or a UserError."""
        seen = settled(f"steps in {FOLDER}/", lambda: steps_in(self.folder))
        steps = seen[distributed.process_index()]
        distributed.agree({f"steps in {FOLDER}/": steps}, "checkpoints")
        return steps

    @_restartable()
    def has(self, step: int) -> bool:
        return step in steps_in(self.folder)

    def restore(self, target: Any, warn=print) -> tuple[int, Any, dict] | None:
        """(step, state, meta) of the newest whole checkpoint, laid out like `target` (abstract,
        with shardings), or None when there is none. Broken ones are moved to `checkpoints_broken`,
        with a call of `warn`.

        Raises UserError for a checkpoint of another model, naming the first parameter that differs,
        when every checkpoint is broken, and when hosts see different ones; Restart when the storage
        does not let them be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            if found := self.restore_step(step, target, warn):
                return step, *found
        if steps:
            raise self.all_broken(steps)
        return None

    @_restartable()
    def restore_step(self, step: int, target: Any, warn=print) -> tuple[Any, dict] | None:
        """(state, meta) of one checkpoint, or None when it was broken and has been set aside."""
        folder = self.folder / str(step)
        wrong = distributed.on_main(f"verify checkpoint {step}", lambda: problem(folder, target))
        if not wrong:
            try:
                state, meta = read_arrays(folder, target), read_meta(folder)
            except Broken as error:
                wrong = str(error)
            wrong = next(filter(None, distributed.gather(f"restored {step}", wrong)), "")
        if not wrong:
            return state, meta
        warn(f"checkpoint {step} is broken ({wrong}); moved to {self._set_aside(step)}; trying the "
             "one before it")
        return None

    def all_broken(self, steps: list[int]) -> UserError:
        return UserError("no whole checkpoint is left", where=str(self.folder),
                         found=f"broken: {steps}", hint=f"look into {BROKEN}, or start in a new "
                                                        "workdir")

    def _set_aside(self, step: int) -> str:
        """Where it is now."""
        self._manager.close()
        aside = distributed.on_main(f"set aside checkpoint {step}",
                                    lambda: _move(self.folder / str(step), BROKEN))
        self._open()
        return aside


def _move(folder: Any, aside: str) -> str:
    """Takes a step out of sight, into the folder `aside` of its workdir; returns where it is.
    Nothing is lost on the way."""
    target = folder.parent.parent / aside / folder.name
    while target.exists():
        target = target.with_name(target.name + "_again")
    if paths.is_remote(folder):
        paths.copy_in(folder, target)
        (folder / COMMIT).unlink(missing_ok=True)  # Orbax now deletes what was copied
    else:
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder, target)
    return str(target)


def check_scheme(folder: Any) -> None:
    """UserError for an object store that Orbax cannot write to."""
    if paths.is_remote(folder) and not str(folder).startswith("gs://"):
        raise UserError("checkpoints cannot be written there", where=str(folder),
                        expected="a local path or gs://BUCKET/...",
                        hint="mount the bucket as a folder, or train elsewhere and copy; reading "
                        "from there works")


def host_bytes(state: Any) -> int:
    """Bytes that one save copies from the devices into this host's memory: one replica of what its
    devices hold."""
    return sum(shard.data.nbytes for x in jax.tree.leaves(state) for shard in x.addressable_shards
               if shard.replica_id == 0)
