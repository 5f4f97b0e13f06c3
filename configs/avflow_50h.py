"""AV-Flow on the release's own 50 h corpus, listening to the participant, features as the release
computes them.

Prepare:    avjax prepare --dataset=avflow50h --source=50h_dataset --out=data/50h
            avjax extract --clips=data/50h --out=data/50h_features --tokens=given --head=vae \\
                --loudness=recorded --resample=released
            Their tokens, head VAE and statistics are used as they are; docs/corpora.md says what
            of the features cannot be equal.
Run:        avjax train --config=configs/avflow_50h.py --config.data.dir=data/50h_features \\
                --workdir=runs/50h
            Without the participant (prepare with --noparticipant to keep segments that lack one):
                --config.system.partner_token_dim=0 --config.system.partner_expression_dim=0 \\
                --config.system.partner_head_dim=0
            Audio2Photoreal (--dataset=audio2photoreal --subject=PXB184 --held_out=avflow, the same
            extraction; a partner is a voice only): --config.system.partner_expression_dim=0 \\
                --config.system.partner_head_dim=0
Hardware:   as configs/avflow_released.py.
Sizes:      as published.
Provenance: published code: its dyadic setting has 29 tokens, 55 numbers of expression and 3 of
            head of the participant, no dropout of them and no guidance; sound at its own level.
"""

from avjax.signal import mel
from avjax.systems.avflow import config as avflow
from configs import avflow_released


def get_config():
    c = avflow_released.get_config()
    c.name = "avflow_50h"
    c.system = avflow.dyadic(avflow.published())
    c.system.partner_dropout = 0.0
    c.system.guidance = 1.0
    c.system.mel_recipe = mel.RECIPE
    return c
