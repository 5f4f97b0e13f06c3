"""Where a job runs: one file per kind of cluster, each with `render(jobs, place) -> Submission`.

A target writes text: manifests, scripts and the commands that submit them. Rendering runs nothing,
so `--dry_run` shows exactly what would run. No cloud library is imported; the cluster's own tools
(kubectl, xpk, gcloud, sbatch) do the work.
"""

import dataclasses
import importlib

from launch.targets.accelerators import Accelerator

NAMES = ("xpk", "gke", "tpu_vm", "slurm", "local")

# The exit code of a job that is to be started again: stopped with its state saved, or lost a host.
RESTART = 75
# A bug, a user's error, a command that cannot be run: a new start would fail too. All other codes
# are RESTART or a signal's (128 + n: killed, out of memory, aborted by the coordination service),
# and the job is started again.
FATAL = (1, 2, 126, 127)


@dataclasses.dataclass(frozen=True)
class Job:
    """One `python -m MODULE ARGUMENTS...`, the same on every host."""

    name: str  # of at most 40 letters, digits and dashes
    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    python: str = "python"  # of an image or an activated environment
    workdir: str = ""
    values: dict[str, str] = dataclasses.field(default_factory=dict)  # of its sweep, by name

    @property
    def command(self) -> tuple[str, ...]:
        return (self.python, "-m", self.module, *self.arguments)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and how to run. Empty = not given; every target lists what it NEEDS."""

    accelerator: Accelerator | None = None
    slices: int = 1  # or so many times the machines
    revision: str = ""  # of the code: names its archive and its image
    extras: tuple[str, ...] = ()  # of setup.py, to install with it
    max_restarts: int = 20
    grace: int = 300  # seconds between SIGTERM and SIGKILL: what a save may take
    project: str = ""
    zone: str = ""
    cluster: str = ""
    image: str = ""  # an image's name without tag, in a registry that the cluster reads
    queue: str = ""
    reservation: str = ""
    spot: bool = False
    service_account: str = ""
    namespace: str = ""
    mount: str = ""  # "WHAT:/path,..."
    runtime_version: str = ""
    account: str = ""
    time: str = ""
    setup: str = ""  # a line of shell before the job: `module load ...`, `. venv/bin/activate`
    cpus_per_task: int = 0
    processes: int = 1
    devices: int = 0
    folder: str = ""  # where the submission's files are
    cwd: str = ""  # the user's current folder, to which his paths are relative


@dataclasses.dataclass(frozen=True)
class Submission:
    """Files to write into one folder, and commands to run in it, in order."""

    files: dict[str, str] = dataclasses.field(default_factory=dict)
    commands: tuple[tuple[str, ...], ...] = ()
    after: str = ""  # how to watch and end the jobs


def load(name: str):
    """The target's module: `render(jobs, place)`, `NEEDS` and `OPTIONS` (fields of Place) and
    `PLATFORMS`."""
    return importlib.import_module(f"launch.targets.{name}")
