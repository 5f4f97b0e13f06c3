"""Real processes that stand for hosts, started several at a time as one job (see job.py), and what
they leave behind."""

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.workdirs import records

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# for a job to get somewhere: ends a hang, no more
PATIENCE = float(os.environ.get("AVJAX_TEST_SECONDS", 500))
FAST = "--xla_backend_optimization_level=0"  # to compile: every process does so
ENV = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONUNBUFFERED": "1",
       "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FAST}".strip()}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Zygote:
    """Starts processes by forking, see zygote.py: a second of imports less for each."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, str(HERE / "zygote.py")], cwd=ROOT,
                                        env=os.environ | ENV, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.lock = threading.Lock()
        atexit.register(self.process.kill)

    def start(self, arguments: list[str], log: Path, env: dict[str, str]) -> int:
        with self.lock:
            self.process.stdin.write(json.dumps({"arguments": arguments, "log": str(log),
                                                 "env": env}) + "\n")
            self.process.stdin.flush()
            return int(self.process.stdout.readline())


zygote = functools.cache(Zygote)


@functools.cache
def logs() -> str:
    """Folder of all logs, gone with the test run."""
    folder = tempfile.mkdtemp(prefix="avjax_hosts_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Forked:
    """A process of the zygote's, with the methods of Popen that are used here."""

    def __init__(self, arguments, log, env):
        self.log, self.pid = log, zygote().start(arguments, log, env)

    def poll(self) -> int | None:
        code = self.log.with_name(self.log.name + ".code")
        return int(code.read_text()) if code.exists() else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Job:
    """`count` processes of one job; `arguments` of job.py are the same for all, `each` adds to
    one's. Use as a context manager.

    fresh: real starts of Python, each with its own order of sets, instead of forks.
    """

    def __init__(self, count: int, *arguments, each=None, fresh: bool = False):
        port, self.folder = free_port(), Path(tempfile.mkdtemp(dir=logs()))
        self.processes = []
        for host in range(count):
            env = {} if count == 1 else {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                                         "JAX_NUM_PROCESSES": str(count),
                                         "JAX_PROCESS_ID": str(host)}
            own = [str(a) for a in (*arguments, *(each[host] if each else ()))]
            log = self.folder / f"{host}.log"
            if fresh:
                with log.open("w") as file:
                    self.processes.append(subprocess.Popen([sys.executable, str(HERE / "job.py"),
                                                            *own], cwd=ROOT, stdout=file,
                                                           stderr=file, env=os.environ | ENV | env))
            else:
                self.processes.append(Forked(own, log, env))

    def log(self, host: int = 0) -> str:
        file = self.folder / f"{host}.log"
        return file.read_text() if file.exists() else ""

    def logs(self) -> str:
        return "\n".join(f"--- host {h} ({p.poll()})\n{self.log(h)[-3000:]}" for h,
                         p in enumerate(self.processes))

    def until(self, condition, seconds: float = PATIENCE) -> None:
        """Waits for `condition()`; fails when a process ends before, or time runs out."""
        end = time.monotonic() + seconds
        while not condition():
            assert all(p.poll() is None for p in self.processes), self.logs()
            assert time.monotonic() < end, self.logs()
            time.sleep(0.01)

    def says(self, text: str, host: int = 0):
        return lambda: text in self.log(host)

    def kill(self, number: int, host: int = 0) -> None:
        self.processes[host].send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """Exit codes."""
        end = time.monotonic() + seconds
        while any(p.poll() is None for p in self.processes):
            assert time.monotonic() < end, f"still running after {seconds} s: {self.logs()}"
            time.sleep(0.01)
        return [p.poll() for p in self.processes]

    def ends(self, *codes: int) -> "Job":
        """Waits for the end; fails unless the exit codes are these (all 0 where none are given)."""
        assert self.wait() == list(codes or [0] * len(self.processes)), self.logs()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)


def losses(workdir: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in records(workdir)]

