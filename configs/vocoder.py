"""BigVGAN at its published sizes, for the mel of AV-Flow and TAVID (22.05 kHz, 80 bands, 8 kHz).

`:base` (the default) is bigvgan_base_22khz_80band of 14 M parameters, `:full` bigvgan_22khz_80band
of 112 M, `:v2` bigvgan_v2_22khz_80band_fmax8k_256x of 112 M with sub-band CQT discriminators, and
`:finetune` is `:base` from a published file, on the mel that a trained system makes of clips.

Prepare:    avjax prepare --dataset=clips|ljspeech|... ; avjax extract --features=vocoder
                [--generated=WORKDIR of AV-Flow] --clips=CLIPS --out=FEATURES
Run:        avjax train --config=configs/vocoder.py:v2 --config.data.dir=FEATURES --workdir=runs/v2
            :finetune needs --config.train.init_from=WORKDIR, which avjax weights import
            --system=vocoder --file=g_05000000 has made
Use:        --vocoder=runs/v2 in generate, evaluate and extract; avjax weights export --out=g.pt
Hardware:   as stated by plan.topology.
Sizes:      as published.
Provenance: published config.json and code: sizes, losses and their weights, segments, batch, AdamW
            1e-4 (.8, .99) times .9999996 a step with PyTorch's eps and decay, clipping, peak .95.
            The learning rate of :finetune is the same; its length is ours.
"""

from avjax.errors import UserError
from avjax.systems.vocoder import config as vocoder
from configs import base

VARIANTS = ("base", "full", "v2", "finetune")


def get_config(size: str = "base"):
    if size not in VARIANTS:
        raise UserError("unknown variant", where="--config=configs/vocoder.py",
                        expected=" | ".join(VARIANTS), found=repr(size))
    c = base.get_config()
    c.name = f"vocoder_{size}"
    c.system = {"base": vocoder.base, "full": vocoder.published, "v2": vocoder.version_2,
                "finetune": vocoder.base}[size]()

    c.data.batch_size = 32
    c.data.segment = 32  # 8192 samples

    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "exponential"
    c.optimizer.decay = 0.9999996
    c.optimizer.b1 = 0.8
    c.optimizer.b2 = 0.99
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.01
    c.optimizer.no_decay = ()
    c.optimizer.clip_norm = 1000.0

    c.train.steps = 5_000_000
    c.train.best_metric = "mel"
    c.evaluate.benchmark = "vocoder"
    c.plan.topology = "v5e:2x4"
    if size == "full":
        c.plan.topology = "v5e:4x4"
    if size == "v2":
        c.data.segment = 256  # 65536 samples
        c.optimizer.clip_norm = 500.0
        c.train.steps = 3_000_000
        c.plan.topology = "v5p:2x2x4"
    if size == "finetune":
        c.system.mel = "features"
        c.system.peak = 0.0
        c.train.steps = 100_000
    return c
