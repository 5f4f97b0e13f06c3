"""What the processes of one job tell each other, over the coordinator's key-value store.

Host 0 keeps the store, so its death ends the job. JAX's heartbeats notice any other that dies: its
client then aborts the process, which `restartable_abort` turns into exit code 75. A host that ends
on purpose says so first, with its reason.
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

from avjax.storage import lock

RESTARTABLE = 75  # exit code (EX_TEMPFAIL) of a job that goes on when it is started again
USER = 2  # exit code of an error that starting again does not mend
POLL = 0.5  # seconds between looks at the news: what the others say to all
LINGER = 8.0  # seconds that host 0, at an early end, keeps the store up for the others to read why


class Restart(SystemExit):
    """The job cannot go on here, but goes on from its last checkpoint when it is started again:
    exit code 75."""

    def __init__(self, message: str):
        super().__init__(RESTARTABLE)
        self.message = message

    def __str__(self) -> str:
        return self.message


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Peers:
    """This process among `count`; keys live under one prefix. All methods may be called from any
    thread."""

    def __init__(self, client, me: int, count: int, prefix: str = "avjax"):
        self.client, self.me, self.count, self.prefix = client, me, count, prefix
        self.code = RESTARTABLE  # what this process exits with when it is ended from outside
        # called once, when a host asks all to stop
        self.on_stop: Callable[[dict], None] | None = None
        self._uses: Counter = Counter()
        self._told = False  # why the job ends
        self._leaving, self._closed = threading.Lock(), threading.Event()
        self.put(f"host/{me}", socket.gethostname())
        self._follower = threading.Thread(target=self._follow, name="peers", daemon=True)
        self._follower.start()

    def unique(self, name: str) -> str:
        """`name` numbered by how often this host has used it; hosts that do the same things get the
        same keys."""
        self._uses[name] += 1
        return f"{name}#{self._uses[name]}"

    @staticmethod
    def before(key: str) -> str:
        """The key that `unique` gave the time before; "" for the first."""
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
        """The value of `key` once some host has put it; says every `remind` seconds that it still
        waits.

        Raises Restart when it does not come in `seconds`, or the store is gone.
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
                                  f"{what}: "
                                  f"{first_line(error)}") from error
            self._read_farewell(self.list("news"))
            if time.monotonic() - reminded > remind:
                reminded = time.monotonic()
                say(f"{self.name(self.me)} waits for {what} ({reminded - began:.0f} s)")
        raise Restart(f"{self.name(self.me)} waited {seconds:.0f} s in vain for {what}")

    def name(self, host: int) -> str:
        """"host 3 (its machine's name)"."""
        try:
            machine = self.get(f"host/{host}")
        except jax.errors.JaxRuntimeError:
            machine = None
        return f"host {host}" + (f" ({machine})" if machine else "")

    def names(self, hosts) -> str:
        hosts = sorted(hosts)
        return ", ".join(map(self.name, hosts[:8])) + (f" and {len(hosts) - 8} more"
                                                       if len(hosts) > 8 else "")

    def leave(self, code: int, why: str, *, stacks: bool = False) -> NoReturn:
        """Ends this process with `code`, and all others: a launcher that looks at one of them sees
        what it would see at any. They tell `why`, unless it is empty; with `stacks` they also print
        what each of their threads is doing."""
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # another thread is at it
        self.code = code
        talk = threading.Thread(target=self._say_farewell, args=(code, why, stacks), daemon=True)
        talk.start()
        talk.join(LINGER + 1)
        exit_now(self.code)

    def _say_farewell(self, code: int, why: str, stacks: bool) -> None:
        # host 0 is gone: nobody is left to be told
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            try:
                self.put("news/leave", {"host": self.me, "code": code, "why": why,
                                        "stacks": stacks})
            except jax.errors.JaxRuntimeError:  # somebody was first, and this is what came of it
                if (note := self.list("news").get("leave")) and note["host"] != self.me:
                    if note["why"] != why:
                        self._tell(note)
                    self.code = note["code"]
            self.put(f"left/{self.me}", True)
            end = time.monotonic() + LINGER
            while self.me == 0 and time.monotonic() < end and len(self.list("left")) < self.count:
                time.sleep(0.05)

    def _read_farewell(self, news: dict) -> None:
        note = news.get("leave")
        if note and note["host"] != self.me and not self._closed.is_set():
            self._tell(note)
            self.leave(note["code"], note["why"])

    def _tell(self, note: dict) -> None:
        if self._told or not note["why"]:
            return
        self._told = True
        say(f"{self.name(note['host'])} ended the job: {note['why']}")
        if note["stacks"]:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)

    def _follow(self) -> None:
        told = False
        while not self._closed.wait(POLL):
            try:
                news = self.list("news")
                self._read_farewell(news)
                if self.on_stop and not told and (note := news.get("stop")):
                    told = True
                    self.on_stop(note)
            except jax.errors.JaxRuntimeError as error:
                if not self._closed.is_set():
                    say(f"host {self.me}: host 0, the coordinator, is gone: {first_line(error)}")
                    self.leave(RESTARTABLE, "the coordinator is gone")
            except Restart as error:
                say(error.message)
                self.leave(RESTARTABLE, error.message)

    def close(self) -> None:
        """No more news are read: call before the store goes."""
        self._closed.set()
        self._follower.join()


def exit_now(code: int) -> NoReturn:
    """Ends the process without waiting for threads, atexit functions or other hosts. Its locks go
    first."""
    lock.let_go()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


_abort_handler: Any = None


def restartable_abort(code: Callable[[], int]) -> None:
    """Makes abort() exit with `code()`.

    JAX's distributed client knows no other answer to a lost peer than abort(), from a C++ thread,
    and a Python callback in its place fails (it is given an absl::Status that has no Python type).
    So the C signal handler is a Python function: the abort is raised by a thread that holds no lock
    of the interpreter, not in the middle of one of its instructions.
    """
    global _abort_handler

    def ended(number):
        del number
        os.write(2, b"a host of this job is gone, or the runtime failed (see above); restart the "
                 b"job to go on\n")
        exit_now(code())

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _abort_handler = kind(ended)  # kept alive
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = [ctypes.c_int, kind], ctypes.c_void_p
    install(signal.SIGABRT, _abort_handler)
