"""Talker-T2AV's two stages of training on the built-in puppets, as published: speech alone, then
speech with and without motion, from the first; against one stage of as many steps.

Run:        avjax train --config=configs/talker_two_stage.py --workdir=runs/stages/two
            both ways, two seeds, one table:
            avjax submit --target=local --config=configs/talker_two_stage.py \\
                --sweep=config=two,single --sweep=config.seed=0,1 --workdir=runs/stages
Hardware:   as configs/talker_quickstart.py, at whose pace a member trains for three minutes. Corpus
            and features are made once, in the folder `common` beside the workdirs; the first stage
            of a member is its `speech`.
Expect:     one stage ahead or level, two seeds; the table is in docs/talker_measured.md. On
            puppets, so it is no evidence about faces.
Sizes:      ours, as in configs/talker_quickstart.py. A quarter of the corpus has motion; where both
            kinds are mixed, its utterances are repeated until the kinds are drawn equally often, as
            published. The first stage hears all of the corpus.
"""

from avjax.errors import UserError
from configs import base, talker_quickstart

SPEECH_STEPS, MIXED_STEPS = 800, 1200  # ours
VARIANTS = ("two", "single", "speech")  # the last: the first stage, by itself
FEATURES = base.in_common("{workdir}/data/features")


def get_config(variant: str = "two"):
    if variant not in VARIANTS:
        raise UserError("unknown variant", where="configs/talker_two_stage.py",
                        expected=" | ".join(VARIANTS), found=repr(variant))
    c = talker_quickstart.get_config()
    c.name = f"talker_{variant}"
    c.system.balance_kinds = True
    c.train.checkpoint_every = 400
    c.train.evaluate_every = 0
    c.evaluate.tasks = ("t2av", "tts")
    c.evaluate.splits = ("valid",)
    c.evaluate.in_loop_examples = 0
    c.sample.text = ""
    c.sample.example = ""
    c.sample.tasks = ()
    if variant == "speech":
        c.stages = ()
        c.train.steps = SPEECH_STEPS
        return c

    prepare, extract = base.in_common(c.stages)
    c.stages = (prepare, extract | {"speech_only": 0.75})
    c.data.dir = FEATURES
    c.train.steps = SPEECH_STEPS + MIXED_STEPS
    if variant == "two":
        c.stages = (*c.stages, dict(
            kind="train",
            config="configs/talker_two_stage.py:speech",
            workdir="{workdir}/speech",
            overrides={
                "data.dir": "",
                "data.mixture": ((FEATURES, "train", 1.0, "speech"),),
                "seed": "{seed}",
            },
        ))
        c.train.steps = MIXED_STEPS
        c.train.init_from = "{workdir}/speech"
    return c
