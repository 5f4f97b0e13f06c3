"""The paper's ablation of the Motion Mapper as a pair of jobs: joint | dual | concat with equal
parameters, on puppet dialogues.

The mapper alone regresses what the pictures show from the units of both speakers, so that the modes
are compared without a renderer.

Run:        avjax train --config=configs/tavid_mapper.py \\
                --config.data.dir=runs/tavid/data/features --config.system.mode=dual \\
                --config.seed=1 --workdir=runs/mapper_dual_1
Hardware:   two CPU cores; about two minutes.
Expect:     docs/tavid.md has the table. Measured on puppets: plumbing and learning, never realism.
Sizes:      ours; the paper prints none.
"""

from configs import tavid_quickstart


def get_config():
    c = tavid_quickstart.get_config("mapper")
    c.name = "tavid_mapper"
    c.train.steps = 250
    c.train.checkpoint_every = 250
    c.train.evaluate_every = 0
    c.evaluate.benchmark = "dialogue"
    c.evaluate.splits = ("valid", "test_speaker")
    c.evaluate.batch_size = 4
    c.evaluate.in_loop_examples = 0
    return c
