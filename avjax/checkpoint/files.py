"""The files of one checkpoint: `state/` (Orbax's arrays), `meta/` (JSON) and, on local disks,
`checksums.json`.

On a local disk a checkpoint is complete when Orbax has renamed it to its number; checksums (CRC-32
of every file) detect later damage. An object store has no renaming and keeps its own checksums:
there, Orbax's commit file marks a checkpoint whose objects are all written.
"""

import contextlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from avjax.errors import StorageError, UserError
from avjax.hosts import distributed
from avjax.hosts.peers import first_line
from avjax.sharding.rules import named_leaves
from avjax.storage import failures, paths

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
COMMIT = "commit_success.txt"
# Seconds between looks: a network file system shows other hosts' files up to a minute late.
PAUSES = (1, 2, 4, 8, 16, 32)

# Errors of the storage, not of the files: errors of these packages (a missing object is a
# FileNotFoundError), and errors with these words, with which TensorStore's ValueErrors begin.
_STORES = ("aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs")
_OUTAGE = re.compile(
    "RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|ABORTED|"
    r"CANCELLED|Forbidden|\b(401|403|408|429|5\d\d)('\]| [A-Z])")


class Broken(Exception):
    """An incomplete or damaged checkpoint."""


class Unreadable(StorageError):
    """The storage fails or denies access, so it is unknown whether the checkpoint is complete."""


@contextlib.contextmanager
def reading(folder: Any) -> Iterator[None]:
    """Turns an error inside into Unreadable or Broken, except a lack of memory or an error of the
    runtime."""
    try:
        yield
    except (Broken, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if _outage(error):
            raise Unreadable("the checkpoint cannot be read now", where=str(folder),
                             found=first_line(error), hint="look after the storage and its "
                             "permissions, and start again") from error
        raise Broken(first_line(error)) from error


def _outage(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is the storage's."""
    return failures.fault(error) is not None or error is not None and (
        isinstance(error, PermissionError | ConnectionError | TimeoutError)
        or type(error).__module__.partition(".")[0] in _STORES
        or _OUTAGE.search(str(error)) is not None
        or _outage(error.__cause__ or error.__context__))


def steps_in(folder: Any) -> list[int]:
    """Committed checkpoints, oldest first. Raises Unreadable."""
    try:
        with reading(folder):
            return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()
                          and (not paths.is_remote(p) or _committed(p)))
    except Broken:  # no such folder
        return []


def _committed(folder: Any) -> bool:
    """Whether an object store has all of it; `exists` would take an outage for False."""
    try:
        (folder / COMMIT).stat()
    except FileNotFoundError:
        return False
    return True


def retry_until_stable(name: str, look: Callable[[], Any]) -> list[Any]:
    """Calls `look` on every host until all results (JSON) are the same, for about a minute; returns
    the last results, one per host."""
    for pause in (0, *PAUSES):
        time.sleep(pause)
        seen = distributed.gather(name, look())
        if seen.count(seen[0]) == len(seen):
            break
    return seen


def write_checksums(folder: Any) -> None:
    """Writes checksums.json, unless retention has deleted the checkpoint."""
    if not paths.is_remote(folder) and folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
        paths.write_text(folder / CHECKSUMS,
                         json.dumps({str(p.relative_to(folder)): _crc(p) for p in files}))


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def verify(folder: Any) -> None:
    """Raises Broken when a file is missing or changed. A checkpoint without checksums, because of a
    kill or in an object store, passes: only Orbax's own structure check is left then."""
    if paths.is_remote(folder):
        with reading(folder):
            if not _committed(folder):
                raise Broken(f"{COMMIT} is missing")
        return
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
    except FileNotFoundError:
        return
    except ValueError as error:
        raise Broken(f"{CHECKSUMS} is unreadable") from error
    for name, crc in sums.items():
        if not (folder / name).is_file():
            raise Broken(f"{name} is missing")
        if _crc(folder / name) != crc:
            raise Broken(f"{name} does not match its checksum")


def read_meta(folder: Any) -> dict:
    """The JSON saved beside the arrays: {"config", "system", "recipes", "data", "rank", ...}."""
    with reading(folder):
        return json.loads((folder / "meta" / "metadata").read_text())


def meta_or_none(folder: Any) -> dict | None:
    try:
        return read_meta(folder)
    except Broken:
        return None


def processes(*, alone: bool = False) -> ocp.options.MultiprocessingOptions:
    """Orbax's options for all processes together, with barriers of limited time, or this one
    alone."""
    if alone and jax.process_count() > 1:
        me = jax.process_index()
        return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    count = distributed.process_count()
    return ocp.options.MultiprocessingOptions(active_processes=set(range(count)) if count > 1
                                              else None)


def handler(*, alone: bool) -> contextlib.closing:
    """Reads like `reader`, but waits for no other process, so that its errors are this one's, and
    hides no error."""
    options = processes(alone=alone)
    return contextlib.closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=options))


def reader(*, alone: bool) -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(),
                            multiprocessing_options=processes(alone=alone))


def saved_shapes(folder: Any) -> dict[str, tuple]:
    """{name of an array: (shape, dtype)}, without reading any. Raises Broken, Unreadable."""
    with reading(folder), handler(alone=True) as h:
        tree = h.metadata(folder / "state").tree
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(tree)}


def check_same_model(folder: Any, target: Any, *, partial: bool,
                     saved: dict[str, tuple] | None = None) -> None:
    """Raises UserError when the checkpoint's arrays differ from `target`'s, naming the first one;
    Broken, Unreadable.

    Older checkpoints have averages of frozen parameters, too, which do not differ from them and are
    not read. With `partial`, `target` has each parameter once, among "params" or "ema", and those
    that were kept in 16 bits may be wanted in 32. `saved`: `saved_shapes`, where they are known.
    """
    saved = saved_shapes(folder) if saved is None else saved
    wanted = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(target)}
    found = {name: shape for name, shape in saved.items() if name in wanted
             or not name.startswith("ema/")}
    if partial:
        averaged = {f"params/{name[4:]}" for name in wanted if name.startswith("ema/")}
        found = {name: (shape, wanted[name][1] if name in wanted and dtype == "bfloat16" else dtype)
                 for name, (shape, dtype) in found.items() if name in wanted
                 or name.startswith("params/") and name not in averaged}
    # Parameters first: they explain more than an optimiser state that differs as well.
    for name in sorted(wanted.keys() | found.keys(),
                       key=lambda n: (not n.startswith(("params", "ema")), n)):
        if wanted.get(name) != found.get(name):
            expected, actual = (f"{x[name][0]} {x[name][1]}" if name in x else "absent"
                                for x in (wanted, found))
            raise UserError("the checkpoint is of another model or optimiser",
                            where=f"{folder}, {name}", expected=f"{expected} (the config's)",
                            found=f"{actual} (the checkpoint's)",
                            hint="use the config that made it, or another workdir")


def find_problem(folder: Any, target: Any) -> str:
    """Why a checkpoint is broken; "" where it is not. Raises UserError when it is of another model;
    Unreadable."""
    try:
        verify(folder)
        check_same_model(folder, target, partial=False)
        read_meta(folder)
    except Broken as error:
        return str(error)
    return ""


def read_arrays(folder: Any, target: Any, *, alone: bool = False) -> Any:
    """The arrays of `target`, with its shardings and types. With `alone`, for this process alone.
    Raises Broken, Unreadable."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    with reading(folder), handler(alone=alone) as h:
        return h.restore(folder / "state", args=ocp.args.PyTreeRestore(
            item=target, restore_args=restore_args, partial_restore=True))


def resolve(path: Any, step: int | str | None = None) -> Any:
    """The folder of one checkpoint. `path` is a workdir, its `checkpoints` folder, or one
    checkpoint, local or a URL; `step` a number, "best" (by the metric it was trained with) or None
    for the newest."""
    path = paths.folder(path)
    if (path / "state").is_dir():
        return path
    folder = path if path.name == FOLDER else path / FOLDER
    steps = steps_in(folder)
    if not steps:
        raise UserError("no checkpoint here", where=str(path),
                        expected=f"a workdir of avjax train, with {FOLDER}/<step>/ inside",
                        found="no such folder" if not path.exists() else "none", hint="train first")
    if step == "best":
        metas = {s: meta_or_none(folder / str(s)) or {} for s in steps}
        ranked = {s: m["rank"] * (-1 if m.get("best_mode") == "max" else 1)
                  for s, m in metas.items() if m.get("rank") is not None}
        return folder / str(min(ranked, key=ranked.get) if ranked else steps[-1])
    if step is not None and str(step) not in map(str, steps):
        raise UserError("no such checkpoint", where=str(folder),
                        expected=f"one of the steps {steps}", found=str(step))
    return folder / str(steps[-1] if step is None else int(step))
