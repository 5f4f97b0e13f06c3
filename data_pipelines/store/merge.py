"""Datasets that several jobs write, a part each, on machines that share a folder; the last one
merges the parts.

Part k of n is every split's items from k/n to (k + 1)/n, so the order of records does not depend on
n. Each part is a resumable job (resume.py) in a folder of its own:

    .NAME.partial/parts.json            the arguments and n, which all parts must have
    .NAME.partial/fitted/*.npz          fitted by the first that needs it; the others wait for it
    .NAME.partial/expected.json         recipes and hashes of codecs, the same in all parts
    .NAME.partial/part-00002-of-00008/  journal, shards and lock of a part; a complete part's
                                        journal ends with {"whole": true}
    .NAME.partial/data/                 the dataset, while the parts' shards are linked into it

The parts stay untouched until the dataset has its name, so any of them can merge, be killed, and
merge again.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable

from avjax.errors import UserError
from avjax.storage import atomic
from data_pipelines.store import frames, made_from

JOURNAL = "journal.jsonl"


@dataclasses.dataclass(frozen=True)
class Part(os.PathLike):
    """Part `index` of `count` of the dataset `out_dir`; passed in place of that folder."""

    out_dir: pathlib.Path
    index: int
    count: int

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise UserError("no such part", where="--shard", expected="I/N with 0 <= I < N",
                            found=f"{self.index}/{self.count}")

    def __fspath__(self) -> str:
        return os.fspath(self.out_dir)

    @property
    def folder(self) -> str:
        return f"part-{self.index:05d}-of-{self.count:05d}"

    def of(self, items):
        """The items of this part: of a list a list, of a range a range."""
        first, last = (len(items) * k // self.count for k in (self.index, self.index + 1))
        return items[first:last]


class Merging:
    """Context manager that merges the parts; has the interface of resume.Partial. Its value is None
    if this process has nothing to merge: other parts are incomplete, or another process merges or
    has merged them.

    Args:
      part: of the dataset.
      shared: .NAME.partial.
    """

    resumable, part = True, None

    def __init__(self, part: Part, shared: pathlib.Path):
        self.out_dir, self.data = pathlib.Path(part).absolute(), shared / "data"
        self._shared, self._records, self._lock, self.keep = shared, [], None, False
        self._folders = folders(part, shared)

    def __enter__(self) -> "Merging | None":
        if missing(self._folders):
            return None
        with contextlib.suppress(FileNotFoundError):  # another process has just put them together
            self._lock = lock(self._shared / "merge.lock")
        if self._lock is None or self.out_dir.exists():
            return None
        shutil.rmtree(self.data, ignore_errors=True)  # of one that was killed here
        self.data.mkdir()
        counts: dict[str, int] = {}
        for folder in self._folders:
            for record in joined(journal(folder / JOURNAL)):
                if "split" not in record:
                    continue
                if record["file"]:
                    number = counts[record["split"]] = counts.get(record["split"], -1) + 1
                    name = f"{record['split']}-{number:05d}.open"
                    for old, new in zip(files(record), files(record, name), strict=True):
                        atomic.link(folder / "data" / old, self.data / new)
                    record = record | {"file": name}
                self._records.append(record)
        self._check_ids()
        return self

    def __exit__(self, kind, error, trace):
        if self._lock:
            self._lock.close()

    def records(self, split: str) -> list[dict]:
        """The records of a split that the parts have committed, in order."""
        return [r for r in self._records if r["split"] == split]

    def join(self, records: list[dict], record: dict) -> None:
        """Replaces the files of `records` by `record["file"]`, which has their content; the parts
        keep theirs."""
        self._records = joined([*self._records, record | {"joins": [r["file"] for r in records]}])
        for file in (file for old in records for file in files(old)):
            (self.data / file).unlink()

    def rename(self, names: dict[str, str]) -> None:
        """Gives files of `data` their final names."""
        for file, final in names.items():
            os.rename(self.data / file, self.data / final)

    def finish(self) -> None:
        """Gives the dataset its name and removes the parts."""
        made_from.enclose(self.out_dir, self.data)
        os.rename(self.data, self.out_dir)
        shutil.rmtree(self._shared, ignore_errors=True)

    def _check_ids(self) -> None:
        seen = set()
        for record in self._records:
            if twice := seen.intersection(record["ids"]):
                raise UserError("id is not unique",
                                where=f"split {record['split']}, example {min(twice)!r}",
                                hint="give every example its own id")
            seen.update(record["ids"])


def begun(out_dir) -> int | None:
    """Number of parts of an interrupted job, 1 for an undivided one; None if there was no job."""
    out = pathlib.Path(out_dir).absolute()
    shared = out.with_name(f".{out.name}.partial")
    try:
        return json.loads((shared / "parts.json").read_text())["parts"]
    except FileNotFoundError:
        return 1 if (shared / JOURNAL).exists() else None


def folders(part: Part, shared: pathlib.Path) -> list[pathlib.Path]:
    """The folders of all parts."""
    return [shared / dataclasses.replace(part, index=k).folder for k in range(part.count)]


def missing(part_folders) -> list[str]:
    """Names of the incomplete parts."""
    return [f.name for f in part_folders if not any(r.get("whole") for r in journal(f / JOURNAL))]


def not_begun(part: Part) -> list[int]:
    """Indices of the other parts that no process has begun; [] once the dataset is complete."""
    out = pathlib.Path(part).absolute()
    places = enumerate(folders(part, out.with_name(f".{out.name}.partial")))
    missing_folders = [index for index, folder in places if index != part.index
                       and not folder.exists()]
    # in this order: the folders go when the dataset has its name
    return [] if out.exists() else missing_folders


def journal(path: pathlib.Path) -> list[dict]:
    """The records of a journal, without a torn last line."""
    records = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def files(record: dict, file: str = "") -> list[str]:
    """A record's finished files: its shard, named `file` instead where that is given, and what
    lies beside it."""
    file = file or record["file"]
    return [file, *(frames.beside(file, name) for name in record.get("beside", ()))]


def joined(records: list[dict], there: Callable[[dict], bool] = lambda record: True) -> list[dict]:
    """The records of a journal, where one that joins others (writer.py) replaces them, if its file
    is `there`."""
    out: list[dict] = []
    for record in records:
        old = [k for k, r in enumerate(out) if r.get("file") in record.get("joins", ())]
        if not old:
            out.append(record)
        elif there(record):
            out[old[0]] = {k: v for k, v in record.items() if k != "joins"}
            out = [r for k, r in enumerate(out) if k not in old[1:]]
    return out


def lock(path: pathlib.Path, wait: bool = False):
    """The open file of a lock, released when it is closed or the process ends; None if another
    process holds it. Raises UserError: a file system without locks.
    """
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise UserError("this file system has no locks", where=str(path), found=str(error),
                        hint="write to another one (NFS and Lustre have them, buckets that are "
                        "mounted do not)") from error
    return file
