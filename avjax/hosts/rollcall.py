"""Waiting for all processes of a job to connect: which are missing, and an error in one line.

When one is missing, JAX's client ends the process from C++, with a stack trace and without a name.
So the deadline is kept here, and the client gets a later one.
"""

import contextlib
import ipaddress
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from avjax.hosts.cluster import Place
from avjax.hosts.peers import RESTARTABLE, exit_now, log

REMIND = 20.0  # seconds until a line says which processes are missing
SPARE = 60  # seconds that JAX's own deadline comes later
ESTABLISHED = "01"  # state of a connection in /proc/net/tcp


@contextlib.contextmanager
def deadline(place: Place, seconds: float) -> Iterator[None]:
    """Ends the process, restartable, when the block inside (connecting to the others) takes longer
    than `seconds`."""

    def end():
        log(f"restartable: {describe(place, f'after {seconds:.0f} s')}")
        exit_now(RESTARTABLE)

    def remind():
        log(describe(place, f"waits up to {seconds:.0f} s"))

    timers = [threading.Timer(seconds, end)]
    if seconds > REMIND:
        timers.append(threading.Timer(REMIND, remind))
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def describe(place: Place, when: str) -> str:
    """Which process this is, how many are expected and why, and which are seen from here."""
    text = f"process {place.me} of {place.count} expected ({place.source}), {when}: "
    if place.me == 0:
        others = connected(port_of(place.address))
        seen = ", ".join(f"{count} from {host}" for host,
                         count in sorted(others.items())) or "nobody else"
        text += f"besides this one came {seen}"
    elif answers(place.address):
        text += f"process 0 is at {place.address}, others are missing: its own log says who came"
    else:
        text += f"nothing answers at {place.address}, where process 0 should be"
    return (f"{text}; start all {place.count}, e.g. by srun or mpirun, or give --processes=1 to "
            "run this one alone")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def answers(address: str) -> bool:
    """Whether something listens there."""
    host = address.rpartition(":")[0].strip("[]")
    with contextlib.suppress(OSError), socket.create_connection((host, port_of(address)), 5):
        return True
    return False


def connected(port: int) -> Counter:
    """{address: processes} that are connected to a port of this machine, without this process, by
    Linux's table of connections."""
    found: Counter = Counter()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, here, there, state = line.split()[:4]
                if int(here.rpartition(":")[2], 16) == port and state == ESTABLISHED:
                    found[_address(there.rpartition(":")[0])] += 1
    own = next((host for host in found if ipaddress.ip_address(host).is_loopback
                or host in _own_addresses()), None)
    return found - Counter({own: 1} if own else {})


def _address(text: str) -> str:
    """Parses an IPv4 or IPv6 address of that table, whose words are in this machine's byte
    order."""
    words = [bytes.fromhex(text[at:at + 8]) for at in range(0, len(text), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    address = ipaddress.ip_address(b"".join(words))
    return str(getattr(address, "ipv4_mapped", None) or address)


def _own_addresses() -> set[str]:
    with contextlib.suppress(OSError):
        return {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    return set()
