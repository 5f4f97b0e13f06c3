"""This machine: N processes, as if each were a host, to try out what a cluster will do, or for this
machine's own cards.

`--devices=D` gives each process D fake CPU devices.
"""

import pathlib
import shlex
import sys

from launch import cli, sweep_record
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


def run(jobs: list[Job], place: Place, record: sweep_record.Record | None = None) -> int:
    """Runs the jobs one after the other; logs below `place.folder`.

    Args:
      jobs: one, or the members of a sweep.
      place: where.
      record: of a sweep: members that are done are left out, one that fails is told, and the
        others go on. A signal ends them all.

    Returns:
      The exit code: 0, or of those that failed the one that a new start would not mend.
    """
    codes = []
    with processes.signals() as caught:
        for job in jobs:
            if record and record.is_done(job):
                print(f"{job.name}: done, skipped", file=sys.stderr, flush=True)
                continue
            logs = pathlib.Path(place.folder) / job.name
            print(f"{shlex.join(job.command)}\nin {place.processes} processes; logs in {logs}",
                  file=sys.stderr, flush=True)
            if record:
                record.begun(job)
            code = processes.run(
                (*cli.child(job.module), *job.arguments), processes=place.processes,
                environment=environment(job, place), logs=logs, cwd=pathlib.Path(place.cwd),
                max_restarts=place.max_restarts, grace=place.grace, caught=caught)
            if record:
                record.ended(job, code, stopped=bool(caught), log=logs / "process-0.log")
            codes += [code] * bool(code)
            if caught:
                break
    return processes.verdict(codes)


def environment(job: Job, place: Place) -> dict[str, str]:
    """The job's variables, with the fake devices."""
    fake = {"JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(place.devices)} if place.devices else {}
    return job.environment | fake
