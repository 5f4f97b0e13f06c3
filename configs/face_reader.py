"""Reads lips, face and head pose from pictures of puppets: the eye of TAVID's evaluation.

Command    python -m launch.train --config=configs/face_reader.py --config.data.dir=PICTURES --workdir=runs/face_reader
Data       python -m launch.extract --features=decoded of puppets' pictures: as they are drawn, and as the VAE decodes them.
           The speakers are to be many: F1_lips on unknown faces is .98 from 20 of them, .99 from
           60.
Hardware   2 CPU cores, about a minute.
Expect     on faces of unknown speakers F1_lips .99 drawn, .99 decoded (a closed mouth on every frame: .75). Sizes and schedule
           are ours by choice.
"""

from avjax.systems.face_reader import system as face_reader
from configs import base


def get_config():
    c = base.get_config()
    c.name = "face_reader"
    c.system = face_reader.tiny()
    c.data.batch_size = 8  # rows of eight pictures

    o = c.optimizer
    o.learning_rate, o.schedule, o.warmup_steps, o.clip_norm, o.ema_decay = 2e-3, "cosine", 50, 1.0, 0.98
    o.weight_decay = 0.02

    t = c.train
    t.steps, t.log_every, t.checkpoint_every, t.evaluate_every = 800, 50, 800, 800
    t.loss_examples = 16
    return c
