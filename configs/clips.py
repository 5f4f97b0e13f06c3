"""AV-Flow on one person's own recordings, driven by speech (--audio) through weightless units.

Prepare:    avjax prepare --dataset=clips --source=MEDIA --out=data/me --longest_identity
            avjax extract --clips=data/me/clips --out=data/me/features \\
                --tokens=units --units=64
Run:        avjax train --config=configs/clips.py --config.data.dir=data/me/features \\
                --workdir=runs/me
Generate:   avjax generate --workdir=runs/me --audio=speech.wav
Hardware:   two CPU cores; a few minutes for the 600 steps.
Expect:     a face that moves as the person's does, and a voice made of theirs; with seconds of
            material it repeats what it saw. Minutes of one clear frontal shot are what it wants. A
            unit names a sound of this speaker: another voice in --audio is heard as the nearest
            sounds of theirs.
Sizes:      ours; the published ones, for wav2vec2 tokens and 50 hours, are in
            configs/avflow_released.py.
"""

from avjax.codecs import eigenface
from avjax.systems.avflow import config as avflow
from configs import base

UNITS = 64  # as in the `avjax extract` above


def get_config():
    c = base.get_config()
    c.name = "clips"
    c.system = avflow.tiny()
    c.system.token_dim = UNITS
    c.system.face_dim = eigenface.COMPONENTS
    c.system.head_dim = 7

    c.data.batch_size = 8
    c.data.segment = 172  # two seconds

    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema_decay = 0.99

    c.train.steps = 600
    c.train.log_every = 20
    c.train.checkpoint_every = 200
    c.train.evaluate_every = 200

    c.evaluate.benchmark = "clips"
    return c
