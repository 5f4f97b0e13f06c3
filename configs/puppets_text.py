"""Text to tokens on the built-in puppets: how long each phoneme lasts and what AV-Flow hears of it,
learned from clips and their transcripts.

Run:        avjax train --config=configs/puppets_text.py --workdir=runs/quickstart/text
            Then avjax generate --workdir=runs/quickstart --text="Hello there." speaks with the
            timing that it has learned, and with --workdir=runs/quickstart/text writes the tokens.
Hardware:   two CPU cores.
Expect:     tokens with a tenth of their labels wrong, durations as good as mean durations
            (docs/avflow_text.md). Measured on puppets: it shows learning and plumbing, never
            realism.
Sizes:      ours; the published ones are in configs/avflow_text.py.
"""

from configs import avflow_text

TOKENS = 53  # phoneme features of avjax/encoders/espeak.py


def get_config():
    c = avflow_text.get_config("small")
    c.name = "puppets_text"
    c.stages = (
        # the clips of configs/quickstart.py
        dict(kind="prepare", dataset="puppets", out="{workdir}/data/clips", minutes=30.0, valid=27,
             test=18, seed=0),
        dict(kind="extract", features="text_tokens", clips="{workdir}/data/clips",
             out="{workdir}/data/features", tokens="phones"),
    )
    c.system.token_dim = TOKENS
    c.system.mean = 0.1458  # of these clips, as the extraction prints it
    c.system.std = 0.5321
    c.system.temperature = 0.0  # few steps leave noise that drowns the strongest class
    c.system.row_symbols = 176
    c.system.row_frames = 480
    c.data.dir = "{workdir}/data/features"
    c.optimizer.learning_rate = 1.5e-3
    c.train.steps = 1000
    c.train.log_every = 25
    c.train.checkpoint_every = 250
    c.train.evaluate_every = 250
    c.evaluate.benchmark = "text_tokens"
    c.evaluate.splits = ("valid", "test_speaker")
    c.sample.text = "My brother bought a big blue boat, and we happily paddled home."
    return c
