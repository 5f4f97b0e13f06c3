"""AV-Flow that listens: puppet dialogues from either side, conditioned on the partner's tokens,
face and head.

Run:        avjax train --config=configs/puppets_dyadic.py --workdir=runs/dyadic
Hardware:   two CPU cores, 4 GiB; about a quarter of an hour.
Expect:     nods and smiles at the partner's back-channels; `partner_dropout` lets sampling weigh
            the partner (`system.guidance`). Measured on puppets, so plumbing and learning only.
Sizes:      ours; the published ones are `dyadic(published())` of avjax/systems/avflow/config.py.
"""

from configs import quickstart


def get_config():
    c = quickstart.get_config()
    c.name = "puppets_dyadic"
    prepare, head_vae, extract = (dict(stage) for stage in c.stages)
    c.stages = (
        prepare | dict(minutes=4.0, dialogues=60, turns=8),
        head_vae,
        extract | dict(clips="{workdir}/data/clips_dialogues"),
    )

    s = c.system
    s.partner_token_dim = s.token_dim
    s.partner_expression_dim = s.face_dim
    s.partner_head_dim = 3
    s.partner_dropout = 0.1
    s.guidance = 1.5

    c.data.segment = 345  # four seconds: a turn and its reaction
    c.data.batch_size = 4
    c.evaluate.benchmark = "clips"
    c.sample.text = ""
    return c
