"""The paper's claim as a pair: separate diffusion heads against heads with joint low-level
attention (dual-branch).

Run:      python -m launch.train --config=configs/talker_coupling.py:separate --workdir=runs/separate --config.seed=0
          python -m launch.train --config=configs/talker_coupling.py:joint --workdir=runs/joint
          --config.seed=0 (data once: --config.stages="()"
          --config.data.dir=runs/separate/data/features for the others)
Expect:   equal parameters by construction (joint attention only shows each head the other's keys and values), equal
          steps; what came out, with three seeds, is in docs/talker.md. On puppets, so it is no
          evidence about faces.
"""

from avjax.errors import UserError
from avjax.systems.talker.config import COUPLINGS
from configs import talker_quickstart


def get_config(coupling: str = "separate"):
    if coupling not in COUPLINGS:
        raise UserError("unknown coupling", where="configs/talker_coupling.py:<coupling>",
                        expected=" | ".join(COUPLINGS),
                        found=repr(coupling))
    c = talker_quickstart.get_config()
    c.name = f"talker_{coupling}"
    c.system.coupling = coupling
    c.train.steps = 2000
    c.train.evaluate_every = c.train.checkpoint_every = 2000
    c.evaluate.tasks, c.evaluate.in_loop_examples = ("t2av", "a2v"), 0
    c.sample.text, c.sample.example, c.sample.tasks = "", "", ()
    return c
