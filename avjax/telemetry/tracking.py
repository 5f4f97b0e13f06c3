"""Weights & Biases: the scalars of metrics.jsonl, named as in TensorBoard.

The package is imported only when config.train.wandb names a project (pip install avjax[wandb]).
Where it sends data, and as whom, is its own configuration (WANDB_MODE=offline keeps it on disk).
"""

import hashlib
import importlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avjax.errors import UserError
from avjax.storage import paths

ID_FILE = "wandb.json"


class Wandb:
    """One run of a project; a workdir that resumes continues the same run."""

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        """workdir: keeps the run's id; its last folder is the run's name.

        Raises UserError when the package is not installed.
        """
        try:
            package = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError("Weights & Biases is not installed",
                            where=f"config.train.wandb={project!r}", found=str(error),
                            hint="pip install avjax[wandb], or leave config.train.wandb empty"
                            ) from error
        self._run = package.init(project=project, name=workdir.name, id=run_id(workdir),
                                 resume="allow", config=dict(config))
        # Steps repeated after a kill come twice, and W&B's own step may only grow: so ours is a
        # value like the others.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step} | dict(values))

    def close(self) -> None:
        self._run.finish()


def run_id(workdir: Path) -> str:
    """The same whenever a workdir resumes, wherever it is moved to; another one for another
    machine's workdir of the same path."""
    older = (workdir / "metrics.jsonl").exists()  # of a version that named runs by their path
    new = hashlib.sha256(str(workdir).encode()).hexdigest() if older else uuid.uuid4().hex
    return paths.identity(workdir, ID_FILE, new[:16])
