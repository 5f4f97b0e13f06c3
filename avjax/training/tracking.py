"""Weights & Biases, for those who use it: the scalars of metrics.jsonl under the same names as in TensorBoard.

The package is imported only when config.train.wandb names a project; `pip install avjax[wandb]` brings it. Where it sends
things, and as whom, is its own affair (WANDB_MODE=offline keeps them on disk).
"""

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avjax.errors import UserError
from avjax.training import paths

ID_FILE = "wandb.json"


class Wandb:
    """One run of a project, the same one again when a workdir goes on.

    Raises UserError when the package is not there.
    """

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        """workdir: its first path decides the run's id, its last folder the run's name."""
        try:
            package = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError("Weights & Biases is not installed", where=f"config.train.wandb={project!r}", found=str(error),
                            way_out="pip install avjax[wandb], or leave config.train.wandb empty") from error
        identity = paths.identity(workdir, ID_FILE, hashlib.sha256(str(workdir).encode()).hexdigest()[:16])
        self._run = package.init(project=project, name=workdir.name, id=identity, resume="allow", config=dict(config))
        # Steps done again after a kill come twice; W&B's own step may only grow, so ours is a value like the others.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step} | dict(values))

    def close(self) -> None:
        self._run.finish()
