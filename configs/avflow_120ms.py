"""AV-Flow within the look-ahead that its paper claims, 120 ms, counted over everything between a token and
its sound and picture.

Run:        avjax train --config=configs/avflow_120ms.py --workdir=runs/avflow_120ms
            avjax generate --workdir=runs/avflow_120ms --text="..." --stream
            (the puppets of the quickstart; configs/avflow_120ms.py:paper is the paper's size, for a dataset given by
            --config.data.dir=FEATURES)
Hardware:   as configs/quickstart.py, or as configs/avflow_paper.py.
Expect:     docs/avflow.md, "Streaming", compares it with the quickstart at equal budget.
Sizes:      as those.
Provenance: the paper says 120 ms and neither its windows nor the release's give it (docs/avflow.md). Ours: one
            frame of the future in the first block and none in the others, so that 8 Euler steps look 8
            frames ahead (93 ms); sound 1.5 frames more (17 ms), as nothing of the streamed Griffin-Lim waits
            longer than the transform's window; pictures 1.5 frames; head pose as it is, since the head VAE's decoder
            attends to all frames.
"""

from avjax.errors import UserError
from avjax.systems.avflow import config as avflow
from configs import avflow_paper, quickstart

SIZES = {"puppets": quickstart, "paper": avflow_paper}
POSE = 7  # channels of z-scored head pose


def get_config(size: str = "puppets"):
    if size not in SIZES:
        raise UserError("unknown size", where="configs/avflow_120ms.py",
                        expected=" | ".join(SIZES), found=repr(size))
    c = SIZES[size].get_config()
    c.name = "avflow_120ms"
    c.system.window = avflow.one_ahead(c.system)
    c.system.euler_steps = 8
    c.system.head_dim = POSE
    c.stream.chunk = 16
    c.stream.vocoder_block, c.stream.vocoder_ahead = 1, 0
    if size == "puppets":
        prepare, _, extract = c.stages
        c.stages = (prepare, {n: v for n, v in extract.items() if n != "head_vae"} | {"head": "linear"})
    return c
