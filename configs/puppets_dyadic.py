"""AV-Flow that listens: puppet dialogues from either side, conditioned on what the partner's sound,
face and head do.

Run:        avjax train --config=configs/puppets_dyadic.py --workdir=runs/dyadic
Generate:   avjax generate --workdir=runs/dyadic --partner=valid/0
            avjax generate --workdir=runs/dyadic --partner=somebody.wav
            avjax generate --workdir=runs/dyadic --partner=somebody.wav --audio=answer.wav --start=6
Hardware:   two CPU cores, 4 GiB; about a quarter of an hour.
Expect:     who listens nods and smiles, half the times without a word, at an end of a phrase of the
            partner's: `F1_nods` and `F1_smiles`, and the same while listening, with the partner,
            alone, with a stranger, and without guidance (docs/listening.md). `partner_dropout` lets
            sampling weigh the partner (`system.guidance`). Measured on puppets, so plumbing and
            learning only.
Sizes:      ours, a quarter of the quickstart's arithmetic, mel weighed as the release does: after
            300 steps of the quickstart's size nobody reacts yet, after 600 of these they do. The
            published ones are `dyadic(published())` of avjax/systems/avflow/config.py. Tokens
            are units of sound, so that anybody's sound can be listened to.
"""

from configs import quickstart

UNITS = 64


def get_config():
    c = quickstart.get_config()
    c.name = "puppets_dyadic"
    prepare, head_vae, extract = (dict(stage) for stage in c.stages)
    c.stages = (
        prepare | dict(minutes=4.0, dialogues=60, turns=8, silent=0.5),
        head_vae,
        extract | dict(clips="{workdir}/data/clips_dialogues", tokens="units", units=UNITS),
    )

    s = c.system
    s.d_model, s.num_blocks, s.num_heads, s.d_ff = 96, 3, 2, 192
    s.loss_weights.mel = 0.2
    s.token_dim = UNITS
    s.partner_token_dim = s.token_dim
    s.partner_expression_dim = s.face_dim
    s.partner_head_dim = 3
    s.partner_dropout = 0.1
    s.guidance = 1.5

    c.data.segment = 258  # three seconds: the end of a phrase and the reaction
    c.data.batch_size = 8
    c.train.steps = 1200
    c.train.checkpoint_every = c.train.evaluate_every = 600
    c.evaluate.benchmark = "listening"
    c.sample.text = ""
    c.sample.example = "valid/0"
    return c
