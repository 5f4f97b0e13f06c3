"""Scores the checkpoints of a training while it runs."""

import json
import pathlib
import time

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from eval.run import steps
from launch.jobs import evaluate as jobs

CONFIG = "config.json"  # of the training


def watch(config, workdir: pathlib.Path, out: pathlib.Path, *, splits=None, named=None,
          idle: float, every: float, **kept) -> bool:
    """Scores every checkpoint of a workdir, the oldest first, and every new one as it appears.

    OUT/step_N/ gets the results of step N, OUT the rows, history.jsonl and a report of the last.
    Steps that were scored before are not scored again, a step that was begun goes on, and one with
    failed examples tries these. A checkpoint that is deleted while it is read, or broken, is left
    out with a line.

    Args:
      config, workdir, splits, named: see `evaluate`.
      idle: seconds without a new checkpoint after which it ends.
      every: seconds between looks.
      kept: keep_media and ranked_by of `evaluate`.

    Returns:
      Whether every example of every step was scored. It ends once the training's last step is
      scored. UserError: not one checkpoint has come, or what `evaluate` raises.
    """
    last, using = _last_step(config, workdir), None
    found: dict[int, dict | None] = {}  # of each step; None of one that is left out
    asked = tuple(splits or config.evaluate.splits)
    since = time.monotonic()
    while True:
        new = [s for s in checkpoints.steps_in(workdir / checkpoints.FOLDER) if s not in found]
        for step in new:
            found[step] = steps.scored(out, step, asked)
            if found[step] is None:
                using = using or jobs.opened(config, workdir, splits, named)
                found[step] = _score(config, workdir, out, step, using, kept)
            since = time.monotonic()
        if max(found, default=-1) >= last:
            print(f"step {max(found)} is the last of the training")
            break
        if time.monotonic() - since >= idle:
            print(f"no new checkpoint in {idle:g} s, the training's last step is {last}: the same "
                  "command goes on")
            break
        if not new:
            time.sleep(every)
    scored = [results for results in found.values() if results]
    if not scored:
        raise UserError("no checkpoint has been scored", where=str(workdir),
                        expected=f"{checkpoints.FOLDER}/<step>/ inside",
                        found=f"{len(found)} that could not be read",
                        hint="look after the training, or --watch_for=SECONDS")
    print(f"scored: {len(scored)} steps; history: {out / steps.FILE}")
    return not any(results["failed"] for results in scored)


def _score(config, workdir, out, step: int, using: jobs.Opened, kept: dict) -> dict | None:
    folder = workdir / checkpoints.FOLDER / str(step)
    print(f"step {step}:", flush=True)
    try:
        return jobs.evaluate(config, workdir, out=steps.folder(out, step), checkpoint=folder,
                             root=out, using=using, **kept)
    except UserError as error:
        if folder.exists() and not isinstance(error, checkpoints.Damaged):
            raise
        why = "broken" if folder.exists() else "gone"
        print(f"step {step} is left out: its checkpoint is {why}", flush=True)
        return None


def _last_step(config, workdir) -> int:
    """Of the training that writes there, else the config's."""
    try:
        return int(json.loads((workdir / CONFIG).read_text())["train"]["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return int(config.train.steps)
