"""Reads lips, face and head pose from pictures of puppets: the eye of TAVID's evaluation.

Prepare:    avjax extract --features=decoded of puppets' pictures: as they are drawn, and
            as the VAE decodes them. Many speakers: F1_lips on unknown faces is .98 from 20 of
            them, .99 from 60.
Run:        avjax train --config=configs/face_reader.py --config.data.dir=PICTURES \\
                --workdir=runs/face_reader
Hardware:   two CPU cores, about a minute.
Expect:     on faces of unknown speakers F1_lips .99 drawn, .99 decoded (a closed mouth on every
            frame: .75).
Sizes:      ours by choice, as the schedule.
"""

from avjax.systems.face_reader import config as face_reader
from configs import base


def get_config():
    c = base.get_config()
    c.name = "face_reader"
    c.system = face_reader.tiny()
    c.data.batch_size = 8  # rows of eight pictures

    c.optimizer.learning_rate = 2e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.weight_decay = 0.02
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema_decay = 0.98

    c.train.steps = 800
    c.train.log_every = 50
    c.train.checkpoint_every = 800
    c.train.evaluate_every = 800
    c.train.loss_examples = 16
    return c
