"""Talker-T2AV on the built-in puppets, from nothing to one checkpoint that serves four tasks, on
two CPU cores.

Run:      python -m launch.train --config=configs/talker_quickstart.py --workdir=runs/talker
Hardware: two CPU cores, 4 GiB; about thirteen minutes, of which training is ten.
Expect:   speech to motion: F1_lips 0.93; text to both: 0.74 once aligned by the sound, length within 7 %. The whole table is in
          docs/talker.md. Measured on puppets: it shows learning and plumbing, never realism.
Sizes:    ours; the published ones are in configs/talker_0_6b.py.
"""

from avjax.systems.talker import config as talker
from configs import base


def get_config():
    c = base.get_config()
    c.name = "talker_quickstart"
    c.stages = (
        dict(kind="prepare", dataset="puppets", out="{workdir}/data/clips", minutes=60.0, valid=24,
             test=12, seed=0),
        dict(kind="extract", features="talker", clips="{workdir}/data/clips",
             out="{workdir}/data/features",
             speech_only=0.15, multiple=4),
    )
    c.system = s = talker.default()
    s.d_model = s.velocity_width = 128
    s.num_layers, s.num_heads, s.num_kv_heads, s.head_dim, s.d_ff = 4, 4, 4, 32, 384
    s.encoder_layers, s.encoder_heads, s.velocity_layers, s.velocity_heads = 1, 4, 2, 4
    s.vocab, s.embedding_std = 600, 1.0
    s.row_tokens, s.row_patches, s.row_utterances = 160, 96, 6
    # the motion of a patch is made once its sound is known, which is what speech to motion needs
    s.delay = 1
    # a seventh of the clips has no motion; drawing them as often as the others would waste time
    s.balance_kinds = False
    # The hidden state matters where the noise is strong. The paper's -0.4 spends most of a short
    # training elsewhere, and the text is not read at all: after 1000 steps another sentence's text
    # gave the same loss.
    s.time_mean, s.context_dropout = 1.0, 0.3
    s.repeats, s.motion_weight = 1, 1.0
    s.guidance = 1.5  # of 1.5, 2 and 3, the best on twelve sentences of `valid`

    c.data.dir = "{workdir}/data/features"
    c.data.batch_size = 1

    o = c.optimizer
    o.learning_rate, o.schedule, o.warmup_steps, o.clip_norm, o.ema_decay = 3e-3, "cosine", 100, 1.0, 0.995
    o.b2, o.weight_decay = 0.95, 0.01

    t = c.train
    t.steps, t.log_every, t.checkpoint_every, t.evaluate_every = 7500, 50, 1250, 3750

    e = c.evaluate
    e.benchmark, e.splits, e.in_loop_examples = "talker_puppets", ("valid", "test_speaker"), 4
    c.sample.text = "My brother bought a big blue boat, and we happily paddled home."
    c.sample.example, c.sample.tasks = "valid/0", ("t2av", "tts", "a2v", "v2a")
    return c
