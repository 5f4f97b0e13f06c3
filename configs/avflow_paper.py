"""AV-Flow as its paper describes it, where that differs from the published code.

Run:        avjax train --config=configs/avflow_paper.py --config.data.dir=FEATURES \\
                --workdir=runs/paper
Hardware:   the paper: one A100, 1 M steps of 16 x 20 s. (Its 36 h fit 4 s segments better: 20 s
            would need 53 TFLOP/s.)
Sizes:      512 wide, 8 blocks, 4 heads, 1024 hidden, from the published code.
Provenance: paper: 20 s segments, windows of 10 frames with 2 of the future, 8 Euler steps, weights
            mel 3, face 1, head 0.2.
"""

from avjax.systems.avflow import config as avflow
from configs import avflow_released


def get_config():
    c = avflow_released.get_config()
    c.name = "avflow_paper"
    c.system = avflow.paper()
    c.data.segment = 1723  # 20 s
    c.plan.topology = "v5e:4x4"
    return c
