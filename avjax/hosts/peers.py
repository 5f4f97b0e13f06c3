"""Messages between the processes of one job, over the coordinator's key-value store.

Host 0 keeps the store, so its death ends the job. JAX's heartbeats notice any other host that dies:
its client then aborts the process, which `restartable_abort` turns into exit code 75. A host that
ends on purpose first publishes its reason.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from avjax.errors import RESTARTABLE
from avjax.storage import lock

POLL = 0.5  # seconds between looks at the news, the messages to all hosts
LINGER = 8.0  # seconds that host 0, at an early end, keeps the store up for the others to read why


class Restart(SystemExit):
    """The job cannot continue, but resumes from its last checkpoint when it is started again: exit
    code 75."""

    def __init__(self, message: str):
        super().__init__(RESTARTABLE)
        self.message = message

    def __str__(self) -> str:
        return self.message


def log(text: str) -> None:
    """Prints a line to stderr."""
    print(text, file=sys.stderr, flush=True)


class Peers:
    """Process `me` of `count` and its key-value store, under one prefix. All methods may be called
    from any thread.

    Attributes:
      code: what this process exits with when it is aborted.
      on_stop: called once, when a host requests that all stop.
    """

    def __init__(self, client, me: int, count: int, prefix: str = "avjax"):
        self.client = client
        self.me = me
        self.count = count
        self.prefix = prefix
        self.code = RESTARTABLE
        self.on_stop: Callable[[dict], None] | None = None
        self._uses: Counter = Counter()
        self._end_logged = False
        self._leaving = threading.Lock()
        self._closed = threading.Event()
        self.put(f"host/{me}", socket.gethostname())
        self._follower = threading.Thread(target=self._follow, name="peers", daemon=True)
        self._follower.start()

    def unique(self, name: str) -> str:
        """`name` with the number of its uses on this host. Hosts that do the same get the same
        keys."""
        self._uses[name] += 1
        return f"{name}#{self._uses[name]}"

    @staticmethod
    def previous(key: str) -> str:
        """The key that `unique` gave the time before `key`; "" for the first."""
        name, _, number = key.rpartition("#")
        return f"{name}#{int(number) - 1}" if int(number) > 1 else ""

    def put(self, key: str, value: Any) -> None:
        self.client.key_value_set(f"{self.prefix}/{key}", json.dumps(value))

    def get(self, key: str) -> Any:
        """None where there is no such key."""
        try:
            return json.loads(self.client.key_value_try_get(f"{self.prefix}/{key}"))
        except jax.errors.JaxRuntimeError as error:
            if str(error).startswith("NOT_FOUND"):
                return None
            raise

    def delete(self, key: str) -> None:
        """A key, and everything under it."""
        self.client.key_value_delete(f"{self.prefix}/{key}")

    def list(self, key: str) -> dict[str, Any]:
        """{last part of the key: value} of everything under `key`."""
        found = self.client.key_value_dir_get(f"{self.prefix}/{key}/")
        return {name.rsplit("/", 1)[1]: json.loads(value) for name, value in found}

    def wait(self, key: str, seconds: float, *, what: str, remind: float = 60.0) -> Any:
        """The value of `key` once a host has put it; logs every `remind` seconds that it waits.

        Raises Restart when there is none after `seconds`, or the store is gone.
        """
        began = time.monotonic()
        reminded = began
        while (waited := time.monotonic() - began) < seconds:
            try:
                span = min(1.0, seconds - waited)
                return json.loads(self.client.blocking_key_value_get(f"{self.prefix}/{key}",
                                                                     max(1, int(1000 * span))))
            except jax.errors.JaxRuntimeError as error:
                if not str(error).startswith("DEADLINE_EXCEEDED"):
                    raise Restart(f"{self.name(self.me)}: lost the coordinator while waiting for "
                                  f"{what}: {first_line(error)}") from error
            self._follow_end(self.list("news"))
            if time.monotonic() - reminded > remind:
                reminded = time.monotonic()
                log(f"{self.name(self.me)} waits for {what} ({reminded - began:.0f} s)")
        raise Restart(f"{self.name(self.me)} waited {seconds:.0f} s in vain for {what}")

    def name(self, host: int) -> str:
        """E.g. "host 3 (name of its machine)"."""
        try:
            machine = self.get(f"host/{host}")
        except jax.errors.JaxRuntimeError:
            machine = None
        return f"host {host}" + (f" ({machine})" if machine else "")

    def names(self, hosts) -> str:
        hosts = sorted(hosts)
        more = f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""
        return ", ".join(map(self.name, hosts[:8])) + more

    def leave(self, code: int, why: str, *, stacks: bool = False) -> NoReturn:
        """Ends this process and all others with `code`, so that a launcher sees the same at any of
        them. The others log `why`, unless it is empty; with `stacks` they also print the stacks of
        their threads."""
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # another thread is ending the process
        self.code = code
        publisher = threading.Thread(target=self._publish_end, args=(code, why, stacks),
                                     daemon=True)
        publisher.start()
        publisher.join(LINGER + 1)
        exit_now(self.code)

    def _publish_end(self, code: int, why: str, stacks: bool) -> None:
        # An error means that host 0 is gone, and with it the store.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            try:
                self.put("news/leave", {"host": self.me, "code": code, "why": why,
                                        "stacks": stacks})
            except jax.errors.JaxRuntimeError:  # another host was first, which explains this end
                if (note := self.list("news").get("leave")) and note["host"] != self.me:
                    if note["why"] != why:
                        self._log_end(note)
                    self.code = note["code"]
            self.put(f"left/{self.me}", True)
            end = time.monotonic() + LINGER
            while self.me == 0 and time.monotonic() < end and len(self.list("left")) < self.count:
                time.sleep(0.05)

    def _follow_end(self, news: dict) -> None:
        """Ends this process where another host has published its end."""
        note = news.get("leave")
        if note and note["host"] != self.me and not self._closed.is_set():
            self._log_end(note)
            self.leave(note["code"], note["why"])

    def _log_end(self, note: dict) -> None:
        if self._end_logged or not note["why"]:
            return
        self._end_logged = True
        log(f"{self.name(note['host'])} ended the job: {note['why']}")
        if note["stacks"]:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)

    def _follow(self) -> None:
        stop_seen = False
        while not self._closed.wait(POLL):
            try:
                news = self.list("news")
                self._follow_end(news)
                if self.on_stop and not stop_seen and (note := news.get("stop")):
                    stop_seen = True
                    self.on_stop(note)
            except jax.errors.JaxRuntimeError as error:
                if not self._closed.is_set():
                    log(f"host {self.me}: host 0, the coordinator, is gone: {first_line(error)}")
                    self.leave(RESTARTABLE, "the coordinator is gone")
            except Restart as error:
                log(error.message)
                self.leave(RESTARTABLE, error.message)

    def close(self) -> None:
        """Stops reading news: call before the store is shut down."""
        self._closed.set()
        self._follower.join()


def exit_now(code: int) -> NoReturn:
    """Ends the process without waiting for threads, atexit functions or other hosts; releases its
    locks first."""
    lock.release_all()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def first_line(error: BaseException) -> str:
    """E.g. "ValueError: the first line of its text"."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


_abort_handler: Any = None


def restartable_abort(code: Callable[[], int]) -> None:
    """Makes abort() exit with `code()`.

    JAX's distributed client answers the loss of a host with abort() from a C++ thread, and a Python
    callback in its place fails (its argument, an absl::Status, has no Python type). So the C signal
    handler is a Python function. That is safe: the thread that aborts holds no lock of the
    interpreter and is not in the middle of one of its instructions.
    """
    global _abort_handler

    def on_abort(number):
        del number
        os.write(2, b"a host of this job is gone, or the runtime failed (see above); restart the "
                 b"job to resume\n")
        exit_now(code())

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _abort_handler = kind(on_abort)  # kept alive
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = [ctypes.c_int, kind], ctypes.c_void_p
    install(signal.SIGABRT, _abort_handler)
