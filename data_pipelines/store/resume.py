"""Writing a dataset, and resuming after a kill: a hidden folder that becomes the dataset in one
rename.

A `Partial` without arguments belongs to one process and is removed after any error. With arguments
it is resumable: finished shards survive a kill, and a restart with the same arguments continues
after them. A UserError removes the folder, since a restart would fail at the same input, unless
something else may be the cause (failing storage, a full disk, memory), or `keep` is set.

    .NAME.partial/journal.jsonl  a line of the arguments, then one for every finished shard and
                                 split, synchronised only after the shard
    .NAME.partial/fitted/*.npz   fitted before the first example; a restart uses the very same
    .NAME.partial/data/          becomes the dataset
    .NAME.partial/lock           held by the job that writes

A kill loses what followed the last closed shard; that is computed again. A restart skips as many
items as the journal counts and deletes every file that is not in it, so nothing is there twice.
Several jobs can share the work: merge.py.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Collection

import numpy as np

from avjax.errors import StorageError, UserError
from avjax.storage import atomic, failures, lock, made
from data_pipelines.store import made_from, merge
from data_pipelines.store.merge import JOURNAL, Part


class Partial:
    """Context manager of a dataset that is being written: fill `data`, then call `finish`.

    Args:
      out_dir: the dataset's folder, which must not exist; or a Part of it.
      arguments: JSON values, everything that decides what is written. None: not resumable.
      paths: names of the arguments that are paths. They may be moved meanwhile; their content is
        for other arguments, or `expect`.

    Raises:
      UserError: the folder exists, another job is writing it, or an interrupted one had other
        arguments.
    """

    def __init__(self, out_dir, arguments: dict | None = None, paths: Collection[str] = ()):
        self.part = out_dir if isinstance(out_dir, Part) else None
        self.out_dir = pathlib.Path(out_dir).absolute()
        self.resumable = arguments is not None
        if self.part and not self.resumable:
            raise TypeError("a part belongs to a job that can be continued")
        self._arguments, self._paths = json.loads(json.dumps(arguments)), paths
        name = f".{self.out_dir.name}.partial"
        self.shared = self.out_dir.with_name(name if self.resumable
                                             else f"{name}-{socket.gethostname()}-{os.getpid()}")
        self.dir = self.shared / self.part.folder if self.part else self.shared
        self.data = self.dir / "data" if self.resumable else self.dir
        self._records, self._lock = [], None
        # whether finished shards outlive a UserError, because another attempt may succeed
        self.keep = False

    def __enter__(self) -> "Partial":
        with failures.working_on(self.dir):
            return self._begin()

    def _begin(self) -> "Partial":
        clean(self.out_dir)
        refuse_existing(self.out_dir)
        self.out_dir.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(self.out_dir)
        if not self.resumable:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir.mkdir()
            return self
        self.shared.mkdir(exist_ok=True)
        self._check_parts()
        self.data.mkdir(parents=True, exist_ok=True)
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(lock.hold(self.dir / "lock", "the dataset", self.out_dir,
                                           again=False))
        try:
            self._continue()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind, error, trace):
        if self._lock:
            self._lock.close()
        if self.part and kind is None:
            return  # it waits for the others
        wanted = kind and (self.keep or self._whole or not issubclass(kind, UserError)
                           or _in_doubt(error))
        new = isinstance(error, Exception) and not isinstance(error, UserError | StorageError)
        known = failures.explained(error, self.dir) if new else None
        if not (self.resumable and wanted and (len(self._records) > 1 or self._fitted)):
            shutil.rmtree(self.dir, ignore_errors=True)
            if kind and not self.part:
                made_from.withdraw(self.out_dir)
            if self.part and not any(self.shared.glob("part-*")):  # nobody else's work is there
                shutil.rmtree(self.shared, ignore_errors=True)
        if known:
            raise known from error

    def once(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of `make()`, which is called once; later calls and restarts read its file."""
        path = self.shared / "fitted" / f"{name}.npz"
        if not self.resumable:
            return make()
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with merge.lock(path.with_suffix(".lock"), wait=True):  # one of several parts makes it
                if not path.exists():
                    arrays = make()
                    with atomic.file(path) as temporary, open(temporary, "wb") as file:
                        np.savez(file, **arrays)
                        _synchronise(file)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def expect(self, encoders: dict) -> None:
        """Raises UserError unless `encoders` (JSON) are those of the first job that wrote here."""
        before = next((r["made"] for r in self._records if "made" in r), None)
        if self.part:
            before = made.agree(self.shared / "expected.json", encoders)
        if before is None:
            self._add({"made": encoders})
        elif differ := made.differing(before, encoders):
            self.keep = True
            what, former = "with other encoders", "the former weights"
            if differ == ["apart"]:  # what lies beside the shards is for the program to decide
                what, former = "in another layout", "the version of avjax that began it"
            raise UserError(f"an interrupted job wrote this {what}", where=str(self.dir),
                            found=f"other {', '.join(differ)}",
                            hint=f"delete that folder to begin anew, or bring {former} back")

    def commit(self, record: dict) -> None:
        """Adds a record to the journal; its "file" of `data`, if it has one, is finished, and what
        is "beside" it (frames.py) is synchronised."""
        if self.resumable and record.get("file"):
            with open(self.data / record["file"], "rb") as file:
                os.fsync(file.fileno())
            record = record | {"bytes_on_disk": (self.data / record["file"]).stat().st_size}
        self._add(record)

    def records(self, split: str) -> list[dict]:
        """The committed records of a split, in order."""
        return [r for r in self._records if r.get("split") == split]

    def join(self, records: list[dict], record: dict) -> None:
        """Replaces the files of `records` by `record["file"]`, which has their content."""
        self.commit(record | {"joins": [r["file"] for r in records]})
        self._records = merge.joined(self._records)
        for file in (file for old in records for file in merge.files(old)):
            (self.data / file).unlink()

    def rename(self, names: dict[str, str]) -> None:
        """Gives finished files of `data` their final names; a restart undoes that."""
        self._add({"names": names})
        for file, final in names.items():
            os.rename(self.data / file, self.data / final)

    def finish(self) -> None:
        """Renames `data` to the dataset's folder."""
        made_from.enclose(self.out_dir, self.data)
        try:
            os.rename(self.data, self.out_dir)
        except OSError as error:
            raise UserError("cannot move the finished dataset into place", where=str(self.out_dir),
                            found=str(error),
                            hint="is another job writing the same folder?") from error

    def whole(self) -> None:
        """Marks this part as complete."""
        if not self._whole:
            self._add({"whole": True})

    @property
    def _whole(self) -> bool:
        return any(r.get("whole") for r in self._records)

    @property
    def _fitted(self) -> bool:
        return not self.part and any((self.dir / "fitted").glob("*.npz"))

    def _check_parts(self) -> None:
        """Raises UserError unless the interrupted job had as many parts and the same arguments."""
        file = self.shared / "parts.json"
        now = {"arguments": self._arguments, "parts": self.part.count if self.part else 1}
        if self.part and (self.shared / JOURNAL).exists():
            before = {"arguments": self._arguments, "parts": 1}
        elif self.part or file.exists():
            before = made.agree(file, now)
        else:
            return
        if before["parts"] != now["parts"]:
            raise UserError("an interrupted job was cut up otherwise", where=str(self.shared),
                            expected=f"{before['parts']} parts", found=str(now["parts"]),
                            hint="continue it as it was, or delete that folder to begin anew")
        self._same(before["arguments"])

    def renew(self) -> None:
        """Starts this job or part over, except for fitted arrays: its finished shards are out of
        date."""
        (self.dir / JOURNAL).unlink()
        self._continue()

    def _continue(self) -> None:
        """Reads the journal up to its first missing file, and deletes files that are not in it."""
        path = self.dir / JOURNAL
        records = merge.journal(path)
        if records:
            self._same(records[0].get("arguments") or {})
        for record in records:
            for file, final in record.get("names", {}).items():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.data / final, self.data / file)
        records = [r for r in records if "names" not in r]
        self._records = records[:1] or [{"arguments": self._arguments}]
        for record in merge.joined(records[1:], self._is_there):
            if record.get("file") and not self._is_there(record):
                break
            self._records.append(record)
        known = {file for r in self._records if r.get("file") for file in merge.files(r)}
        for file in self.data.iterdir():
            if file.name not in known:
                file.unlink() if file.is_file() else shutil.rmtree(file)
        with atomic.file(path) as temporary, open(temporary, "w") as file:
            file.writelines(json.dumps(r) + "\n" for r in self._records)
            _synchronise(file)

    def _same(self, before: dict) -> None:
        """Raises UserError when the interrupted job had other arguments."""
        made.check(before, self._arguments, names=made.differing(before, self._arguments,
                                                                 self._paths),
                   what="an interrupted job was writing this with other arguments", where=self.dir,
                   hint="repeat those to continue it, or delete that folder to begin anew")

    def _is_there(self, record: dict) -> bool:
        """Whether a finished file is there with its recorded size, and what is beside it."""
        sizes = [record["bytes_on_disk"], *record.get("beside", {}).values()]
        paths = [self.data / file for file in merge.files(record)]
        return all(path.is_file() and path.stat().st_size == size
                   for path, size in zip(paths, sizes, strict=True))

    def _add(self, record: dict) -> None:
        self._records.append(record)
        if self.resumable:
            with open(self.dir / JOURNAL, "a") as file:
                file.write(json.dumps(record) + "\n")
                _synchronise(file)


def _in_doubt(error: BaseException) -> bool:
    """Whether a UserError may have another cause than the input."""
    return any(isinstance(e, OSError | RuntimeError | MemoryError) for e in failures.chain(error))


def refuse_existing(out_dir) -> None:
    """Raises UserError if a dataset's folder exists; for jobs that work for long before they
    write."""
    if pathlib.Path(out_dir).exists():
        raise UserError("refusing to overwrite", where=str(out_dir),
                        expected="a folder that does not exist",
                        hint="choose another folder or delete this one")


def clean(out_dir) -> None:
    """Removes the leftovers of a job that was killed just after its last rename."""
    out_dir = pathlib.Path(out_dir).absolute()
    left_over = out_dir.with_name(f".{out_dir.name}.partial")
    if out_dir.exists() and left_over.exists() and not (left_over / "data").exists():
        shutil.rmtree(left_over, ignore_errors=True)


def _synchronise(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove_left_over(out_dir: pathlib.Path) -> None:
    """Removes folders of killed jobs of this machine that cannot be resumed."""
    prefix = f".{out_dir.name}.partial-{socket.gethostname()}-"
    for left_over in out_dir.parent.glob(prefix + "*"):
        if not _alive(left_over.name[len(prefix):]):
            shutil.rmtree(left_over, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
