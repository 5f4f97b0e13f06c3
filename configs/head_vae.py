"""The head-pose VAE whose latent mean is AV-Flow's head stream.

Prepare:    any clip dataset with `pose_z` (7 z-scored pose channels at 30 Hz), e.g. the puppets.
Run:        avjax train --config=configs/head_vae.py --config.data.dir=CLIPS \\
                --workdir=runs/head_vae
Hardware:   two CPU cores: a few milliseconds a step; the published 500 k steps are far more than a
            small corpus needs.
Sizes:      as published.
Provenance: published code: sizes, dropout 0.1, L1 + 1e-4 KL, 500 k steps. Batch and segment are
            ours.
"""

from avjax.systems.head_vae import config as head_vae
from configs import base


def get_config():
    c = base.get_config()
    c.name = "head_vae"
    c.system = head_vae.published()
    c.data.batch_size = 16
    c.data.segment = 120  # 4 s
    c.optimizer.learning_rate = 1e-4
    c.train.steps = 500_000
    c.plan.topology = "v5e:1x1"
    return c
