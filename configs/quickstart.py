"""AV-Flow on the built-in puppets, from nothing to a scored, talking avatar on two CPU cores.

Run:        avjax train --config=configs/quickstart.py --workdir=runs/quickstart
Hardware:   two CPU cores, 4 GiB; ten to thirteen minutes, of which training is seven to eleven.
Expect:     F1_lips 0.98, mel L1 a quarter of another sentence's; the table is in docs/avflow.md.
            Measured on puppets: it shows learning and plumbing, never realism.
Sizes:      ours; the published ones are in configs/avflow_released.py.
"""

from avjax.systems.avflow import config as avflow
from configs import base

TOKENS = 53  # phoneme features of avjax/encoders/espeak.py
FACE = 16  # named articulators


def get_config():
    c = base.get_config()
    c.name = "quickstart"
    c.stages = (
        dict(
            kind="prepare",
            dataset="puppets",
            out="{workdir}/data/clips",
            minutes=30.0,
            valid=27,
            test=18,
            seed=0,
        ),
        dict(
            kind="train",
            config="configs/head_vae.py",
            workdir="{workdir}/head_vae",
            overrides={
                "data.dir": "{workdir}/data/clips",
                "data.segment": 90,
                "data.batch_size": 16,
                "system.d_ff": 64,
                "train.steps": 600,
                "train.evaluate_every": 600,
                "train.checkpoint_every": 600,
                "optimizer.learning_rate": 3e-3,
                "optimizer.schedule": "cosine",
            },
        ),
        dict(
            kind="extract",
            clips="{workdir}/data/clips",
            out="{workdir}/data/features",
            tokens="phones",
            head="vae",
            head_vae="{workdir}/head_vae",
        ),
    )

    c.system = avflow.tiny()
    c.system.token_dim = TOKENS
    c.system.face_dim = FACE
    c.system.head_dim = 8
    c.system.identity_dim = 8
    c.system.temperature = 0.8

    c.data.dir = "{workdir}/data/features"
    c.data.batch_size = 8
    c.data.segment = 172  # two seconds

    c.optimizer.learning_rate = 2e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 100
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema_decay = 0.99

    c.train.steps = 1500
    c.train.log_every = 25
    c.train.checkpoint_every = 500
    c.train.evaluate_every = 500

    c.evaluate.benchmark = "puppets"
    c.evaluate.splits = ("valid", "test_speaker")
    c.evaluate.in_loop_examples = 6

    c.sample.text = "My brother bought a big blue boat, and we happily paddled home."
    return c
