"""The paper's ablations of the exchange between the towers, at equal budget.

Variants are highway (the paper's model), separate (no exchange), shared (one tower on both
streams) and cascaded (tokens -> speech, then speech -> face and head).

Run:        avjax train --config=configs/avflow_ablations.py:separate \\
                --config.data.dir=FEATURES --workdir=DIR
Hardware:   as configs/avflow_paper.py.
Sizes:      as configs/avflow_paper.py.
Provenance: paper's ablation table: F1_lips .964 / .933 / .910 / .848, FD_e .861 / .981 / .862 /
            1.223 in this order.
"""

from avjax.errors import UserError
from avjax.systems.avflow.config import FUSIONS
from configs import avflow_paper

VARIANTS = FUSIONS


def get_config(fusion: str = "highway"):
    if fusion not in VARIANTS:
        raise UserError("unknown variant", where="configs/avflow_ablations.py",
                        expected=" | ".join(VARIANTS), found=repr(fusion))
    c = avflow_paper.get_config()
    c.name = f"avflow_{fusion}"
    c.system.fusion = fusion
    return c
