"""A small BigVGAN on the built-in puppets, for the mel of the quickstart's AV-Flow, on two cores.

Run:        avjax train --config=configs/puppets_vocoder.py --workdir=runs/vocoder
Use:        avjax generate --workdir=runs/quickstart --vocoder=runs/vocoder --text="..."
Hardware:   two CPU cores, 2 GiB; 0.8 GFLOP a step; seven minutes beside other work, and four of
            evaluation.
Expect:     most words are heard. Measured on held-out sentences, true mel: MCD_audio 7.1, MRSTFT
            2.7, WER 0.43; Griffin-Lim has 8.5, 1.6 and 0.34, the recording itself a WER of 0.34. It
            loses words, so the quickstart keeps Griffin-Lim.
Sizes:      ours; the published ones are in configs/vocoder.py. It is trained by the mel of seven
            scales alone: no discriminator pays within minutes. Measured on puppets: it shows
            learning and plumbing, never realism.
"""

from avjax.systems.vocoder import config as vocoder
from configs import base


def get_config():
    c = base.get_config()
    c.name = "puppets_vocoder"
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
            kind="extract",
            features="vocoder",
            clips="{workdir}/data/clips",
            out="{workdir}/data/features",
            loudness="speech",
        ),
    )

    c.system = vocoder.tiny()

    c.data.dir = "{workdir}/data/features"
    c.data.batch_size = 4
    c.data.segment = 32

    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 50
    c.optimizer.b1 = 0.8
    c.optimizer.b2 = 0.99
    c.optimizer.eps = 1e-8
    c.optimizer.ema_decay = 0.99

    c.train.steps = 1200
    c.train.log_every = 50
    c.train.checkpoint_every = 600
    c.train.evaluate_every = 600
    c.train.best_metric = "mel"

    c.evaluate.benchmark = "vocoder"
    c.evaluate.splits = ("valid", "test_speaker")
    return c
