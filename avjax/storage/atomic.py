"""Files that are written completely or not at all.

A file is written under a hidden name beside its place and renamed when it is complete, so readers
see the old content or the new one. An error, a full disk included, leaves nothing behind.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from avjax.storage import failures


@contextlib.contextmanager
def aside(path: Any, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """Yields a hidden path beside `path`, with the same suffix, that replaces `path` on success.

    Args:
      path: the file's place; its folder exists.
      shared: other processes, of any machine, may write the same file at the same time.
    """
    path = pathlib.Path(path)
    unique = f".{os.urandom(8).hex()}" if shared else ""
    temporary = path.with_name(f".{path.stem}{unique}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # renamed, never written, or in what is no folder
            temporary.unlink()


@contextlib.contextmanager
def file(path: Any, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """`aside`, in which a failure of the storage is a StorageError that names `path`."""
    with failures.working_on(path), aside(path, shared=shared) as temporary:
        yield temporary


def write(path: Any, data: str | bytes, *, shared: bool = False) -> None:
    """Writes a local file; text as UTF-8. Raises StorageError."""
    with file(path, shared=shared) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def first(path: pathlib.Path, text: str) -> str:
    """Writes `text` unless the file exists. Returns its content: of several processes that call
    this at the same time, all get the first one's."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        try:
            temporary.write_text(text)
            with contextlib.suppress(FileExistsError):
                link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path.read_text()


def link(source: pathlib.Path, target: pathlib.Path) -> None:
    """A second name of a file, or a copy on file systems without links. Raises FileExistsError."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with open(source, "rb") as read, open(target, "xb") as write:
            while block := read.read(1 << 20):
                write.write(block)
