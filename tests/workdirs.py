"""What a finished or interrupted job left in its workdir."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from avjax.sharding.rules import named_leaves


def records(workdir: Path, kind: str = "train") -> list[dict]:
    """Whole lines of metrics.jsonl; none where it is not there yet."""
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def told(workdir: Path, kind: str = "train") -> list[dict]:
    """`records` without what a clock says."""
    return [{k: v for k, v in r.items() if k not in ("steps_per_second", "mfu")}
            for r in records(workdir, kind)]


def steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints, sorted."""
    return sorted(int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit())


def state_at(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path."""
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return dict(named_leaves(reader.restore(folder,
                                                args=ocp.args.PyTreeRestore(restore_args=args))))
