"""Two tiers of checkpoints: frequent saves to the hosts' own disks, rare ones to storage that all
see.

`config.train.local_dir` (a local SSD, or /dev/shm) gets a save every `local_every` steps. Each host
writes the pieces of the state that its devices hold, without waiting for anybody, under

    <local_dir>/<workdir's name>-<its id>/host_0003/checkpoints/<step>/

and keeps the last three. A restart takes the newest complete step of either tier: a local one is
complete when every piece of the state is held by some host whose files match their checksums; hosts
that lost theirs (a replaced machine) get them from replicas, see avjax.checkpoint.replicas. Without
replicas of what was lost, the newest persistent checkpoint is used. A local save that fails is
logged and turns the tier off; training continues.

Orbax has a manager for this (experimental.emergency), whose storage format is used here (every
process writes all of its shards into its own folder). The manager itself is not: it needs replicas
along the first mesh axis, does not handle torn files, and waits for other hosts without a limit.
"""

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.checkpoint.files import (
    CHECKSUMS,
    FOLDER,
    Broken,
    Unreadable,
    find_problem,
    read_meta,
    reading,
    steps_in,
    write_checksums,
)
from avjax.checkpoint.replicas import recoverable, restore_from_replicas
from avjax.errors import StorageError, UserError
from avjax.hosts import distributed
from avjax.storage import lock, paths

ID_FILE = "local_tier.json"
UNREADABLE = "checkpoints_unreadable"
# Of the last three saves all hosts have one in common, even if one host has finished a save while
# another still writes the one before.
KEPT = 3


class LocalCheckpoints(Checkpoints):
    """This process' own pieces in its own folder, without waiting for other processes."""

    def _open(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        handlers = {"state": _handler(),
                    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=_alone())}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep, cleanup_tmp_directories=False, create=False,
            save_root_metadata=False, enable_background_delete=False,
            multiprocessing_options=_alone(),
            enable_per_process_directory_creation=jax.process_count() > 1,
            async_options=ocp.AsyncOptions(timeout_secs=max(1, int(self.save_seconds))))
        self._manager = ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)

    def _bytes(self, state: Any) -> int:
        return local_bytes(state)

    def _write_checksums(self, folder: Path) -> None:
        write_checksums(folder)

    def complete_steps(self) -> list[int]:
        """Steps that were written completely."""
        return [step for step in steps_in(self.folder)
                if (self.folder / str(step) / CHECKSUMS).is_file()]


def local_bytes(state: Any) -> int:
    """Bytes of one local save: every piece on this host's devices once."""
    total = 0
    for x in jax.tree.leaves(state):
        pieces = {tuple((s.start, s.stop) for s in shard.index): shard.data.nbytes
                  for shard in x.addressable_shards}
        total += sum(pieces.values())
    return total


class TieredCheckpoints:
    """The methods of Checkpoints, and `save_local` for the local tier. Call `restore` before any
    save."""

    def __init__(self, persistent: Checkpoints, workdir: Any, local_dir: str, every: int, mesh, *,
                 save_seconds: float = 1200.0):
        """every: steps between local saves."""
        if paths.is_remote(local_dir):
            raise UserError("not a folder of this host", where="config.train.local_dir",
                            expected="a local path", found=local_dir)
        if every < 1:
            raise UserError("how often to save locally?", where="config.train.local_every",
                            expected="steps, at least 1", found=str(every))
        self.persistent = persistent
        self._seconds = save_seconds
        workdir = paths.folder(workdir)
        identity = distributed.on_main("the id of the local tier", lambda: paths.identity(
            workdir, ID_FILE, f"{workdir.name}-{secrets.token_hex(6)}"))
        self.folder = (Path(local_dir).absolute() / identity
                       / f"host_{distributed.process_index():04d}")
        # A copy of a workdir would use the same folder.
        self._held = contextlib.ExitStack()
        try:
            self._held.enter_context(lock.hold(self.folder / lock.NAME, "the local checkpoints in",
                                               self.folder))
        except lock.Busy:
            raise
        except UserError:  # a disk that cannot be written is reported when it is opened
            pass
        self.layout = _layout(mesh)
        self._local: LocalCheckpoints | None = None

    def restore(self, target: Any, warn=print) -> tuple[int, Any, dict] | None:
        """(step, state, meta) of the newest complete checkpoint of both tiers; see
        Checkpoints.restore."""
        kept = self.persistent.steps()
        mine = self._usable(target)
        held = [set(steps) for steps in distributed.gather("local checkpoints", mine)]
        found = None
        for step in sorted(set(kept).union(*held), reverse=True):
            if step in kept:
                found = self.persistent.restore_step(step, target, warn)
            else:
                holders = {host for host, steps in enumerate(held) if step in steps}
                found = self._restore_local(step, target, holders, warn)
            if found:
                break
        if kept and not found:
            raise self.persistent.all_broken(kept)
        self._clear(after=step if found else -1)
        return (step, *found) if found else None

    def _usable(self, target: Any) -> list[int]:
        """Steps of this host's folder that are complete, and of this mesh and model."""
        steps = []
        for step in steps_in(self.folder / FOLDER):
            folder = self.folder / FOLDER / str(step)
            try:
                if ((folder / CHECKSUMS).is_file() and not find_problem(folder, target)
                        and read_meta(folder)["layout"] == self.layout):
                    steps.append(step)
            # A disk that fails for a moment is no reason to delete anything.
            except (StorageError, OSError) as error:
                distributed.log(f"host {distributed.process_index()}: {error}; kept in "
                                f"{self._set_aside(folder)}")
            except (UserError, Broken):  # of another model: `_clear` deletes it
                pass
        return steps

    def _set_aside(self, folder: Path) -> Path:
        aside = folder.parents[1] / UNREADABLE / folder.name
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier start
        aside.parent.mkdir(exist_ok=True)
        return folder.rename(aside)

    def _restore_local(self, step: int, target: Any, holders: set[int],
                       warn) -> tuple[Any, dict] | None:
        if not recoverable(target, lambda device: device.process_index in holders):
            return None
        folder = self.folder / FOLDER / str(step)
        state = meta = None
        error_text = ""
        if distributed.process_index() in holders:
            try:
                state, meta = _read(folder, target), read_meta(folder)
            except (Broken, Unreadable) as error:
                error_text = str(error)
        answers = distributed.gather(f"restored local {step}", error_text)
        if bad := {host: why for host, why in enumerate(answers) if why}:
            reasons = "; ".join(f"host {host}: {why}" for host, why in bad.items())
            warn(f"local checkpoint {step}: {reasons}")
            holders = holders - bad.keys()
            if not recoverable(target, lambda device: device.process_index in holders):
                return None
        recovered = ""
        if lost := sorted(set(range(len(answers))) - holders):
            source = min(holders)
            me = distributed.process_index()
            state = restore_from_replicas(state if me in holders else None, target,
                                          lambda device: device.process_index in holders)
            meta = distributed.gather(f"meta of local {step}",
                                      meta if me == source else None)[source]
            recovered = (f"; {distributed.peers().names(lost)} had lost theirs and got them from "
                         "replicas")
        warn(f"step {step} is from the hosts' own disks{recovered}")
        return state, {k: v for k, v in meta.items() if k != "layout"}

    def _clear(self, after: int) -> None:
        """Deletes local steps after the one that training resumes from: they will be saved
        again."""
        folder = self.folder / FOLDER
        for entry in folder.iterdir() if folder.is_dir() else ():
            # No number: the rest of a save that was killed.
            if not entry.name.isdigit() or int(entry.name) > after:
                shutil.rmtree(entry, ignore_errors=True)
        with self._optional("opening"):
            self._local = LocalCheckpoints(self.folder, keep_last=KEPT, keep_best=0,
                                           save_seconds=self._seconds)

    @contextlib.contextmanager
    def _optional(self, what: str):
        """Turns the local tier off after an error inside."""
        try:
            yield
        except (UserError, StorageError, OSError, distributed.Restart) as error:
            self._local = None
            distributed.log(f"host {distributed.process_index()}: {what} local checkpoints failed, "
                            f"there will be none: {error}")

    def has(self, step: int) -> bool:
        """Whether the persistent tier has this step."""
        return self.persistent.has(step)

    def save_local(self, step: int, state: Any, meta: dict) -> None:
        """Saves to this host's own disk, in the background."""
        if self._local is not None:
            with self._optional("writing"):
                self._local.save(step, state, meta | {"layout": self.layout})

    def save(self, step: int, state: Any, meta: dict, *, rank: float | None = None) -> None:
        self.persistent.save(step, state, meta, rank=rank)

    def latest_step(self) -> int | None:
        """The newest complete step of both tiers."""
        local = self._local.complete_steps() if self._local is not None else []
        steps = [step for step in (self.persistent.latest_step(), *local) if step is not None]
        return max(steps, default=None)

    def poll(self) -> None:
        self.persistent.poll()
        if self._local is not None:
            with self._optional("writing"):
                self._local.poll()

    def wait(self) -> None:
        self.persistent.wait()
        if self._local is not None:
            with self._optional("writing"):
                self._local.wait()

    def close(self) -> None:
        self.persistent.close()
        if self._local is not None:
            with self._optional("closing"):
                self._local.close()
        self._held.close()


def _alone() -> ocp.options.MultiprocessingOptions:
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=None, active_processes={me},
                                              barrier_sync_key_prefix=f"local{me}")


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Writes and reads all pieces that this process' devices hold, as Orbax's emergency checkpoints
    do."""
    if jax.process_count() == 1:
        return ocp.PyTreeCheckpointHandler()
    arrays = ocp.type_handlers.ArrayHandler(primary_host=None, replica_id=None,
                                            use_replica_parallel=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True,
                                       multiprocessing_options=_alone(),
                                       type_handler_registry=registry)


def _read(folder: Path, target: Any) -> Any:
    with reading(folder), contextlib.closing(_handler()) as handler:
        return handler.restore(folder / "state", args=ocp.args.PyTreeRestore(
            item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)))


def _layout(mesh) -> dict:
    """What must be the same for the pieces on a host's disk to be those that its devices need."""
    me = jax.process_index()
    places = [list(map(int, at)) for at, device in np.ndenumerate(mesh.devices)
              if device.process_index == me]
    return {"mesh": dict(mesh.shape), "places": places}
