"""TAVID's published parts at the sizes at which their speed is compared with the published code's
on a CPU. Without a variant, Hallo2's networks.

Run:        avjax benchmark --config=configs/tavid_benchmark.py --batch=0 [--peer=COMMAND]
            avjax benchmark --config=configs/tavid_benchmark.py:voicebox --batch=0 [--peer=COMMAND]
            --batch=0: sampling alone, no training step.
Hardware:   two CPU cores; Hallo2 as two CPU devices (config.mesh.seq), half of the frames each.
Sizes:      ours by choice. Hallo2: 99 M parameters, channels (128, 128, 256, 128), pictures of
            256 x 256, a clip of 16 frames after 2, tokens and heads as published. Voicebox: 88 M
            parameters, width 512, tokens, heads and evaluations as published.
"""

from avjax.errors import UserError
from avjax.systems.tavid.acoustic import config as acoustic
from avjax.systems.tavid.visual import config as visual
from configs import base

VARIANTS = ("voicebox",)


def get_config(variant: str = ""):
    if variant not in ("", *VARIANTS):
        raise UserError("unknown variant", where="configs/tavid_benchmark.py",
                        expected=" | ".join(VARIANTS), found=repr(variant))
    c = base.get_config()
    c.name = f"tavid_benchmark_{variant or 'visual'}"
    c.system = _voicebox() if variant else _hallo2()
    c.mesh.seq = 1 if variant else 2
    return c


def _hallo2():
    c = visual.hallo2()
    c.stage = "temporal"
    c.path = "published"
    c.sample_betas = "linear"
    c.unet.channels = (128, 128, 256, 128)
    c.unet.face_dim = c.unet.motion_dim = 256
    c.latent_size = (32, 32)
    c.audio.hidden = 256
    return c


def _voicebox():
    c = acoustic.usdm()
    c.num_speakers = 1
    c.d_model = 512
    c.d_ff = 2048
    c.unit_dim = 512
    return c
