"""The paper's ablations of the exchange between the towers, at equal budget:
`configs/avflow_ablations.py:NAME`.

Command    python -m launch.train --config=configs/avflow_ablations.py:separate --config.data.dir=FEATURES --workdir=DIR
NAME       highway (the paper's model), separate (no exchange), shared (one tower on both streams), cascaded (tokens ->
           speech, then speech -> face and head).
Provenance paper's ablation table: F1_lips .964 / .933 / .910 / .848, FD_e .861 / .981 / .862 /
1.223 in this order.
"""

from avjax.systems.avflow.config import FUSIONS
from configs import avflow_paper


def get_config(fusion: str = "highway"):
    if fusion not in FUSIONS:
        raise ValueError(f"configs/avflow_ablations.py:{fusion}: expected one of "
                         f"{', '.join(FUSIONS)}")
    c = avflow_paper.get_config()
    c.name = f"avflow_{fusion}"
    c.system.fusion = fusion
    return c
