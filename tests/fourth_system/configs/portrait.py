"""Portrait on the built-in puppets: a minute on a laptop."""

from avjax.systems.portrait import config as portrait
from configs import base


def get_config():
    c = base.get_config()
    c.name = "portrait"
    c.stages = (
        dict(kind="prepare", dataset="puppets", out="{workdir}/data/clips", sentences=8,
             speakers=2, valid=2, test=1),
        dict(kind="extract", features="portrait", clips="{workdir}/data/clips",
             out="{workdir}/data/features"))
    c.system = portrait.tiny()
    c.data.dir = "{workdir}/data/features"
    c.data.batch_size, c.data.segment = 8, 64
    c.train.steps = 6
    c.train.log_every = 1
    c.train.checkpoint_every = 2
    c.evaluate.benchmark = "puppets"
    c.evaluate.splits = ("valid",)
    c.plan.topology = "v5e:1x1"
    return c
