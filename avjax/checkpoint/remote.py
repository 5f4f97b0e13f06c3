"""Workdirs in an object store: a local folder for code that appends to files, or reads local ones
only."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avjax.checkpoint.files import FOLDER, resolve
from avjax.errors import UserError
from avjax.hosts.peers import first_line, log
from avjax.storage import lock, paths

# What only training needs.
LEFT = (FOLDER, "tensorboard", "heartbeats", "profile", "compilation_cache")


class Mirror:
    """A local folder whose changed files are sent to a remote one: every `every` seconds, `soon`,
    and on `close`. Temporary files (.NAME, NAME.tmp, NAME.partial) are not sent.

    Args:
      remote: from `paths.folder`.
      fetch: names of files to copy from there first, if they exist.
      folder: a temporary one whose files are there already; default: an empty one.
    """

    def __init__(self, remote: Any, *, fetch: Sequence[str] = (), folder: Path | None = None,
                 every: float = 60.0):
        self.remote, self._every = remote, every
        self.folder = folder or temporary()
        for name in fetch:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).write_bytes((remote / name).read_bytes())
        self._sent = self._state()
        self.names: list[str] = []  # of what was sent
        self.failed = ""  # why the last attempt did not send everything
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def soon(self) -> None:
        """Sends what has changed, in the background."""
        self._wake.set()

    def close(self) -> None:
        """Sends the rest and removes the local folder; keeps it, with a message, where that
        fails."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        if self.failed:
            log(f"not sent to {self.remote}, kept in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _state(self) -> dict[Path, tuple[int, ...]]:
        found = {}
        for path in self.folder.rglob("*"):
            inside = path.relative_to(self.folder).parts
            if not any(name.startswith(".")
                       for name in inside) and path.suffix not in (".tmp", ".partial"):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    if path.is_file():
                        stat = path.stat()
                        # clocks of file systems are coarse
                        found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return found

    def _work(self) -> None:
        pause = self._every
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            # Read after the wake-up that it comes with, and before the files.
            last = self._closed
            began = time.monotonic()
            self._send()
            # Sending takes at most a tenth of the time.
            pause = max(self._every, 10 * (time.monotonic() - began))
            if last:
                return

    def _send(self) -> None:
        try:
            for path, state in self._state().items():
                if self._sent.get(path) != state:
                    name = path.relative_to(self.folder).as_posix()
                    paths.copy_in(path, self.remote / name)
                    self._sent[path] = state
                    self.names.append(name)
            self.failed = ""
        # Every store has errors of its own; records are no reason to end a job.
        except Exception as error:
            if first_line(error) != self.failed:
                self.failed = first_line(error)
                log(f"records could not be sent to {self.remote}, trying again: {self.failed}")


def temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="avjax_mirror_"))


@contextlib.contextmanager
def at_hand(workdir: Any, step: int | str | None = None) -> Iterator[Path]:
    """A finished job's workdir as a local folder: itself, or a copy of its small files and one
    checkpoint (see `resolve`). Files written into the copy are sent back, every minute and at the
    end.

    Raises UserError: no such checkpoint, before anything is copied; or results that could not be
    sent, which stay in the copy.
    """
    workdir = paths.folder(workdir)
    if not paths.is_remote(workdir):
        yield workdir
        return
    checkpoint = resolve(workdir, step)
    with contextlib.ExitStack() as clean:
        folder = temporary()
        clean.callback(shutil.rmtree, folder, ignore_errors=True)
        for entry in workdir.iterdir() if checkpoint != workdir else ():
            if entry.name not in LEFT and not entry.name.endswith(lock.NAME):
                paths.copy_in(entry, folder / entry.name)
        paths.copy_in(checkpoint, folder / FOLDER / checkpoint.name)
        clean.pop_all()
    mirror = Mirror(workdir, folder=folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        mirror.close()
    if mirror.failed:
        raise UserError("results could not be sent", where=str(workdir), found=mirror.failed,
                        hint=f"copy them by hand: they are in {mirror.folder}")
    if mirror.names:
        log(f"sent to {workdir}: "
            f"{', '.join(dict.fromkeys(name.split('/')[0] for name in mirror.names))}")
