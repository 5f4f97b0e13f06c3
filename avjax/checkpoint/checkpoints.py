"""Checkpoints of a training loop: Orbax behind one small file.

For `<workdir>/checkpoints/<step>/` see avjax.checkpoint.files. A save is atomic. A torn or corrupt
newest checkpoint is set aside with a warning, and the one before it is used.

Several processes each write and read their own shards of the same folder, on storage they all see
(a network file system or gs://). Host 0 verifies checkpoints, writes their checksums and sets
broken ones aside; every barrier has a time limit. avjax.checkpoint.tiers adds frequent saves to the
hosts' own disks.
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
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from avjax.checkpoint.files import (
    COMMIT,
    FOLDER,
    Broken,
    Unreadable,
    find_problem,
    meta_or_none,
    processes,
    read_arrays,
    read_meta,
    resolve,
    retry_until_stable,
    steps_in,
    write_checksums,
)
from avjax.checkpoint.loading import Damaged, load, load_meta, load_params, warm_start
from avjax.errors import StorageError, UserError
from avjax.hosts import distributed
from avjax.hosts.peers import first_line
from avjax.storage import failures, paths

__all__ = ["BROKEN", "FOLDER", "Checkpoints", "Damaged", "host_bytes", "load", "load_meta",
           "load_params", "read_meta", "resolve", "steps_in", "warm_start"]

BROKEN = "checkpoints_broken"
_DISK_MARGIN = 1.2  # free space required before a save, in sizes of the state
# Bytes (ours by choice): replicas write a share each of larger pieces. Of smaller ones the first
# writes all, since each shape of a share is a program to compile before the first save.
_SHARED = 1 << 20

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every file it touches


@dataclasses.dataclass
class _KeepLastAndBest(policies.PreservationPolicy):
    """Keeps the last `last` checkpoints and the `best` best-ranked ones.

    Ranks are in our own meta, so that they survive a restart; Orbax keeps its own only under
    deprecated options.

    Attributes:
      ranks: step -> value, lower is better.
    """

    last: int
    best: int
    ranks: dict[int, float]

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


def _writer() -> ocp.PyTreeCheckpointHandler:
    """Orbax's own handler of trees, whose replicas share the writing of large pieces only."""
    of = ocp.type_handlers
    numbers = of.ScalarHandler()
    return ocp.PyTreeCheckpointHandler(
        multiprocessing_options=processes(),
        type_handler_registry=of.create_type_handler_registry(
            (int, numbers), (float, numbers), (np.number, numbers), (np.ndarray, of.NumpyHandler()),
            (jax.Array, of.ArrayHandler(min_slice_bytes_for_replica_parallel=_SHARED))))


class Checkpoints:
    """The checkpoints of one workdir, for the training loop. Call `poll` every step and `close` at
    the end.

    A save that is incomplete after `save_seconds` raises Restart: the storage hangs, and a new
    start may help.
    """

    def __init__(self, workdir: Any, *, keep_last: int = 2, keep_best: int = 1,
                 best_mode: str = "min", save_seconds: float = 1200.0):
        self.folder = paths.folder(workdir) / FOLDER
        self.save_seconds = float(save_seconds)
        check_scheme(self.folder)
        self._began = 0.0  # when the current save began
        self._error: BaseException | None = None  # of this process' part, while others still wait
        self._abandoned = False  # a save whose threads cannot be waited for
        self._sign = {"min": 1.0, "max": -1.0}.get(best_mode)
        if self._sign is None:
            raise UserError("unknown mode", where="config.train.best_mode", expected="min or max",
                            found=best_mode)
        with _restartable():
            ranks = {step: self._sign * meta["rank"] for step in steps_in(self.folder)
                     if (meta := meta_or_none(self.folder / str(step)))
                     and meta.get("rank") is not None}
        self._keep = _KeepLastAndBest(keep_last, keep_best, ranks)
        self._checksum_writer: threading.Thread | None = None
        self._saving: list[int] = []  # steps without checksums yet
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
        handlers = {"state": _writer(),
                    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=processes())}
        self._manager = ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)

    def _sync(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's barrier between processes, called from its threads. While an error of this
        process' part is raised it does not wait for the others, so that the loop sees the error."""
        error = sys.exc_info()[1]
        if error is not None:
            self._error = error
            raise error
        distributed.barrier(f"checkpoint, {key}", timeout_ms / 1000)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict, *, rank: float | None = None) -> None:
        """Copies the state off the devices and writes it in the background.

        Args:
          rank: the value of the metric that picks the best checkpoint.

        Raises UserError when the disk is full or an earlier save failed; existing checkpoints stay
        complete.
        """
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
            raise self._save_error(error, step) from error
        self._saving.append(step)

    def _bytes(self, state: Any) -> int:
        """How many bytes a save adds to the storage."""
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
        """Notices a finished, failed or late save, and writes checksums in the background.
        Cheap."""
        if self._error is not None:
            self._abandoned = True
            raise self._save_error(self._error) from self._error
        if self._saving and self._manager.is_saving_in_progress():
            if time.monotonic() - self._began > self.save_seconds:
                self._abandoned = True
                step = self._saving[-1]
                raise distributed.Restart(
                    f"saving step {step} has taken longer than config.train.save_timeout "
                    f"({self.save_seconds:.0f} s), so the storage of {self.folder} hangs; last "
                    f"whole checkpoint: {self._newest_complete(but=step)}")
        elif self._saving:
            self._finish()
            folders = [self.folder / str(step) for step in self._saving]
            self._saving = []
            self._join()
            self._checksum_writer = threading.Thread(
                target=lambda: [self._write_checksums(folder) for folder in folders])
            self._checksum_writer.start()

    def _write_checksums(self, folder: Any) -> None:
        if distributed.is_main():
            write_checksums(folder)

    def wait(self) -> None:
        """Waits until everything saved so far is complete on disk."""
        while self._saving and self._manager.is_saving_in_progress():
            self.poll()
            time.sleep(0.002)
        self._finish()
        self.poll()
        self._join()

    def close(self) -> None:
        if self._abandoned:  # its threads cannot be waited for
            return
        try:
            self.wait()
        finally:
            if not self._abandoned:
                self._manager.close()

    def _join(self):
        if self._checksum_writer is not None:
            self._checksum_writer.join()
            self._checksum_writer = None

    def _finish(self):
        """Joins a finished save and raises its error. (Orbax's check_for_errors does not help: its
        own thread has fetched the error before.)"""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._save_error(error) from error

    def _save_error(self, error: BaseException, step: int | None = None) -> BaseException:
        step = step if step is not None else self._saving[-1] if self._saving else -1
        if isinstance(error, distributed.Restart):
            return error
        if distributed.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError
                                                          | TimeoutError):
            return distributed.Restart(
                f"saving step {step} failed, most likely for want of another host: "
                f"{first_line(error)}; last whole checkpoint: {self._newest_complete(but=step)}")
        where = f"{self.folder}, step {step}"
        whole = f"last whole checkpoint: {self._newest_complete(but=step)}"
        if known := failures.explained(error, self.folder):
            self._clear_up(step)
            kind = UserError if known.code == distributed.USER else StorageError
            return kind("saving a checkpoint failed", where=where,
                        found=f"{type(error).__name__}: {known.found}",
                        hint=f"{known.hint}; {whole}")
        return UserError("saving a checkpoint failed", where=where, found=first_line(error),
                         hint=f"fix the folder and start again; {whole}")

    def _clear_up(self, step: int) -> None:
        """Removes what Orbax wrote of a failed save, unless other processes may still be
        writing."""
        if distributed.process_count() == 1 and not paths.is_remote(self.folder):
            for rest in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(rest, ignore_errors=True)

    def _newest_complete(self, *, but: int) -> str:
        """The newest checkpoint other than `but`, which is being written, for a message."""
        try:
            complete = [step for step in steps_in(self.folder) if step != but]
        except Unreadable:
            return "not known"
        return f"step {complete[-1]}" if complete else "none"

    @_restartable()
    def steps(self) -> list[int]:
        """Committed checkpoints, oldest first. Raises UserError where hosts see different ones."""
        seen = retry_until_stable(f"steps in {FOLDER}/", lambda: steps_in(self.folder))
        steps = seen[distributed.process_index()]
        distributed.agree({f"steps in {FOLDER}/": steps}, "checkpoints")
        return steps

    @_restartable()
    def has(self, step: int) -> bool:
        return step in steps_in(self.folder)

    def restore(self, target: Any, warn=print) -> tuple[int, Any, dict] | None:
        """(step, state, meta) of the newest complete checkpoint, or None when there is none.

        Broken checkpoints are moved to `checkpoints_broken`, with a call of `warn`.

        Args:
          target: the abstract state, with shardings.

        Raises:
          UserError: a checkpoint of another model (names the first parameter that differs), only
            broken checkpoints, or hosts that see different ones.
          Restart: the storage cannot be read now.
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
        wrong = distributed.on_main(f"verify checkpoint {step}",
                                    lambda: find_problem(folder, target))
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
                         found=f"broken: {steps}",
                         hint=f"look into {BROKEN}, or start in a new workdir")

    def _set_aside(self, step: int) -> str:
        """Returns where the checkpoint is now."""
        self._manager.close()
        aside = distributed.on_main(f"set aside checkpoint {step}",
                                    lambda: _move(self.folder / str(step), BROKEN))
        self._open()
        return aside


def _move(folder: Any, aside: str) -> str:
    """Moves a checkpoint into the folder `aside` of its workdir, losing nothing on the way; returns
    where it is."""
    target = folder.parent.parent / aside / folder.name
    while target.exists():
        target = target.with_name(target.name + "_again")
    if paths.is_remote(folder):
        paths.copy_in(folder, target)
        (folder / COMMIT).unlink(missing_ok=True)  # so that Orbax deletes what was copied
    else:
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder, target)
    return str(target)


def check_scheme(folder: Any) -> None:
    """Raises UserError for an object store that Orbax cannot write to."""
    if paths.is_remote(folder) and not str(folder).startswith("gs://"):
        raise UserError("checkpoints cannot be written there", where=str(folder),
                        expected="a local path or gs://BUCKET/...",
                        hint="mount the bucket as a folder, or train elsewhere and copy; reading "
                        "from there works")


def host_bytes(state: Any) -> int:
    """Bytes that a save copies from this host's devices into its memory: one replica of what they
    hold."""
    return sum(shard.data.nbytes for x in jax.tree.leaves(state) for shard in x.addressable_shards
               if shard.replica_id == 0)
