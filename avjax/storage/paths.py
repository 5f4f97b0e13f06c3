"""Folders that may be in an object store: "gs://bucket/run" in place of a local path.

Local folders are pathlib's, remote ones etils.epath's, which have the same methods as far as they
are used here. In an object store a folder is nothing but a common beginning of names, a file
appears whole or not at all, and nothing can be renamed, appended to or run out of space.
"""

import contextlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import fsspec.config
from etils import epath

from avjax.errors import UserError
from avjax.storage import atomic

# those that epath has a file system for, where its package is installed
SCHEMES = ("gs://", "s3://", "az://", "hf://")
EXTRAS = {"gs": "gcsfs", "s3": "s3fs"}  # extra of setup.py: the package it brings


def is_remote(path: Any) -> bool:
    return os.fspath(path).startswith(SCHEMES)


def folder(path: Any) -> Any:
    """`path` as an absolute folder: pathlib.Path, or epath.Path of a URL. UserError: a store whose
    package is not installed."""
    if not is_remote(path):
        return Path(path).absolute()
    extra = os.fspath(path).partition("://")[0]
    if extra in EXTRAS and importlib.util.find_spec(EXTRAS[extra]) is None:
        raise UserError(f"{extra}:// cannot be read without {EXTRAS[extra]}", where=os.fspath(path),
                        hint=f"pip install 'avjax[{extra}]'")
    for name in ("gcs", "s3", "az", "hf"):  # other hosts write there too, and TensorStore does
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return epath.Path(path)


def moved(before: Any, now: Any) -> bool:
    """Whether a path has moved from `before`, where nothing is any more, to `now`: the last name is
    the same."""
    if not all(isinstance(x, str) and "/" in x and not is_remote(x) for x in (before, now)):
        return False
    return Path(before).name == Path(now).name and not Path(before).exists() and Path(now).exists()


def identity(workdir: Any, name: str, new: str) -> str:
    """What a workdir goes by elsewhere, kept in its file `name`: `new` for a new one and for a
    copy, the former for one that was moved."""
    file, own = workdir / name, new
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        found = json.loads(file.read_text())
        then = folder(found.get("workdir", workdir)) / name
        if then == file or not then.exists():
            own = found["id"] if "id" in found else found["folder"]  # as older versions call it
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"id": own, "workdir": str(workdir)}))
    return own


def write_text(path: Any, text: str) -> None:
    """Writes a file completely or not at all: see atomic.py, or as one remote object."""
    write_bytes(path, text.encode())


def write_bytes(path: Any, data: bytes) -> None:
    """As `write_text`."""
    if is_remote(path):
        path.write_bytes(data)
    else:
        atomic.write(path, data)


def copy_in(source: Any, target: Any) -> None:
    """A file or folder to another place; either may be remote. Files that are there are replaced,
    each whole or not at all."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            copy_in(entry, target / entry.name)
    else:
        if not is_remote(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, source.read_bytes())
