"""Subprocess of the resume tests: trains the toy system or a tiny AV-Flow from an endless in-memory
loader.

python run_job.py WORKDIR SYSTEM DEVICES MESH STEPS [SECONDS_A_BATCH [BATCHES]]      MESH like data=2,fsdp=4

After so many batches none comes, for whoever wants to kill it before its end.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402

from avjax.sharding.mesh import make_mesh  # noqa: E402
from avjax.systems import api  # noqa: E402
from avjax.training.evaluators import HeldOutLoss  # noqa: E402
from avjax.training.loop import train  # noqa: E402
from tests.training import toy  # noqa: E402


class SpecLoader(toy.ToyLoader):
    """Random batches for any system's batch_spec, batch k a function of k."""

    def __init__(self, system, batch_size, segment, pause=0.0, batches=10**6):
        super().__init__(batch_size)
        self.shapes = api.example_batch(system, batch=batch_size, time=segment)
        self.pause, self.batches = pause, batches

    def __next__(self):
        time.sleep(self.pause if self.index < self.batches else 3600)
        rng = np.random.default_rng(self.index)
        batch = {n: rng.standard_normal(s.shape, np.float32) for n, s in self.shapes.items()}
        batch["mask"] = np.ones(self.shapes["mask"].shape, np.float32)
        batch["mask"][0, -1] = 0
        self.index += 1
        return batch | {"example": rng.integers(0, 2**32, self.batch_size, dtype=np.uint32)}


def main(workdir, name, devices, mesh, steps, pause="0", batches="1000000"):
    jax.config.update("jax_num_cpu_devices", int(devices))
    sizes = {k: int(v) for k, v in (part.split("=") for part in mesh.split(","))}
    config = toy.config(**{"train.steps": int(steps), "train.checkpoint_every": 4,
                           "train.keep_last": 9, "train.evaluate_every": 8,
                           "optimizer.ema_decay": 0.9, "optimizer.weight_decay": 0.1,
                           "optimizer.clip_norm": 0.5, "optimizer.warmup_steps": 3})
    if name == "toy":
        system = toy.ToySystem(noise=0.1)
    else:
        from avjax.systems.avflow import config as avflow

        config.system = avflow.default()
        config.system.update(dict(d_model=32, num_blocks=1, num_heads=2, d_ff=64, face_dim=4,
                                  mel_dim=8, token_dim=5,
                                  head_dim=3))
        config.data.segment = 24
        system = api.build(config.system)
    mesh = make_mesh(sizes)
    loader = SpecLoader(system, config.data.batch_size, config.data.segment)
    evaluators = [HeldOutLoss(system, [next(loader)], mesh, every=8)]
    train(config, system, workdir,
          lambda: SpecLoader(system, config.data.batch_size, config.data.segment, float(pause),
                             int(batches)), evaluators,
          mesh=mesh)


if __name__ == "__main__":
    main(*sys.argv[1:])
