"""AV-Flow's text to tokens: symbols of speech to the tokens that the audio-visual model reads.

Prepare:    avjax prepare --dataset=ljspeech --source=LJSpeech-1.1 --out=DATA, then
            avjax extract --features=text_tokens --tokens=wav2vec2 --ctc=FILE --clips=DATA \\
                --out=FEATURES
            (--like=FEATURES of AV-Flow instead: tokens of whatever kind that model reads)
Run:        avjax train --config=configs/avflow_text.py --config.data.dir=FEATURES \\
                --workdir=runs/avflow/text
            Variants: :paper (three convolutions and a diffusion transformer in the place of the
            U-Net), :small (two CPU cores, puppets; set token_dim, mean and std to the dataset's).
Hardware:   Matcha-TTS: two GPUs of 24 GB. Here: avjax plan --config=configs/avflow_text.py
Sizes:      as in AV-Flow's release, which keeps Matcha-TTS's with 29 token logits for 80 mel bands.
Provenance: Matcha-TTS's published recipe: Adam 1e-4, batch 32, gradients clipped at 5, dropout;
            600 k steps are ours by choice, between its models' 300 k and 800 k; :paper's widths
            and all of :small are ours.
"""

from avjax.errors import UserError
from avjax.systems.avflow.text import config as text
from configs import base

PRESETS = {"": text.published, "paper": text.paper, "small": text.tiny}
VARIANTS = tuple(filter(None, PRESETS))


def get_config(variant: str = ""):
    if variant not in PRESETS:
        raise UserError("unknown variant", where="configs/avflow_text.py",
                        expected=" | ".join(VARIANTS), found=repr(variant))
    c = base.get_config()
    c.name = "_".join(filter(None, ("avflow_text", variant)))
    c.system = PRESETS[variant]()
    c.data.batch_size = 32
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 1e-4
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-8
    c.optimizer.clip_norm = 5.0
    c.train.steps = 600_000
    c.plan.topology = "v5e:2x2"
    c.evaluate.benchmark = "text_tokens"
    if variant == "small":
        c.data.batch_size = 8
        c.optimizer.learning_rate = 1e-3
        c.optimizer.schedule = "cosine"
        c.optimizer.warmup_steps = 50
        c.optimizer.ema_decay = 0.99
        c.train.steps = 1500
        c.train.checkpoint_every = 500
        c.train.evaluate_every = 500
        c.train.loss_examples = 16
        c.plan.topology = ""
        c.evaluate.benchmark = ""  # configs/puppets_text.py has it
    return c
