"""What a dataset was made from: `made_from.json` in its folder.

    {"clips": content hash, "path": "/data/me/clips", "relative": "../clips", "features": "avflow",
     "options": {...}}

While the dataset is being written the record waits beside it, in .NAME.asked.json; it moves inside
just before the dataset gets its name. It is not among the checksums: folders may be moved. Datasets
of earlier versions have no record, or keep it beside them.
"""

import contextlib
import os
import pathlib

from avjax.storage import made

FILE = "made_from.json"


def note(out: pathlib.Path) -> pathlib.Path:
    """Where the record of a dataset waits that is being written."""
    return out.with_name(f".{out.name}.asked.json")


def ask(out: os.PathLike, record: dict, source: os.PathLike | None = None) -> None:
    """Notes what the dataset `out`, which is about to be written, is made from. `source`: a folder
    whose place goes into the record."""
    out = pathlib.Path(out).absolute()
    if source is not None:
        source = pathlib.Path(source).absolute()
        record = record | {"path": str(source), "relative": os.path.relpath(source, out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    made.write(note(out), record, shared=True)


def enclose(out: pathlib.Path, data: pathlib.Path) -> None:
    """Moves the record into `data`, the folder that is about to become the dataset `out`."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(note(out), data / FILE)


def withdraw(out: os.PathLike) -> None:
    """Removes the record of a dataset that is not written after all."""
    note(pathlib.Path(out).absolute()).unlink(missing_ok=True)


def read(out: os.PathLike) -> dict | None:
    """The record of a dataset; None if there is none."""
    out = pathlib.Path(out).absolute()
    for file in (out / FILE, note(out)):
        if (record := made.read(file)) is not None:
            return record
    return None


def same(record: dict | None, asked: dict) -> bool:
    """Whether a dataset with this record is what is asked for, wherever its source is now."""
    return record is not None and all(record.get(name) == value for name, value in asked.items())


def source_of(out: os.PathLike) -> pathlib.Path | None:
    """The folder that a dataset was made from, where it is now; None if it is unknown or missing.
    """
    out = pathlib.Path(out).absolute()
    record = read(out) or {}
    places = [out / record["relative"]] if "relative" in record else []
    places += [pathlib.Path(record["path"])] if "path" in record else []
    return next((pathlib.Path(os.path.normpath(p)) for p in places if p.is_dir()), None)
