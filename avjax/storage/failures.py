"""Tells failures of storage (disks, mounts, open files) from errors in what is read or written.

Libraries wrap such a failure in exceptions of their own, or keep only its text (ArrayRecord,
TensorStore), so the whole chain of exceptions is searched, by errno and by text.
"""

import contextlib
import errno
import functools
import os
import pathlib
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from avjax.errors import RESTARTABLE, USER, DiskFull, StorageError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
FILES = (errno.EMFILE, errno.ENFILE)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH)
_CODES = {os.strerror(code): code for code in (*FULL, *FILES, *AWAY)}
_TEXT = re.compile("|".join(map(re.escape, _CODES)))
_MAX_FILES = 65536  # some programs close every number up to the limit when they start


def fault(error: BaseException | None) -> BaseException | None:
    """The failure of storage that `error` is, or was caused by; None for other errors."""
    return next((link for link in chain(error) if _code(link)), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one it was raised from or during, and so on, each once."""
    seen = set()  # one that was raised from itself has no end
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> int | None:
    if isinstance(error, UserError | StorageError):
        return None  # its text is ours
    if isinstance(error, OSError) and error.errno in _CODES.values():
        return error.errno
    found = _TEXT.search(str(error))
    return _CODES[found[0]] if found else None


def explained(error: BaseException, where: object = "") -> StorageError | None:
    """The StorageError for a failure of storage, at `where` unless the error names a file; None for
    other errors."""
    if (link := fault(error)) is None:
        return None
    code, found = _code(link), " ".join(str(link).split())[:300]
    where = str(getattr(link, "filename", None) or where)
    if code in FULL:
        return DiskFull("the disk is full" if code == errno.ENOSPC else "the disk quota is used up",
                        where=where, found=found + (_free(where) if where else ""),
                        hint="make room and start the same command again; what is finished is kept")
    if code in FILES:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return StorageError("too many open files", where=where,
                            found=f"{found}; ulimit -n is {soft}, its hard limit {hard}",
                            hint="raise the limit and start the same command again; what is "
                            "finished is kept")
    return StorageError("the storage cannot be read or written now", where=where, found=found,
                        hint="look after the "
                        "disk or mount and start the same command again; what is finished is kept")


def _free(where: str) -> str:
    path = pathlib.Path(where).absolute()
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f"; {shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    return ""


def check(error: BaseException, where: object = "") -> None:
    """Raises StorageError if `error` is a failure of storage, before it is blamed on what was
    read."""
    if (known := explained(error, where)) is not None:
        raise known from error


@contextlib.contextmanager
def working_on(where: object) -> Iterator[None]:
    """Raises a failure of storage inside, while reading or writing `where`, as StorageError."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        check(error, where)
        raise


@contextlib.contextmanager
def tolerated(tag: Any, failed: Callable[[Any, Exception], None] | None) -> Iterator[None]:
    """Gives an error inside to `failed(tag, error)` and goes on; raises it where `failed` is None,
    and a failure of storage always, as StorageError: it says nothing about what `tag` names."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if failed is None:
            raise
        check(error, tag)
        failed(tag, error)


def exit_line(error: BaseException) -> tuple[int, str] | None:
    """(exit code, line) of an error that a user can read; None for a defect."""
    if isinstance(error, StorageError):
        return error.code, str(error)
    known = explained(error)
    if isinstance(error, UserError):
        return (known.code if known else USER), str(error)
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        return USER, str(UserError("may not be read or written", where=str(error.filename or ""),
                                   found=error.strerror,
                                   hint="check its owner, permissions and mount; what is finished "
                                   "is kept"))
    return (known.code, str(known)) if known else None


def allow_open_files() -> None:
    """Raises this process' soft limit of open files to the hard one, for datasets of many
    shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def exit_cleanly(main):
    """Wraps an absl `main`: an error that is meant to be read becomes one line on stderr and its
    exit code."""

    @functools.wraps(main)
    def wrapped(argv):
        try:
            return main(argv)
        except Exception as error:
            if (known := exit_line(error)) is None:
                raise
            code, line = known
            print(f"{'restartable' if code == RESTARTABLE else 'error'}: {line}", file=sys.stderr,
                  flush=True)
            sys.exit(code)

    return wrapped
