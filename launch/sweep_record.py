"""sweep.json: the members of a sweep and how each of them has ended.

    {"sweep": ["config=highway,shared", "config.seed=0,1"],
     "members": {"config=highway_seed=0": {"workdir": "config=highway_seed=0",
         "values": {"config": "highway", "seed": "0"},
         "train": {"arguments": [...], "state": "done", "code": 0, "results": true}}, ...}}

A workdir is relative to the file where it lies below it. States: waiting, running, done, failed,
stopped; beyond waiting on this machine only. A member stays when a later submission names others
(another seed), so the file lists all that have ever been asked for. `avjax collect` reads it.
"""

import json
from pathlib import Path
from typing import Any

from avjax.storage import paths
from eval.sweep import members
from launch.targets import Job

LOG_TAIL = 8000  # bytes of a log in which the reason of a failure is looked for


class Record:
    """The file of one sweep, written whole at every change.

    Args:
      root: folder of the file, absolute: the sweep's workdir, or the submission's folder where
        this machine does not see that.
      sweep: --sweep as given.
      jobs: the members of this submission.
    """

    def __init__(self, root: Any, sweep: list[str], jobs: list[Job]):
        self.root, self.jobs = root, jobs
        found = members.record(root) or {"members": {}}
        self.members = found["members"]
        for job in jobs:
            member = self.members.setdefault(label(job), {})
            member |= {"workdir": self._inside(job.workdir), "values": job.values}
            before = member.get(kind(job), {})
            if before.get("arguments") != list(job.arguments):
                before = {"state": "waiting"}
            member[kind(job)] = before | {"arguments": list(job.arguments)}
        self.sweep = sweep
        self._write()

    def is_done(self, job: Job) -> bool:
        """Whether the same job has ended well, and what it made is still there."""
        state = self.of(job)
        folder = paths.folder(job.workdir)
        return state["state"] == "done" and folder.exists() and (
            not state["results"] or (folder / members.RESULTS).exists())

    def begun(self, job: Job) -> None:
        self._set(job, {"state": "running"})

    def ended(self, job: Job, code: int, *, stopped: bool, log: Path) -> None:
        """Keeps the exit code and, of a failure, the last line that the job wrote."""
        if code == 0:
            results = (paths.folder(job.workdir) / members.RESULTS).exists()
            self._set(job, {"state": "done", "code": 0, "results": results})
        else:
            self._set(job, {"state": "stopped" if stopped else "failed", "code": code,
                            "reason": last_words(log), "log": str(log)})

    def of(self, job: Job) -> dict:
        return self.members[label(job)][kind(job)]

    def summary(self) -> str:
        """How many members of this submission are in which state, and why some have failed."""
        states = [self.of(job)["state"] for job in self.jobs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines = [f"sweep {self.root}: {counts}"]
        lines += [f"  {label(job)} failed with {state['code']}: {state['reason']} ({state['log']})"
                  for job in self.jobs if (state := self.of(job))["state"] == "failed"]
        return "\n".join(lines)

    def _inside(self, workdir: str) -> str:
        folder = workdir if paths.is_remote(workdir) else str(Path(workdir).absolute())
        return folder.removeprefix(f"{self.root}/")

    def _set(self, job: Job, state: dict) -> None:
        self.members[label(job)][kind(job)] = state | {"arguments": list(job.arguments)}
        self._write()

    def _write(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        paths.write_text(self.root / members.FILE, json.dumps(
            {"sweep": self.sweep, "members": self.members}, indent=1) + "\n")


def label(job: Job) -> str:
    """A member's name: its values, as in its workdir."""
    return "_".join(f"{name}={value}" for name, value in job.values.items())


def kind(job: Job) -> str:
    """"train" or "evaluate"."""
    return job.module.rpartition(".")[2]


def last_words(log: Path) -> str:
    """The error that a log ends with, else its last line."""
    lines = log.read_bytes()[-LOG_TAIL:].decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or ["no output"])[-1]
