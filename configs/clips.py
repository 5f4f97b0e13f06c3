"""AV-Flow on one person's own recordings, driven by speech (--audio) through weightless units.

Prepare:  python -m launch.prepare --dataset=clips --source=MEDIA --out=data/me --longest_identity
          python -m launch.extract --clips=data/me/clips --out=data/me/features
          --tokens=units --units=64
Run:      python -m launch.train --config=configs/clips.py --config.data.dir=data/me/features --workdir=runs/me
Speak:    python -m launch.generate --workdir=runs/me --audio=speech.wav
Hardware: two CPU cores; a few minutes for the 600 steps.
Expect:   a face that moves as the person's does, and a voice made of theirs; with seconds of material it repeats what
          it saw. Minutes of one clear frontal shot are what it wants. A unit names a sound of this
          speaker: another voice in --audio is heard as the nearest sounds of theirs.
Sizes:    ours; the published ones, for wav2vec2 tokens and 50 hours, are in configs/avflow_released.py.
"""

from avjax.codecs import eigenface
from avjax.systems.avflow import config as avflow
from configs import base

UNITS = 64  # as in the launch.extract command above


def get_config():
    c = base.get_config()
    c.name = "clips"
    c.system = s = avflow.default()
    s.d_model, s.num_blocks, s.num_heads, s.d_ff = 192, 4, 3, 512
    s.token_dim, s.face_dim, s.head_dim = UNITS, eigenface.COMPONENTS, 7
    s.euler_steps = 8

    c.data.batch_size, c.data.segment = 8, 172  # two seconds

    o = c.optimizer
    o.learning_rate, o.schedule, o.warmup_steps, o.clip_norm, o.ema_decay = 1e-3, "cosine", 50, 1.0, 0.99

    t = c.train
    t.steps, t.log_every, t.checkpoint_every, t.evaluate_every = 600, 20, 200, 200
    c.evaluate.benchmark = "clips"
    return c
