"""The paper's claim as a pair: separate diffusion heads against heads with joint low-level
attention (dual-branch).

Run:        avjax submit --target=local --config=configs/talker_coupling.py \\
                --sweep=config=separate,joint --sweep=config.seed=0,1,2 --workdir=runs/coupling
            one of them: avjax train --config=configs/talker_coupling.py:joint \\
                --workdir=runs/coupling/joint
Hardware:   as configs/talker_quickstart.py, at whose pace a member trains for three minutes. Corpus
            and features are made once, in the folder `common` beside the workdirs.
Expect:     equal parameters by construction (joint attention only shows each head the other's keys
            and values), equal steps; what came out, with three seeds, is in
            docs/talker_measured.md. On puppets, so it is no evidence about faces.
Sizes:      ours, as in configs/talker_quickstart.py.
"""

from avjax.errors import UserError
from avjax.systems.talker.config import COUPLINGS
from configs import base, talker_quickstart

VARIANTS = COUPLINGS


def get_config(coupling: str = "separate"):
    if coupling not in VARIANTS:
        raise UserError("unknown variant", where="configs/talker_coupling.py",
                        expected=" | ".join(VARIANTS), found=repr(coupling))
    c = talker_quickstart.get_config()
    c.name = f"talker_{coupling}"
    c.system.coupling = coupling
    c.stages = base.in_common(c.stages)
    c.data.dir = base.in_common(c.data.dir)

    c.train.steps = 2000
    c.train.evaluate_every = 2000
    c.train.checkpoint_every = 2000

    c.evaluate.tasks = ("t2av", "a2v")
    c.evaluate.in_loop_examples = 0

    c.sample.text = ""
    c.sample.example = ""
    c.sample.tasks = ()
    return c
