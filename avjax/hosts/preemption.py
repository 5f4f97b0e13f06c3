"""SIGTERM and SIGINT: all hosts stop at the same step and save, or end at once with nothing to
save.

Inside `stop_together()` a signal to any host makes all of them stop after the same unit of work (a
train step, a batch of an evaluation), so that they can save together. Outside, at start-up, while
compiling or evaluating a finished model, it ends the job at once. Both exit with 75.

A Python signal handler would run between two bytecodes of the main thread, so not during a
compilation of minutes, and an exception raised there may come out of a library as another one (an
interrupted restore once looked like a broken checkpoint). So a thread reads the signals from a
wake-up socket and acts.
"""

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

import jax

from avjax.hosts import distributed
from avjax.hosts.distributed import RESTARTABLE, Restart
from avjax.hosts.peers import exit_now, log
from avjax.storage import lock

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGREE_SECONDS = 60.0  # in which all hosts must publish how far they are


class Preempted(Restart):
    """A signal arrived; the state is saved at `step`. Exits with RESTARTABLE."""

    def __init__(self, step: int, message: str = ""):
        super().__init__(message or f"stopped at step {step}")
        self.step = step


class Stopping:
    """Counts units of work, which all hosts do in the same order, and finds the last one after a
    stop is requested.

    Every host publishes how many units it has begun, and begins no other until the largest of these
    numbers is known: all hosts stop there. So no host waits in a collective for one that has
    stopped, and a host that waits for data stops at once where none is ahead of it.

    Attributes:
      why: e.g. "signal SIGTERM"; "" while no stop is requested.
    """

    def __init__(self):
        self.why = ""
        self._begun = 0
        self._last: int | None = None
        self._lock = threading.Lock()

    def proceed(self) -> bool:
        """Whether to do the next unit; call before each."""
        with self._lock:
            if self._last is not None and self._begun >= self._last:
                return False
            self._begun += 1
            return True

    def reached(self) -> bool:
        """Whether the last unit is done."""
        with self._lock:
            return self._last is not None and self._begun >= self._last

    def request(self, why: str) -> None:
        """Requests that all hosts stop."""
        lock.announce_end()
        peers = distributed.peers()
        if peers is None:
            with self._lock:
                self.why, self._last = self.why or why, self._begun
        elif not self.why:
            self.why = f"{why} ({peers.name(peers.me)})"
            # Fails where another host requested it at the same time.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                peers.put("news/stop", {"why": self.why})

    def agree_on_last_unit(self, why: str) -> None:
        """Finds, with all other hosts, where to stop. Raises Restart when one does not answer."""
        lock.announce_end()
        peers = distributed.peers()
        with self._lock:
            self.why = why
            peers.put(f"stop_begun/{peers.me}", self._begun)
            if peers.me == 0:
                begun = [peers.wait(f"stop_begun/{host}", AGREE_SECONDS,
                                    what=f"{peers.name(host)} to stop")
                         for host in range(peers.count)]
                peers.put("stop_last", max(begun))
            self._last = peers.wait("stop_last", AGREE_SECONDS,
                                    what="the hosts to agree where to stop")


_current: Stopping | None = None  # of the loop that is running
_listening = False


@contextlib.contextmanager
def stop_together() -> Iterator[Stopping]:
    """While inside there is a state to save: signals request a stop instead of ending the process.

    They still do so after a Preempted leaves the block, so that checksums and records are completed
    undisturbed.
    """
    global _current
    _current = Stopping()
    peers = distributed.peers()
    if peers is not None:
        peers.on_stop = on_stop
    try:
        yield _current
    except Preempted:
        raise
    except BaseException:
        _current = None
        raise
    _current = None


def on_stop(note: dict) -> None:
    """Reacts to a host's request that all stop; see Peers.on_stop."""
    stopping = _current
    if stopping is None:
        distributed.end_job(RESTARTABLE, f"{note['why']}: nothing to save yet")
    else:
        stopping.agree_on_last_unit(note["why"])


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Handles SIGTERM and SIGINT while inside; does nothing inside another such block or outside
    the main thread.

    A second SIGINT has its usual effect; a second SIGTERM, which some launchers send, has none.
    """
    global _listening, _current
    if _listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def on_signal(number, frame):  # in the main thread; the listener has seen it already
        del frame
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    for number in SIGNALS:
        signal.signal(number, on_signal)
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(ours,), name="signals", daemon=True)
    listener.start()
    _listening = True
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        _listening = False
        theirs.close()  # ends the listener
        listener.join(timeout=5.0)
        ours.close()
        _current = None


def _listen(source: socket.socket) -> None:
    """Acts on signals at once, in a thread, whatever the main thread does."""
    while numbers := source.recv(16):
        for number in numbers:
            if number not in SIGNALS:
                continue
            name, stopping = signal.Signals(number).name, _current
            if stopping is not None:
                stopping.request(f"signal {name}")
                continue
            message = (f"signal {name}: nothing to save here, stopping; start the same command "
                       "again to resume")
            log(message)
            distributed.end_job(RESTARTABLE, message)
            exit_now(RESTARTABLE)
