"""One writer at a time: a lock that says who holds it.

    with lock.hold(workdir / lock.NAME, "workdir"):
        ...

A lock is a small file (an object, in a bucket) with a record of its holder: machine, process, since
when, command, and a count that grows every BEAT seconds. Whoever finds it held gets one line with
all of that, and nothing has been touched.

When is a holder dead? On disks of one machine the kernel says so: it drops the flock of a process
that ends, however it ends. Elsewhere flock may be missing, or be known to one machine alone
(mounted buckets, some Lustre). There a process of this machine is looked up by its number and start
time, and one of another machine is dead when its count stands still for AGE seconds.

Inside one process a lock may be taken again (a stage that trains inside of a job). A forked child
lets go of what it inherits. A holder that finds another's record in its place ends, rather than
writing beside it.
"""

import contextlib
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from avjax.errors import UserError
from avjax.storage import failures, holders

NAME = ".lock"  # of the file, in a folder that is written for long
RESULTS = ".results.lock"  # of an evaluation, beside a training
BEAT = 10.0  # seconds between signs of life
AGE = 90.0  # seconds without one, after which a holder on another machine is taken for dead
PREDECESSOR = 600.0  # seconds to wait for a holder that is ending, or that this job follows
SETTLE = 1.0  # seconds after which, of several that wrote into a bucket at once, the last one shows
POLL = 0.2  # seconds between looks at a holder
_held: dict[str, "_Lock"] = {}
_guard = threading.Lock()


class Busy(UserError):
    """Another process holds the lock. `predecessor`: it is ending, or is the run that this job was
    restarted to follow."""

    predecessor = False


def beside(path: Any) -> Any:
    """The lock's file of what becomes whole by renaming: a dataset, an exported file."""
    path = pathlib.Path(path).absolute() if isinstance(path, str) else path
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def hold(
    file: Any,
    what: str,
    where: Any,
    *,
    wait: float = 0.0,
    again: bool = True,
    hint: str = "wait for it or end it, or use another one",
    lost: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Holds the lock while inside.

    Args:
      file: pathlib.Path, or epath.Path in a bucket. Its folder is made, and goes again if it stays
        empty.
      what, where: is being written, for the reader.
      wait: seconds to wait for a holder that is alive and well. One that is ending is always waited
        for.
      again: whether this process may take it once more.
      hint: for the reader.
      lost: called, in a thread, with the reason when another has taken the lock over; default ends
        the process with 2.

    Raises:
      Busy: somebody else holds it.
      UserError: the file cannot be written.
    """
    key = os.path.realpath(file) if isinstance(file, pathlib.Path) else str(file)
    with _guard:
        mine = _held.get(key)
        if mine and not again:
            raise mine.busy(mine.record)
        if mine:
            mine.uses += 1
    if mine is None:
        mine = _Lock(file, f"{what} {where}", hint, lost or _end)
        mine.take(wait)
        with _guard:
            _held[key] = mine
    try:
        yield
    finally:
        with _guard:
            mine.uses -= 1
            last = not mine.uses and _held.pop(key, None) is mine
        if last:
            mine.release()


def ending() -> None:
    """Notes with all locks that their holder was asked to stop, so that its successor waits for
    it."""
    for mine in list(_held.values()):
        mine.record["ending"] = True
        mine.wake.set()


def let_go(seconds: float = 2.0) -> None:
    """Releases everything, before a process ends in the middle of things. Storage that hangs is not
    waited for."""

    def all_of_them():
        for key in list(_held):
            if mine := _held.pop(key, None):
                mine.release()

    if _held:
        thread = threading.Thread(target=all_of_them, daemon=True)
        thread.start()
        thread.join(seconds)


class _Lock:
    def __init__(self, file, what: str, hint: str, lost: Callable[[str], None]):
        self.file, self.what, self.hint, self.lost = file, what, hint, lost
        self.local, self.uses, self.wake = isinstance(file, pathlib.Path), 1, threading.Event()
        self.record = holders.myself()
        self._fd, self._made, self._closed = -1, [], False
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def take(self, wait: float) -> None:
        began, told = time.monotonic(), False
        while holder := self._attempt():
            follows = holders.follows(self.record, holder)
            if time.monotonic() - began >= max(wait, PREDECESSOR if follows else 0.0):
                raise self.busy(holder)
            if not told:
                _say(f"{self.what} is being written by {holders.said(holder)}; waiting for its end")
                told = True
            time.sleep(POLL)
        self._thread.start()

    def busy(self, holder: dict) -> Busy:
        error = Busy(
            f"another job is writing {self.what}", found=holders.said(holder), hint=self.hint
        )
        error.predecessor = holders.follows(self.record, holder)
        return error

    def release(self) -> None:
        self._closed = True
        self.wake.set()
        free = self._writing.acquire(timeout=5.0)  # a beat may hang
        with contextlib.suppress(Exception):  # a record that stays is one of a dead process
            if free and self._mine():
                self.file.unlink()
        if self._fd >= 0:
            os.close(self._fd)
        self._clear()

    def forget(self) -> None:
        """In a forked child: the parent still holds it."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)

    def _attempt(self) -> dict | None:
        """The record of whoever holds it; None when that is us, now."""
        try:
            return self._local() if self.local else self._remote()
        except OSError as error:
            self._clear()
            failures.check(error, self.file)
            raise UserError(
                f"{self.what} cannot be written",
                where=str(self.file),
                found=f"{type(error).__name__}: {error.strerror or error}",
                hint="look after the folder, its permissions and free space, or use another",
            ) from error

    def _local(self) -> dict | None:
        folder = self.file.parent
        while True:
            if not folder.exists():
                self._made += [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # whoever made the folder took it away again
                if self.file.is_symlink():  # to a place that is not there
                    raise
                continue
            flock = holders.flock(fd)
            holder = self._holder(fd, flock)
            if not holders.same(fd, self.file):  # removed or replaced meanwhile
                os.close(fd)
            elif holder:
                os.close(fd)
                return holder
            elif flock is False:  # held for a dead process: by a child of it, or by a server
                self.file.unlink(missing_ok=True)
                os.close(fd)
            else:
                self._fd = fd
                self._write()
                if flock is None:
                    time.sleep(SETTLE)
                return None if self._mine() else holders.parsed(os.pread(fd, 4 * holders.RECORD, 0))

    def _holder(self, fd: int, flock: bool | None) -> dict | None:
        """Whoever holds the open file, if anybody does. `flock` as `_flock` says."""

        def read():
            return holders.parsed(os.pread(fd, 4 * holders.RECORD, 0))

        record, began = read(), time.monotonic()
        while (
            not record
            and flock is False
            and time.monotonic() - began < 5
            and holders.same(fd, self.file)
        ):
            time.sleep(POLL / 10)  # it has just been opened
            record = read()
        if flock is True and (
            not record or record["boot"] == self.record["boot"] or holders.one_kernel(self.file)
        ):
            return None
        if not record:
            return {} if flock is None else {"host": "a process that has not said its name"}
        if holders.place(record) == holders.place(self.record):
            return record if holders.runs(record) else None
        if flock is False and (
            record["boot"] == self.record["boot"] or holders.one_kernel(self.file)
        ):
            return record
        return self._watched(record, read)

    def _remote(self) -> dict | None:
        record = self._read_remote()
        if record:
            here = holders.place(record) == holders.place(self.record)
            if (
                record
                if here and holders.runs(record)
                else None
                if here
                else self._watched(record, self._read_remote)
            ):
                return record
        self._write()
        time.sleep(SETTLE)
        record = self._read_remote()
        return (
            None
            if record and record["key"] == self.record["key"]
            else record or {"host": "another process"}
        )

    def _watched(self, record: dict, read: Callable[[], dict | None]) -> dict | None:
        """`record`, if there is a sign of life."""
        _say(
            f"{self.what} was being written by {holders.said(record)}; "
            f"looking for up to {AGE:.0f} s whether it still is"
        )
        began = time.monotonic()
        while time.monotonic() - began < AGE:
            time.sleep(POLL if self.local else 10 * POLL)
            now = read()
            if now is None and not self.local:
                return None  # let go of
            if now and (now["key"], now["beat"]) != (record["key"], record["beat"]):
                return now
            if self.local and not self.file.exists():
                return None
        return None

    def _read_remote(self) -> dict | None:
        try:
            return holders.parsed(self.file.read_bytes())
        except FileNotFoundError:
            return None

    def _mine(self) -> bool:
        if self.local:
            if not holders.same(self._fd, self.file):
                return False
            record = holders.parsed(os.pread(self._fd, 4 * holders.RECORD, 0))
        else:
            record = self._read_remote()
        return record is not None and record["key"] == self.record["key"]

    def _write(self) -> None:
        self.record["beat"] += 1
        text = json.dumps(self.record).encode().ljust(holders.RECORD)
        if self.local:
            os.pwrite(self._fd, text, 0)
        else:
            self.file.write_bytes(text)

    def _beat(self) -> None:
        while True:
            self.wake.wait(BEAT)
            self.wake.clear()
            with (
                self._writing,
                contextlib.suppress(Exception),
            ):  # that storage fails for a while is for others to tell
                if self._closed:
                    return
                if self._taken():
                    break
                self._write()
        self.lost(
            f"{self.what} was taken over by another process, for want of signs of this one; "
            "ending, so as not to write "
            "beside it"
        )

    def _taken(self) -> bool:
        """Whether another's record stands in place of ours. One that was deleted is written
        anew."""
        if self._mine():
            return False
        if not self.local:
            return self._read_remote() is not None
        if self.file.exists():
            return True
        fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        holders.flock(fd)
        before, self._fd = self._fd, fd
        os.close(before)
        return False

    def _clear(self) -> None:
        """Removes the folders that were made for the lock, where they are still empty."""
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end(why: str) -> None:
    _say(f"error: {why}")
    os._exit(2)


def _forget() -> None:
    global _guard
    for mine in _held.values():
        mine.forget()
    _held.clear()
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_forget)
