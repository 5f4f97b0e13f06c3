"""xpk: `xpk workload create` (flags of xpk 1.9) on a cluster that xpk made.

xpk writes the JobSet itself, which starts again after the codes of --restart-on-exit-codes, 42 and
127 to 255. It runs the command in a subshell of bash and sends SIGTERM to that; `exec` replaces the
subshell by Python.
"""

import shlex

from launch.targets import RESTART, Job, Place, Submission, packaging
from launch.targets.accelerators import Accelerator

NEEDS = ("accelerator", "cluster", "image")
OPTIONS = ("max_restarts", "grace", "project", "zone", "spot", "reservation")
PLATFORMS = ("tpu",)


def render(jobs: list[Job], place: Place) -> Submission:
    """The Dockerfile, and the commands that pack, build, push and create the workloads."""
    files = {"Dockerfile": packaging.dockerfile(place.image, place.revision, place.extras)}
    where = (*_flag("project", place.project), *_flag("zone", place.zone))
    commands = (*packaging.image_commands(place.image, place.revision),
                *(_create(job, place, where) for job in jobs))
    shown = " ".join((f"--cluster={place.cluster}", *where))
    return Submission(files, commands, f"state: xpk workload list {shown}\n"
                      f"end:   xpk workload delete --workload={jobs[0].name} {shown}")


def _create(job: Job, place: Place, where: tuple[str, ...]) -> tuple[str, ...]:
    return ("xpk", "workload", "create", f"--workload={job.name}", f"--cluster={place.cluster}",
            *where, f"--tpu-type={_type(place.accelerator)}", f"--num-slices={place.slices}",
            f"--docker-image={place.image}:{place.revision}",
            f"--command=exec {shlex.join(job.command)}",
            *(f"--env={name}={value}" for name, value in job.environment.items()),
            f"--max-restarts={place.max_restarts}", f"--restart-on-exit-codes={RESTART}",
            f"--termination-grace-period-seconds={place.grace}",
            *(("--spot",) if place.spot else ()), *_flag("reservation", place.reservation))


def _type(accelerator: Accelerator) -> str:
    """By shape for 3-D slices, of which several have the same number of chips."""
    if len(accelerator.shape) < 3:
        return accelerator.accelerator_type
    return f"{accelerator.tpu_type}-{accelerator.shape_text}"


def _flag(name: str, value: str) -> tuple[str, ...]:
    return (f"--{name}={value}",) if value else ()
