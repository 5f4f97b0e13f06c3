"""AV-Flow on the built-in puppets, from nothing to a scored, talking avatar on two CPU cores.

Run:      python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart
Hardware: two CPU cores, 4 GiB; about ten minutes, of which training is about seven.
Expect:   F1_lips 0.98, mel L1 a quarter of another sentence's; the whole table is in docs/avflow.md. Measured on puppets:
          it shows learning and plumbing, never realism.
Sizes:    ours; the published ones are in configs/avflow_released.py.
"""

from avjax.systems.avflow import config as avflow
from configs import base

TOKENS = 53  # phoneme features of avjax/encoders/espeak.py
FACE = 16  # named articulators


def get_config():
    c = base.get_config()
    c.name = "quickstart"
    c.stages = (
        dict(kind="prepare", dataset="puppets", out="{workdir}/data/clips", minutes=30.0, valid=27,
             test=18, seed=0),
        dict(kind="train", config="configs/head_vae.py", workdir="{workdir}/head_vae",
             overrides={"data.dir": "{workdir}/data/clips", "data.segment": 90,
                        "data.batch_size": 16, "system.d_ff": 64, "train.steps": 600,
                        "train.evaluate_every": 600, "train.checkpoint_every": 600,
                        "optimizer.learning_rate": 3e-3, "optimizer.schedule": "cosine"}),
        dict(kind="extract", clips="{workdir}/data/clips", out="{workdir}/data/features",
             tokens="phones", head="vae",
             head_vae="{workdir}/head_vae"),
    )

    c.system = s = avflow.default()
    s.d_model, s.num_blocks, s.num_heads, s.d_ff = 192, 4, 3, 512
    s.token_dim, s.face_dim, s.head_dim, s.identity_dim = TOKENS, FACE, 8, 8
    s.euler_steps, s.temperature = 8, 0.8

    c.data.dir = "{workdir}/data/features"
    c.data.batch_size, c.data.segment = 8, 172  # two seconds

    o = c.optimizer
    o.learning_rate, o.schedule, o.warmup_steps, o.clip_norm, o.ema_decay = 2e-3, "cosine", 100, 1.0, 0.99

    t = c.train
    t.steps, t.log_every, t.checkpoint_every, t.evaluate_every = 1500, 25, 500, 500

    e = c.evaluate
    e.benchmark, e.splits, e.in_loop_examples = "puppets", ("valid", "test_speaker"), 6

    c.sample.text = "My brother bought a big blue boat, and we happily paddled home."
    return c
