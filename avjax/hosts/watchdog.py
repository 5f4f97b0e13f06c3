"""Ends a job that hangs: when no step completes for a set time, the stacks of all threads are
printed and the process exits with 75.

Another thread writes one heartbeat file per host, to inspect a large job from outside. It is a
thread of its own because these files' storage may be what hangs.
"""

import contextlib
import datetime
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from avjax.hosts import distributed
from avjax.hosts.peers import RESTARTABLE, exit_now, log
from avjax.storage import paths

FOLDER = "heartbeats"
HEARTBEAT_SECONDS = 30.0
# Phases that may take longer, in limits of a step.
ALLOWANCE = {"start": 20.0, "compile": 20.0, "evaluation": 10.0, "checkpoint": 10.0}


class Watchdog:
    """Watches one training job from threads; use `with`, and `start` inside.

    Args:
      seconds: the longest time without a completed step, data waits included; 0 = off. Phases named
        in ALLOWANCE may take that many times as long.
      workdir: gets heartbeats/host_NNNN.json (replaced at least every 30 s), in a job of several
        processes or a watched one.
    """

    def __init__(self, seconds: float, workdir: str | Path):
        self.seconds = float(seconds)
        self._folder = paths.folder(workdir) / FOLDER
        self._phase = "start"
        self._progressed = time.monotonic()
        self._step = -1
        self._interval = min(HEARTBEAT_SECONDS, self.seconds / 4 or HEARTBEAT_SECONDS)
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Watchdog":
        return self

    def start(self) -> None:
        """Call once the workdir is known to be this job's."""
        if self.seconds > 0 or distributed.process_count() > 1:
            watches = [self._beat] + [self._watch] * (self.seconds > 0)
            self._threads = [threading.Thread(target=watch, name="watchdog", daemon=True)
                             for watch in watches]
            for thread in self._threads:
                thread.start()

    def __exit__(self, *_) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=5.0)  # a heartbeat may hang

    def progress(self, step: int | None = None) -> None:
        """Call when a step, or something else that takes part of the limit, is done."""
        self._progressed = time.monotonic()
        self._step = self._step if step is None else step

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Names what the main thread does; to begin or end a phase of ALLOWANCE is progress."""
        outer = self._phase
        self._phase = name
        if name in ALLOWANCE:
            self.progress()
        try:
            yield
        finally:
            self._phase = outer
            if name in ALLOWANCE:
                self.progress()

    def _watch(self) -> None:
        while True:
            limit = self.seconds * ALLOWANCE.get(self._phase, 1.0)
            # Where C code keeps the interpreter's lock this thread cannot run; faulthandler's can,
            # and exits with 1.
            faulthandler.dump_traceback_later(2 * limit + 60, exit=True)
            if self._closed.wait(self._interval):
                break
            waited = time.monotonic() - self._progressed
            if waited > limit:
                self._end(waited)
        faulthandler.cancel_dump_traceback_later()

    def _beat(self) -> None:
        self._write()
        while not self._closed.wait(self._interval):
            self._write()

    def _end(self, waited: float) -> None:
        why = (f"watchdog: no step completed for {waited:.0f} s (in {self._phase!r}, after step "
               f"{self._step})")
        log(f"host {distributed.process_index()}: {why}; stacks of all threads follow")
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        distributed.end_job(RESTARTABLE, why, stacks=True)
        exit_now(RESTARTABLE)

    def _write(self) -> None:
        host = distributed.process_index()
        beat = {"host": host, "machine": socket.gethostname(), "pid": os.getpid(),
                "step": self._step, "phase": self._phase,
                "seconds_since_progress": round(time.monotonic() - self._progressed, 1),
                "rss_mb": round(rss_bytes() / 1e6, 1),
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        # The checkpoint reports a full disk; every object store has errors of its own.
        with contextlib.suppress(Exception):
            self._folder.mkdir(parents=True, exist_ok=True)
            paths.write_text(self._folder / f"host_{host:04d}.json", json.dumps(beat) + "\n")


def rss_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
