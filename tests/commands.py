"""Commands of ours, each in a process of its own, forked from one that has imported what they
need and touched no device: a start costs only its work. A process begins, is told its arguments,
environment and folder, fails and ends as that of `python -m launch.COMMAND` does.

What such a process imports itself is the command's module and what the rest does not need. Where
the import is the question (whose modules are found, which plugin is missing), start Python.
"""

import atexit
import functools
import itertools
import json
import os
import pathlib
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
PAUSE = 0.02  # seconds between two looks at whether a process has ended


class Process:
    """One that runs; its output goes to files."""

    def __init__(self, folder: pathlib.Path, pid: int):
        self._folder, self.pid = folder, pid

    def poll(self) -> int | None:
        """Its exit code; None: it has not ended."""
        code = self._folder / "code"
        return int(code.read_text()) if code.exists() else None

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 500) -> subprocess.CompletedProcess:
        """What came of it. TimeoutExpired: it was killed after so many seconds."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(PAUSE)
        out, errors = ((self._folder / name).read_text() for name in ("out", "errors"))
        return subprocess.CompletedProcess(str(self.pid), code, out, errors)


def start(command: str, *arguments: str, env: dict[str, str] | None = None,
          cwd: os.PathLike | str = ROOT) -> Process:
    """`python -m launch.COMMAND ARGUMENTS`; `env`: the whole environment, else this process's.
    JAX has read its own variables by then."""
    server, folder, count = _server()
    here = folder / str(next(count))
    here.mkdir()
    server.stdin.write(json.dumps([f"launch.{command}", list(map(str, arguments)), str(cwd),
                                   dict(os.environ if env is None else env), str(here)]) + "\n")
    server.stdin.flush()
    return Process(here, int(server.stdout.readline()))


def run(command: str, *arguments: str, **how) -> subprocess.CompletedProcess:
    """`start`, and its end."""
    return start(command, *arguments, **how).wait()


@functools.cache
def _server():
    """(the server, the folder of what its children write, numbers for them)"""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="avjax_test_commands_"))
    server = subprocess.Popen([sys.executable, "-m", "tests.commands"], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})

    def end():
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return server, folder, itertools.count()


def _serve() -> tuple[str, list[str]] | None:
    """Forks a child for every request; returns in each child, with its module and arguments, and
    at the end of requests in the server, with None."""
    children: dict[int, str] = {}
    while True:
        if select.select([sys.stdin], [], [], PAUSE if children else None)[0]:
            if not (line := sys.stdin.readline()):
                return None
            module, arguments, cwd, env, folder = json.loads(line)
            if not (pid := os.fork()):
                _become(cwd, env, folder)
                return module, arguments
            children[pid] = folder
            print(pid, flush=True)
        for pid in list(children):
            if (ended := os.waitpid(pid, os.WNOHANG))[0]:
                code = pathlib.Path(children.pop(pid)) / "code.part"
                code.write_text(str(os.waitstatus_to_exitcode(ended[1])))
                code.rename(code.with_suffix(""))


def _become(cwd: str, env: dict[str, str], folder: str) -> None:
    for number, name in ((0, os.devnull), (1, f"{folder}/out"), (2, f"{folder}/errors")):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)


if __name__ == "__main__":
    import eval.registry  # noqa: F401
    import launch.jobs.generate
    import launch.jobs.stages
    import launch.training  # noqa: F401

    if asked := _serve():
        sys.argv[1:] = asked[1]
        runpy.run_module(asked[0], run_name="__main__", alter_sys=True)
