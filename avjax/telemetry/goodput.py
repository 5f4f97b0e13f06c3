"""Goodput: the share of a job's time, over all its starts, that went into steps that were kept.

WORKDIR/goodput.json holds one entry per start: when it began and was last seen, its first and last
step, and the seconds of its main thread by phase. Host 0 writes it at log steps and after long
phases, every save included, so a kill loses seconds, not the entry. Steps done again after a kill
are lost work: their share of the start's step time counts as such. The time between the last sign
of a start and the next start (the scheduler, the start of Python, the opening of the data) is idle,
unless the job was done by then.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avjax.errors import StorageError
from avjax.storage import paths

FILE = "goodput.json"
INTERVAL = 10.0  # seconds between writes
STEP = "step"  # the phase of steps, without their wait for data
# Phase -> how a table names it; "restore" includes the check of the checkpoint.
LABELS = {"kept": "train steps", "lost": "steps done again", "data wait": "waiting for data",
            "compile": "compiling", "restore": "restoring", "start": "starting",
            "evaluation": "evaluating", "checkpoint": "saving",
            "other": "other", "idle": "between starts"}


@dataclasses.dataclass
class Summary:
    """All starts of a job: seconds by phase (the keys of LABELS), which add up to `total`."""

    seconds: dict[str, float]
    total: float
    starts: int
    kept_steps: int
    lost_steps: int

    @property
    def goodput(self) -> float:
        """The fraction of all time that went into steps that were kept."""
        return self.seconds["kept"] / self.total if self.total > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """For metrics.jsonl: fractions of the total, and steps."""
        fractions = {f"{name.replace(' ', '_')}_fraction": round(s / (self.total or 1.0), 5)
                     for name, s in self.seconds.items()}
        return {"goodput": round(self.goodput, 5), "total_seconds": round(self.total, 3),
                "starts": self.starts, "kept_steps": self.kept_steps,
                "lost_steps": self.lost_steps, **fractions}

    def table(self) -> str:
        """Kept steps, then the rest, the largest first."""
        rows = sorted(((s, name) for name, s in self.seconds.items() if s > 0.0005 * self.total),
                      key=lambda row: (row[1] == "kept", *row), reverse=True)
        counts = {"kept": f"{self.kept_steps} steps", "lost": f"{self.lost_steps} steps",
                "idle": f"{self.starts} starts"}
        return "\n".join(f"  {LABELS[name]:<17}{s:>10.1f} s {s / self.total:>7.1%}"
                         + (f"   {counts[name]}" if name in counts else "") for s, name in rows)


def summarise(starts: Sequence[Mapping[str, Any]]) -> Summary:
    """The sums over `starts`, entries of goodput.json, oldest first."""
    seconds = dict.fromkeys(LABELS, 0.0)
    kept = lost = 0
    for index, start in enumerate(starts):
        reached = max(start["to"], *(later["from"] for later in starts[index + 1:index + 2]),
                      start["from"])
        done = reached - start["from"]
        # A later start that began at an earlier step did these steps again.
        kept_until = min([reached, *(later["from"] for later in starts[index + 1:])])
        good = max(0, min(done, kept_until - start["from"]))
        kept += good
        lost += done - good
        for name, value in start["seconds"].items():
            if name == STEP:
                share = good / done if done else 1.0
                seconds["kept"] += value * share
                seconds["lost"] += value * (1 - share)
            else:
                seconds[name if name in seconds else "other"] += value
        if index and starts[index - 1].get("end") != "done":
            seconds["idle"] += max(0.0, start["began"] - starts[index - 1]["seen"])
        span = start["seen"] - start["began"]
        seconds["other"] += max(0.0, span - sum(start["seconds"].values()))
    return Summary(seconds, sum(seconds.values()), len(starts), kept, lost)


class Ledger:
    """This start's entry in WORKDIR/goodput.json, among those before it."""

    def __init__(self, workdir: Path, *, step: int, began: float | None = None):
        """began: seconds ago."""
        self._file = workdir / FILE
        self._written = 0.0
        now = time.time()
        self.starts = read(workdir)
        self.starts.append({"began": now - (began or 0.0), "seen": now, "from": step, "to": step,
                            "end": "killed", "seconds": {}})

    def update(self, step: int, seconds: Mapping[str, float], *, outcome: str = "",
               now: bool = False) -> None:
        """`step` steps are done, with so many seconds by phase. Written at most every INTERVAL,
        unless `now` or with an `outcome`."""
        entry = self.starts[-1]
        clock = time.time()
        entry |= {"to": step, "seen": clock,
                  "seconds": {k: round(v, 3) for k, v in seconds.items()}}
        if outcome:
            entry["end"] = outcome
        if now or outcome or clock - self._written >= INTERVAL:
            self._written = clock
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError, StorageError):  # the checkpoint reports a full disk
            paths.write_text(self._file, json.dumps({"starts": self.starts}))

    def summary(self) -> Summary:
        return summarise(self.starts)


def read(workdir: Path) -> list[dict[str, Any]]:
    """Entries of goodput.json; [] where there is no such file, or an incomplete one."""
    try:
        starts = json.loads((workdir / FILE).read_text())["starts"]
        return [s for s in starts if {"began", "seen", "from", "to", "seconds"} <= s.keys()]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return []
