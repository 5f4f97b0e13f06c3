"""Portrait on the built-in puppets.

Run:        avjax train --config=my_lab/configs/portrait.py --workdir=runs/portrait
Hardware:   two CPU cores; a minute.
Expect:     that every command runs; six steps teach nothing.
"""

from avjax.systems.portrait import config as portrait

from configs import base


def get_config():
    c = base.get_config()
    c.name = "portrait"
    c.stages = (
        dict(
            kind="prepare",
            dataset="puppets",
            out="{workdir}/data/clips",
            sentences=8,
            speakers=1,
            valid=2,
            test=1,
        ),
        dict(
            kind="extract",
            features="portrait",
            clips="{workdir}/data/clips",
            out="{workdir}/data/features",
        ),
    )

    c.system = portrait.tiny()

    c.data.dir = "{workdir}/data/features"
    c.data.batch_size = 8
    c.data.segment = 64

    c.train.steps = 6
    c.train.log_every = 1
    c.train.checkpoint_every = 2
    c.train.evaluate_every = 0

    c.evaluate.benchmark = "puppets"
    c.plan.topology = "v5e:1x1"
    return c
