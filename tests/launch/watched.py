"""A toy experiment with checkpoints to watch; run as a program it watches WORKDIR, which is killed:
python -m tests.launch.watched WORKDIR"""

import pathlib
import sys

import jax.numpy as jnp

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.systems import api
from data_pipelines import decode
from eval.report import page
from launch.jobs.scoring import watch
from tests.eval import toys


def config():
    c = toys.config(splits=("valid",), max_examples=3, batch_size=2)
    c.data.dir = "{workdir}/features"
    c.train.steps = 3
    return c


def save(workdir, *steps: int) -> None:
    """Checkpoints whose noise falls with the steps."""
    checkpoints = Checkpoints(workdir, keep_last=9, keep_best=0)
    for step in steps:
        params = toys.System().init(None) | {"noise": jnp.float32(1 / step)}
        checkpoints.save(step, {"params": params}, {"recipes": {"mel": {"kind": "toy"}}})
    checkpoints.close()


def install(patch) -> None:
    """The toy's system and decoder, and no report; `patch`: setattr."""
    patch(api, "build", lambda _: toys.System())
    patch(decode.Decoder, "from_dataset", classmethod(lambda cls, dataset, vocoder: toys.Decoder()))
    patch(page, "write", lambda *_: None)


if __name__ == "__main__":
    install(setattr)
    folder = pathlib.Path(sys.argv[1])
    watch.watch(config(), folder, folder / "out", idle=60.0, every=0.1)
