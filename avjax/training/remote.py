"""Workdirs in an object store: what wants to append to files, or knows local ones only, works in a local folder instead."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avjax.training import paths
from avjax.training.checkpoint_files import FOLDER, resolve
from avjax.training.peers import first_line, say


class Mirror:
    """A local folder whose files also appear in a remote one: changed files every `every` seconds, `soon`, and on `close`.

    Args:
      remote: what `paths.folder` gives.
      fetch: names of files that are brought from there first, where they exist, to be gone on with.
    """

    def __init__(self, remote: Any, *, fetch: Sequence[str] = (), every: float = 60.0):
        self.remote, self._every = remote, every
        self.folder = Path(tempfile.mkdtemp(prefix="avjax_mirror_"))
        for name in fetch:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).write_bytes((remote / name).read_bytes())
        self._sent = self._state()
        self._wake, self._closed, self._failed = threading.Event(), False, ""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def soon(self) -> None:
        """Sends what has changed, in the background."""
        self._wake.set()

    def close(self) -> None:
        """Sends the rest and removes the local folder."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _state(self) -> dict[Path, tuple[int, int]]:
        files = [p for p in self.folder.rglob("*") if p.is_file() and p.suffix != ".tmp"]
        return {p: (s.st_mtime_ns, s.st_size) for p in files if (s := p.stat())}

    def _work(self) -> None:
        pause = self._every
        while True:
            self._wake.wait(pause)
            last = self._closed  # looked at before the files are
            self._wake.clear()
            began = time.monotonic()
            self._send()
            pause = max(self._every, 10 * (time.monotonic() - began))  # never more than a tenth of the time
            if last:
                return

    def _send(self) -> None:
        try:
            for path, state in self._state().items():
                if self._sent.get(path) != state:
                    paths.copy_in(path, self.remote / path.relative_to(self.folder).as_posix())
                    self._sent[path] = state
        except Exception as error:  # of any kind: every store has its own; records are no reason to end a job
            if first_line(error) != self._failed:
                self._failed = first_line(error)
                say(f"records could not be sent to {self.remote}, trying again: {self._failed}")


@contextlib.contextmanager
def at_hand(workdir: Any, step: int | str | None = None) -> Iterator[Path]:
    """A finished job's workdir as a local folder: itself, or a copy with its files, one checkpoint (of `resolve`) and without
    tensorboard/; what is written there is sent back at the end."""
    workdir = paths.folder(workdir)
    if not paths.is_remote(workdir):
        yield workdir
        return
    mirror = Mirror(workdir, every=1e9)
    try:
        for entry in workdir.iterdir():
            if entry.name not in (FOLDER, "tensorboard", "heartbeats", "profile"):
                _fetch(entry, mirror.folder / entry.name)
        checkpoint = resolve(workdir, step)
        _fetch(checkpoint, mirror.folder / FOLDER / checkpoint.name)
        mirror._sent = mirror._state()
        yield mirror.folder
    finally:
        shutil.rmtree(mirror.folder / FOLDER, ignore_errors=True)
        mirror.close()


def _fetch(source: Any, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            _fetch(entry, target / entry.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
