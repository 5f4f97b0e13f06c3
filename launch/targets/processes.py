"""One job as several processes of this machine, which find each other by JAX_COORDINATOR_ADDRESS.

Does what a cluster's launcher does: writes a log per process, passes signals on, ends the others
when one dies, and starts all of them again when they ended with 75 or by a signal that did not come
from here.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from launch import cli
from launch.targets import RESTART

POLL = 0.05  # seconds
PAUSE = 1.0  # before the first restart; doubled every time, up to 30
CARDS = pathlib.Path("/proc/driver/nvidia/gpus")  # an entry a card
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(command, *, processes: int, environment: dict[str, str], logs: pathlib.Path,
        cwd: pathlib.Path, max_restarts: int, grace: float, caught: list | None = None) -> int:
    """Runs the command in `processes` processes until all end; returns the job's exit code.

    Args:
      command: argv of every process.
      processes: how many; 1 = no coordinator, as if started by hand.
      environment: variables besides this process's own.
      logs: folder of process-K.log, to which each start appends; process 0's is also printed here.
      cwd: folder to run in.
      max_restarts: how often all are started again.
      grace: seconds between the first death, or a signal, and the end of those that remain
        (SIGKILL).
      caught: the list of `signals`, for a caller who runs several commands and has to know whether
        to go on.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with signals() if caught is None else contextlib.nullcontext(caught) as caught:
        for restart in range(max_restarts + 1):
            code = _once(command, processes, environment, logs, cwd, grace, caught)
            if code != RESTART or caught or restart == max_restarts:
                return code
            pause = min(PAUSE * 2**restart, 30.0)
            print(f"stopped with {code}, restart {restart + 1} of {max_restarts} in {pause:g} s",
                  file=sys.stderr, flush=True)
            _sleep(pause, caught)
            if caught:
                return code
    return code


def _once(command, processes, environment, logs, cwd, grace, caught) -> int:
    address = f"127.0.0.1:{_free_port()}"
    started, killed = [], set()
    with contextlib.ExitStack() as stack:
        # at its end, before anybody writes there
        echo = stack.enter_context(open(logs / "process-0.log", "a+b"))
        for k in range(processes):
            mine = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes),
                    "JAX_PROCESS_ID": str(k)}
            file = stack.enter_context(open(logs / f"process-{k}.log", "ab"))
            started.append(subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd,
                start_new_session=True, env=os.environ | {cli.PARENT: str(os.getpid())}
                | environment | (mine | cards(k, processes) if processes > 1 else {})))
        try:
            _watch(started, killed, caught, grace, echo)
        finally:
            for process in started:  # an error of ours leaves nobody behind
                _send(process, signal.SIGKILL)
                process.wait()
            _print_new(echo)
    codes = {k: process.returncode for k, process in enumerate(started)}
    bad = {k: code for k, code in codes.items() if code
           and k not in killed} or {k: code for k, code in codes.items() if code}
    for k, code in bad.items():
        if code != RESTART:
            _print_end(k, code, logs / f"process-{k}.log")
    return verdict(list(bad.values()))


def cards(k: int, processes: int) -> dict[str, str]:
    """Process k's share of this machine's GPUs; nothing where there are too few for all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    found = visible.split(",") if visible else [str(i) for i, _ in enumerate(CARDS.glob("*"))]
    each = len(found) // processes
    own = found[k * each:(k + 1) * each]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}


def verdict(codes: list[int]) -> int:
    """The job's exit code from the non-zero ones: an error that would occur again, else RESTART; 0
    for none."""
    errors = [code for code in codes if 0 < code < 128 and code != RESTART]
    return min(errors, default=RESTART if codes else 0)


def _watch(started, killed: set, caught: list, grace: float, echo) -> None:
    """Returns when all have ended; adds the numbers of those that it killed to `killed`."""
    passed_on = 0
    deadline = None
    ending = False
    while alive := [k for k, process in enumerate(started) if process.poll() is None]:
        _print_new(echo)
        for number in caught[passed_on:]:
            for k in alive:
                # After the second signal the user does not want to wait.
                _send(started[k], number if passed_on == 0 else signal.SIGKILL)
            passed_on += 1
            deadline = deadline or time.monotonic() + grace
        codes = [process.returncode for process in started if process.returncode]
        if codes and not ending:
            ending = True
            deadline = deadline or time.monotonic() + grace
            # After a 75 the others end by themselves, at the same step.
            if codes != [RESTART] * len(codes):
                for k in alive:
                    _send(started[k], signal.SIGTERM)
        if deadline and time.monotonic() > deadline:
            killed.update(alive)
            for k in alive:
                _send(started[k], signal.SIGKILL)
        time.sleep(POLL)


@contextlib.contextmanager
def signals():
    """The list of signals caught inside."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda received, frame: caught.append(received))
              for number in _PASSED_ON}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(process: subprocess.Popen, number: int) -> None:
    """Sends a signal; SIGKILL to the whole session, for the process's own children too (workers of
    the loader and of extraction)."""
    if number == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    elif process.poll() is None:
        process.send_signal(number)


def _sleep(seconds: float, caught: list) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not caught:
        time.sleep(POLL)


def _print_new(echo) -> None:
    if text := echo.read():
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()


def _print_end(k: int, code: int, log: pathlib.Path, lines: int = 5) -> None:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = log.read_bytes()[-4000:].decode(errors="replace").splitlines()[-lines:] if k else []
    print("\n  ".join([f"process {k} ended by {how} ({log})", *last]), file=sys.stderr, flush=True)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
