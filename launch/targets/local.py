"""This machine: N processes, as if each were a host, to try out what a cluster will do, or for this
machine's own cards.

`--devices=D` gives each process D fake CPU devices.
"""

import pathlib
import shlex
import sys

from launch import cli
from launch.targets import Job, Place, Submission, processes

NEEDS = ()
OPTIONS = ("max_restarts", "grace", "processes", "devices")
PLATFORMS = ("cpu", "gpu", "tpu")


def render(jobs: list[Job], place: Place) -> Submission:
    """The commands, one a process, with the variables that make it one of several."""
    commands = []
    for job in jobs:
        for k in range(place.processes):
            peers = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:PORT",
                     "JAX_NUM_PROCESSES": str(place.processes),
                     "JAX_PROCESS_ID": str(k)} if place.processes > 1 else {}
            commands.append(("env",
                             *(f"{name}={value}" for name,
                               value in (environment(job, place) | peers).items()),
                             *job.command))
    return Submission({}, tuple(commands))


def run(jobs: list[Job], place: Place) -> int:
    """Runs the jobs one after the other; logs below `place.folder`. Returns the first exit code
    that is not 0."""
    for job in jobs:
        logs = pathlib.Path(place.folder) / job.name
        print(f"{shlex.join(job.command)}\nin {place.processes} processes; logs in {logs}",
              file=sys.stderr, flush=True)
        code = processes.run(
            (*cli.child(job.module), *job.arguments), processes=place.processes,
            environment=environment(job, place), logs=logs, cwd=pathlib.Path(place.cwd),
            max_restarts=place.max_restarts, grace=place.grace)
        if code:
            return code
    return 0


def environment(job: Job, place: Place) -> dict[str, str]:
    """The job's variables, with the fake devices."""
    fake = {"JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(place.devices)} if place.devices else {}
    return job.environment | fake
