"""Subprocess of the resume tests: trains the toy system or a tiny AV-Flow from an endless in-memory
loader.

python run_job.py WORKDIR SYSTEM DEVICES MESH STEPS [KILL_AT]      MESH like data=2,fsdp=4

With KILL_AT it kills itself (SIGKILL) once the record of that step is written.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402

from avjax.sharding.mesh import make_mesh  # noqa: E402
from avjax.systems import api  # noqa: E402
from avjax.telemetry.metrics_writer import MetricsWriter  # noqa: E402
from avjax.training.evaluators import HeldOutLoss  # noqa: E402
from avjax.training.loop import train  # noqa: E402
from tests.training import toy  # noqa: E402


class SpecLoader(toy.ToyLoader):
    """Random batches for any system's batch_spec, batch k a function of k."""

    def __init__(self, system, batch_size, segment):
        super().__init__(batch_size)
        self.shapes = api.example_batch(system, batch=batch_size, time=segment)

    def __next__(self):
        rng = np.random.default_rng(self.index)
        batch = {n: rng.standard_normal(s.shape, np.float32) for n, s in self.shapes.items()}
        batch["mask"] = np.ones(self.shapes["mask"].shape, np.float32)
        batch["mask"][0, -1] = 0
        self.index += 1
        return batch | {"example": rng.integers(0, 2**32, self.batch_size, dtype=np.uint32)}


def kill_at(step):
    """Kills this process after the record of `step` is written."""
    record = MetricsWriter.record

    def recording(self, at, kind, *args, **kwargs):
        record(self, at, kind, *args, **kwargs)
        if (at, kind) == (step, "train"):
            os.kill(os.getpid(), signal.SIGKILL)

    MetricsWriter.record = recording


def main(workdir, name, devices, mesh, steps, killed=""):
    if killed:
        kill_at(int(killed))
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
          lambda: SpecLoader(system, config.data.batch_size, config.data.segment), evaluators,
          mesh=mesh)


if __name__ == "__main__":
    main(*sys.argv[1:])
