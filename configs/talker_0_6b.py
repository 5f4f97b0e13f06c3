"""Talker-T2AV as published, stage 2: text to speech and motion mixed with text to speech, from a
stage 1.

Prepare:    avjax prepare --dataset=talker --source=Talker-T2AV-Data \\
                --out=data/talker/clips
            avjax extract --features=talker --clips=data/talker/clips \\
                --out=data/talker/features
Run:        avjax train --config=configs/talker_0_6b.py \\
                --config.data.dir=data/talker/features \\
                --config.train.init_from=runs/talker_tts --workdir=runs/talker
            Stage 1: the same without init_from, on the TTS list alone (every example without
            motion), or on what is heard of any: --config.data.dir=None
            --config.data.mixture="(('data/talker/features', 'train', 1, 'speech'),)"
Hardware:   published on 8 GPUs, 8 clips each. 0.91 billion parameters (0.60 of them the backbone):
            14.6 GB of float32 parameters, gradients and Adam moments, sharded by mesh.fsdp. The
            backward pass keeps, by the shapes of what is saved, 6.3 GB a row with remat "dots" and
            0.8 GB with "full", and a block's own needs beside it, 0.8 GB a row. Hence 16 rows take
            about 31 GB a card on 8 cards; one card of 80 GB, of which XLA reserves 60, holds 16
            rows with --config.system.remat=full (about 42 GB), or 4 at a time with "dots" and
            optimizer.accumulate=4 (about 49 GB).
Expect:     no published curve; scores are in the paper.
Sizes:      as published.
Provenance: published code (training/config.json and speech_llm.py); batch in packed rows instead of
            padded clips: ours.
"""

from avjax.systems.talker import config as talker
from configs import base


def get_config():
    c = base.get_config()
    c.name = "talker_0_6b"
    c.system = talker.published()
    c.system.remat = "dots"
    c.system.row_tokens = 1024
    c.system.row_patches = 768
    c.system.row_utterances = 8

    c.data.batch_size = 16  # rows of up to 123 s of speech; the release pads 64 clips of up to 30 s
    c.data.threads = 8

    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 10_000  # a tenth
    c.optimizer.final_fraction = 0.01
    c.optimizer.b2 = 0.95
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.01
    c.optimizer.no_decay = (r".*/bias", r".*/scale")
    c.optimizer.clip_norm = 1.0

    c.train.steps = 100_000  # the release trains one epoch
    c.train.checkpoint_every = 5000
    c.train.evaluate_every = 5000
    c.train.watchdog_seconds = 1800.0

    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.plan.topology = "v5e:4x4"
    return c
