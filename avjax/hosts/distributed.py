"""Several processes, one per host, as one job: they find each other, wait for each other and end
together.

In a job of one process every function here returns at once. Host 0, the main one, does what is done
once: it logs and writes records.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax._src import distributed as jax_distributed

from avjax.errors import RESTARTABLE, USER, UserError
from avjax.hosts import cluster, environment, rollcall
from avjax.hosts.peers import Peers, Restart, exit_now, first_line, log, restartable_abort

__all__ = ["RESTARTABLE", "USER", "Restart", "agree", "barrier", "configure", "end_job",
           "exit_now", "find", "gather", "initialize", "is_main", "log", "on_main", "peers",
           "process_count", "process_index", "raise_if_host_lost", "shutdown", "versions"]

# how long hosts wait for what host 0 does alone: its death ends the wait
STAGE_SECONDS = 7 * 86400.0
_peers: Peers | None = None
_barrier_seconds = 600.0


def initialize(coordinator: str = "", processes: int | None = None, process_id: int | None = None,
               *, heartbeat_seconds: float = 100, start_seconds: float = 300) -> bool:
    """Joins the job that the arguments, the environment or the cluster describe. Call before
    anything touches a device.

    Args:
      coordinator: "machine:port" of process 0; default $JAX_COORDINATOR_ADDRESS.
      processes: how many there are; default $JAX_NUM_PROCESSES.
      process_id: which one this is; default $JAX_PROCESS_ID, else the rank that Kubernetes, SLURM
        or Open MPI gave. What is missing comes from the cluster as JAX detects it: Cloud TPU VMs,
        GKE, SLURM, Open MPI.
      heartbeat_seconds: a process silent for so long counts as dead, and all others exit with 75.
      start_seconds: how long to wait for the others to appear.

    Returns:
      Whether there are several processes.

    Raises:
      UserError: an incomplete description.
      Restart: the others, or their names, did not appear in time.
    """
    global _peers
    if _peers is not None:
        return True
    place = cluster.find(coordinator, processes, process_id, start_seconds)
    if place is None:
        return False
    if place.address is None:
        raise UserError("this is one of several processes, and nothing says where they meet",
                        where=place.source, found=f"process {place.me} of {place.count}",
                        hint=f"{cluster.ALONE_HINT}, {cluster.COORDINATOR_HINT}")
    restartable_abort(lambda: _peers.code if _peers else RESTARTABLE)
    # JAX's own preemption notice takes SIGTERM alone, and only between steps; see
    # avjax.hosts.preemption.
    jax.config.update("jax_enable_preemption_service", False)
    address, count, me = place.address, place.count, place.me
    try:
        with rollcall.deadline(place, start_seconds):
            jax.distributed.initialize(address, count, me, local_device_ids=place.local,
                                       initialization_timeout=int(start_seconds) + rollcall.SPARE,
                                       heartbeat_timeout_seconds=int(heartbeat_seconds),
                                       cluster_detection_method="deactivate")
    except jax.errors.JaxRuntimeError as error:
        raise Restart(f"host {me} of {count} ({place.source}) did not find all others at {address} "
                      f"in {start_seconds:.0f} s: {first_line(error)}") from error
    jax.devices()  # the first look at devices needs all processes: while all are here
    _peers = Peers(jax_distributed.global_state.client, me, count)
    return True


def find(seconds: float = 60) -> tuple[int, int]:
    """(this process' number, how many there are) by the environment, without joining a job; (0, 1)
    where it describes none. For work in parts that share only a folder. Raises UserError, Restart
    as `initialize` does."""
    place = cluster.find(seconds=seconds)
    return (0, 1) if place is None else (place.me, place.count)


def configure(*, barrier_seconds: float) -> None:
    """Sets how long hosts wait for each other at barriers without a time of their own."""
    global _barrier_seconds
    _barrier_seconds = float(barrier_seconds)


def peers() -> Peers | None:
    """None in a job of one process."""
    return _peers


def process_count() -> int:
    """How many processes work together now; 1 again after `shutdown`."""
    return _peers.count if _peers else 1


def process_index() -> int:
    return _peers.me if _peers else 0


def is_main() -> bool:
    return process_index() == 0


def barrier(name: str, seconds: float | None = None) -> None:
    """Waits for all processes. Raises Restart, which names those that did not come in time."""
    if _peers is None:
        return
    seconds, key = seconds or _barrier_seconds, _peers.unique(f"barrier/{name}")
    try:
        _peers.put(f"{key}/{_peers.me}", True)
        _peers.client.wait_at_barrier(f"{_peers.prefix}/{key}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        missing: set[int] = set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            missing = set(range(_peers.count)) - {int(host) for host in _peers.list(key)}
        if missing:
            raise Restart(f"barrier {name!r}: after {seconds:.0f} s still missing: "
                          f"{_peers.names(missing)}") from error
        raise Restart(f"barrier {name!r} failed on {_peers.name(_peers.me)}: "
                      f"{first_line(error)}") from error
    if is_main():
        _peers.delete(key)


def gather(name: str, value: Any, seconds: float | None = None) -> list[Any]:
    """The values (JSON) of all processes, in their order, on every process."""
    if _peers is None:
        return [value]
    key = _peers.unique(f"gather/{name}")
    _peers.put(f"{key}/{_peers.me}", value)
    barrier(name, seconds)
    found = _peers.list(key)
    # All have read the previous values, or they would not be here.
    if is_main() and (previous := _peers.previous(key)):
        _peers.delete(previous)
    return [found[str(host)] for host in range(_peers.count)]


def on_main(name: str, function: Callable[[], Any], seconds: float = STAGE_SECONDS) -> Any:
    """Calls `function` on host 0 and returns its result (JSON) on every host; the others wait and
    log it. A UserError of host 0 is raised on all hosts."""
    if _peers is None:
        return function()
    key = _peers.unique(f"on_main/{name}")
    if is_main():
        try:
            value = function()
        except UserError as error:
            _peers.put(key, {"error": str(error)})
            raise
        _peers.put(key, {"value": value})
        return value
    answer = _peers.wait(key, seconds, what=f"{_peers.name(0)}: {name}")
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def agree(values: Mapping[str, Any], what: str = "settings") -> None:
    """Raises UserError on every host unless all have the same flat `values`; names the first key
    that differs, and the hosts. Values are sent only where their checksums differ."""
    if _peers is None:
        return
    text = json.dumps(dict(values), sort_keys=True, default=str)
    sums = gather(f"{what} of all hosts", hashlib.sha256(text.encode()).hexdigest()[:24])
    if len(set(sums)) == 1:
        return
    key, mine = _peers.unique(f"agree/{what}"), sums[_peers.me]
    if sums.index(mine) == _peers.me:  # one host sends for all with the same values
        _peers.put(f"{key}/{mine}", json.loads(text))
    found = {s: _peers.wait(f"{key}/{s}", _barrier_seconds,
                            what=f"{what} of {_peers.name(sums.index(s))}")
             for s in dict.fromkeys(sums)}
    ours = found[sums[0]]
    for name in sorted(set().union(*found.values())):
        others = {host: found[s].get(name) for host, s in enumerate(sums)
                  if found[s].get(name) != ours.get(name)}
        if others:
            value = next(iter(others.values()))
            same = [host for host, other in others.items() if other == value]
            raise UserError(f"the hosts differ in their {what}", where=name,
                            expected=f"{ours.get(name)!r}, as on {_peers.name(0)}",
                            found=f"{value!r} on {_peers.names(same)}",
                            hint="start every host with the same command, files and packages")


def versions() -> dict[str, str]:
    """Versions and settings that must be the same on every host, for the same program to be
    compiled and the same files to be written."""
    names = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {"python": platform.python_version()}
    found |= {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return environment.settings() | found


def raise_if_host_lost(error: jax.errors.JaxRuntimeError) -> None:
    """Raises Restart when a runtime error is most likely another host's: there are several
    processes, and it is not a lack of memory or the like."""
    if _peers is not None and not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT",
                                                         "UNIMPLEMENTED")):
        raise Restart(f"{_peers.name(_peers.me)}: the others cannot be reached any more: "
                      f"{first_line(error)}") from error


def end_job(code: int, why: str, *, stacks: bool = False) -> None:
    """Ends this process and all others, see Peers.leave; does nothing in a job of one process."""
    if _peers is not None:
        _peers.leave(code, why, stacks=stacks)


def shutdown() -> None:
    """Ends working together; all processes call it, and each then continues by itself."""
    global _peers
    if _peers is None:
        return
    barrier("the end of distributed work")
    job, _peers = _peers, None
    job.close()
    try:
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
        raise Restart(f"host {job.me}: the orderly end failed: {first_line(error)}") from error
