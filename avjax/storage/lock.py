"""One writer at a time: a lock that tells who holds it.

    with lock.hold(workdir / lock.NAME, "workdir"):
        ...

A lock is a small file (an object, in a bucket) with a record of its holder: machine, process, start
time, command, and a count that grows every BEAT seconds. A process that finds it held raises an
error of one line with all of that, before anything is touched.

When is a holder dead? On a disk of one machine the kernel drops the flock of a process that ends in
any way. Elsewhere flock may be missing, or known to one machine only (mounted buckets, some
Lustre). There a process of this machine is found by its number and start time, and one of another
machine counts as dead when its count has not grown for AGE seconds.

A process may take its lock again (a stage that trains inside a job). A forked child drops the locks
that it inherits. A holder that finds another's record in its place ends, so that two never write.
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

NAME = ".lock"  # the lock's file in a workdir
RESULTS = ".results.lock"  # an evaluation's, beside a training's
BEAT = 10.0  # seconds between updates of the record
AGE = 90.0  # seconds without an update after which a holder on another machine counts as dead
PREDECESSOR = 600.0  # seconds to wait for a holder that is ending, or that this job follows
SETTLE = 1.0  # seconds until a bucket shows the last of several simultaneous writes
POLL = 0.2  # seconds between looks at a holder
_held: dict[str, "_Lock"] = {}
_guard = threading.Lock()


class Busy(UserError):
    """Another process holds the lock.

    Attributes:
      predecessor: it is ending, or is the run that this job was restarted to follow.
    """

    predecessor = False


def beside(path: Any) -> Any:
    """The lock's file for what is completed by renaming: a dataset, an exported file."""
    path = pathlib.Path(path).absolute() if isinstance(path, str) else path
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def hold(file: Any, what: str, where: Any, *, wait: float = 0.0, again: bool = True,
         hint: str = "wait for it or end it, or use another one",
         on_lost: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the lock while inside.

    Args:
      file: pathlib.Path, or epath.Path in a bucket. Its folder is made, and removed again if it
      stays
        empty.
      what, where: what is being written, for messages.
      wait: seconds to wait for a running holder; one that is ending is waited for in any case.
      again: whether this process may take the lock once more.
      hint: for the error.
      on_lost: called in a thread, with the reason, when another process has taken the lock over;
        default: ends this process with 2.

    Raises:
      Busy: another process holds it.
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
        mine = _Lock(file, f"{what} {where}", hint, on_lost or _end_process)
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


def announce_end() -> None:
    """Records in all locks that this process is ending, so that its successor waits for it."""
    for mine in list(_held.values()):
        mine.record["ending"] = True
        mine.wake.set()


def release_all(seconds: float = 2.0) -> None:
    """Releases all locks before a process ends abruptly; waits no longer than `seconds` for storage
    that hangs."""

    def release():
        for key in list(_held):
            if mine := _held.pop(key, None):
                mine.release()

    if _held:
        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        thread.join(seconds)


class _Lock:
    def __init__(self, file, what: str, hint: str, on_lost: Callable[[str], None]):
        self.file = file
        self.what = what
        self.hint = hint
        self.on_lost = on_lost
        self.local = isinstance(file, pathlib.Path)
        self.uses = 1
        self.wake = threading.Event()
        self.record = holders.new_record()
        self._fd = -1
        self._made_folders: list[pathlib.Path] = []
        self._closed = False
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def take(self, wait: float) -> None:
        began = time.monotonic()
        announced = False
        while holder := self._attempt():
            follows = holders.is_predecessor_of(self.record, holder)
            if time.monotonic() - began >= max(wait, PREDECESSOR if follows else 0.0):
                raise self.busy(holder)
            if not announced:
                announced = True
                _log(f"{self.what} is being written by {holders.describe(holder)}; waiting for its "
                     "end")
            time.sleep(POLL)
        self._thread.start()

    def busy(self, holder: dict) -> Busy:
        error = Busy(f"another job is writing {self.what}", found=holders.describe(holder),
                     hint=self.hint)
        error.predecessor = holders.is_predecessor_of(self.record, holder)
        return error

    def release(self) -> None:
        self._closed = True
        self.wake.set()
        free = self._writing.acquire(timeout=5.0)  # an update may hang
        with contextlib.suppress(Exception):  # a record left behind is a dead process'
            if free and self._is_ours():
                self.file.unlink()
        if self._fd >= 0:
            os.close(self._fd)
        self._clear()

    def forget(self) -> None:
        """Drops the lock in a forked child; the parent still holds it."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)

    def _attempt(self) -> dict | None:
        """Takes the lock; the record of the holder where another process has it."""
        try:
            return self._attempt_local() if self.local else self._attempt_remote()
        except OSError as error:
            self._clear()
            failures.check(error, self.file)
            raise UserError(f"{self.what} cannot be written", where=str(self.file),
                            found=f"{type(error).__name__}: {error.strerror or error}",
                            hint="look after the folder, its permissions and free space, or use "
                            "another") from error

    def _attempt_local(self) -> dict | None:
        folder = self.file.parent
        while True:
            if not folder.exists():
                self._made_folders += [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # another process removed the folder that it had made
                if self.file.is_symlink():  # a broken one
                    raise
                continue
            flock = holders.flock(fd)
            holder = self._holder(fd, flock)
            if not holders.is_same_file(fd, self.file):  # removed or replaced meanwhile
                os.close(fd)
            elif holder:
                os.close(fd)
                return holder
            elif flock is False:  # held for a dead process, by its child or by a file server
                self.file.unlink(missing_ok=True)
                os.close(fd)
            else:
                self._fd = fd
                self._write()
                if flock is None:
                    time.sleep(SETTLE)
                return None if self._is_ours() else self._read_local(fd)

    def _holder(self, fd: int, flock: bool | None) -> dict | None:
        """The record of the open file's holder; None where nobody holds it. `flock`: see
        holders.flock."""
        record = self._read_local(fd)
        began = time.monotonic()
        while (not record and flock is False and time.monotonic() - began < 5
               and holders.is_same_file(fd, self.file)):
            time.sleep(POLL / 10)  # the holder has just opened it
            record = self._read_local(fd)
        same_kernel = record and (record["boot"] == self.record["boot"]
                                  or holders.is_on_local_disk(self.file))
        if flock is True and (not record or same_kernel):
            return None
        if not record:
            return {} if flock is None else {"host": "a process that has not said its name"}
        if holders.machine(record) == holders.machine(self.record):
            return record if holders.is_running(record) else None
        if flock is False and same_kernel:
            return record
        return self._wait_for_update(record, lambda: self._read_local(fd))

    def _attempt_remote(self) -> dict | None:
        record = self._read_remote()
        if record and holders.machine(record) == holders.machine(self.record):
            if holders.is_running(record):
                return record
        elif record and self._wait_for_update(record, self._read_remote):
            return record
        self._write()
        time.sleep(SETTLE)
        record = self._read_remote()
        if record and record["key"] == self.record["key"]:
            return None
        return record or {"host": "another process"}

    def _wait_for_update(self, record: dict, read: Callable[[], dict | None]) -> dict | None:
        """The updated record, once it changes; None where its holder is dead or releases it."""
        _log(
            f"{self.what} was being written by {holders.describe(record)}; "
            f"looking for up to {AGE:.0f} s whether it still is"
        )
        began = time.monotonic()
        while time.monotonic() - began < AGE:
            time.sleep(POLL if self.local else 10 * POLL)
            now = read()
            if now is None and not self.local:
                return None
            if now and (now["key"], now["beat"]) != (record["key"], record["beat"]):
                return now
            if self.local and not self.file.exists():
                return None
        return None

    @staticmethod
    def _read_local(fd: int) -> dict | None:
        return holders.parse(os.pread(fd, 4 * holders.RECORD, 0))

    def _read_remote(self) -> dict | None:
        try:
            return holders.parse(self.file.read_bytes())
        except FileNotFoundError:
            return None

    def _is_ours(self) -> bool:
        if self.local:
            if not holders.is_same_file(self._fd, self.file):
                return False
            record = self._read_local(self._fd)
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
            # Others report storage that fails for a while.
            with self._writing, contextlib.suppress(Exception):
                if self._closed:
                    return
                if self._is_taken_over():
                    break
                self._write()
        self.on_lost(f"{self.what} was taken over by another process, for want of signs of this "
                     "one; ending, so as not to write beside it")

    def _is_taken_over(self) -> bool:
        """Whether another's record is in place of ours; a deleted record is written again."""
        if self._is_ours():
            return False
        if not self.local:
            return self._read_remote() is not None
        if self.file.exists():
            return True
        fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        holders.flock(fd)
        replaced = self._fd
        self._fd = fd
        os.close(replaced)
        return False

    def _clear(self) -> None:
        """Removes the folders that were made for the lock, if they are still empty."""
        for folder in self._made_folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_process(why: str) -> None:
    _log(f"error: {why}")
    os._exit(2)


def _forget_all() -> None:
    global _guard
    for mine in _held.values():
        mine.forget()
    _held.clear()
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_forget_all)
