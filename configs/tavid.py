"""TAVID at full size, a part at a time; without a variant, S7 and dialogues.

Prepare:    avjax prepare --dataset=seamless --source=SEAMLESS --out=DIR --size=512 \\
                --movement=movement
            avjax extract --features=tavid --clips=DIR --out=DATA \\
                --unit_encoder=xlsr2_1b_v2.pt --centroids=kmeans_10k.npy --tokens=vocab.txt \\
                --vae=sd-vae-ft-mse.safetensors --size=512 --max_seconds=10
            (the two first files may be one folder that avjax weights import --system=units has
            checked: --unit_encoder=UNITS)
            (10 seconds: a record holds all frames of its piece; vocab.txt is bert-base-uncased's)
            Of any dialogues with sound, script and pictures (docs/corpora.md). :mapper regresses
            what clips have as a face code: for Seamless' 128 numbers, which --movement brings,
            --config.system.target_dim=135. An XLS-R of another width than the published ones needs
            its config.json beside it.
Run:        avjax train --config=configs/tavid.py:temporal --config.data.dir=DATA \\
                --workdir=runs/tavid/temporal --config.train.init_from=runs/tavid/motion
            Without a variant, S7: --config.train.init_parts="(('text', 'runs/tavid/text', ''),
            ('acoustic', 'runs/tavid/acoustic', ''), ('visual', 'runs/tavid/temporal', ''),
            ('speaker', 'runs/tavid/speaker', ''))"
            S1 on 40 % first speaker, 40 % second, 20 % dialogues of DATA, or of several corpora:
            --config.data.mixture (docs/data.md, A mixture); of one --config.data.dir,
            text.single_share draws the same
Published:  what a stage begins with is imported first (docs/tavid.md), then named by
            --config.train.init_from=WORKDIR: Hallo2 or Stable Diffusion for appearance, motion and
            temporal, USDM's Voicebox for voicebox (features with --mel_statistics=usdm), ResNet-18
            for portrait. configs/hallo2.py keeps all of Hallo2 and drives it by sound.
Hardware:   the slices of PARTS; what a step takes there:
            avjax plan --config=configs/tavid.py:temporal
Sizes:      widths of faces and portraits' maps are what that extraction makes; the parts' own
            presets have the published ones.
Provenance: learning rates, batches and steps of the visual stages are Hallo2's public code's (8 and
            4 a device, 30 k steps, AdamW 1e-5); S1 CoVoMix' rate; S2 USDM's batch and rate; the
            rest is ours by choice, since the paper prints none.
"""

import dataclasses

from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.acoustic import config as acoustic
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.speaker import config as speaker
from avjax.systems.tavid.vae import config as vae
from avjax.systems.tavid.visual import config as visual
from configs import base


@dataclasses.dataclass(frozen=True)
class Part:
    """How one part is trained. `sharded`: its state is large enough to be split over all chips."""

    steps: int
    batch_size: int
    learning_rate: float
    topology: str
    sharded: bool = True


DIALOGUE = Part(50_000, 256, 1e-5, "v5e:8x8")  # S7
PARTS = {
    "vae": Part(100_000, 8, 1e-5, "v5e:4x4", sharded=False),
    "text": Part(500_000, 64, 1e-4, "v5e:8x8"),  # S1
    "acoustic": Part(500_000, 256, 1e-4, "v5e:8x8"),  # S2
    "voicebox": Part(100_000, 256, 1e-4, "v5e:8x8"),  # S2 from published weights
    "appearance": Part(30_000, 64, 1e-5, "v5e:8x8"),  # S3
    "mapper": Part(30_000, 64, 1e-4, "v5e:4x4", sharded=False),
    "motion": Part(30_000, 64, 1e-5, "v5e:8x8"),  # S4
    "temporal": Part(30_000, 32, 1e-5, "v5e:4x8"),  # S5
    "speaker": Part(100_000, 256, 1e-4, "v5e:4x4", sharded=False),  # S6
    "portrait": Part(100_000, 256, 1e-4, "v5e:4x4"),  # S6 from published weights
}
VARIANTS = tuple(PARTS)
IN = {"voicebox": "acoustic", "portrait": "speaker"}  # the part that a variant is of


def get_config(part: str = ""):
    if part and part not in PARTS:
        raise UserError("unknown variant", where="configs/tavid.py", expected=" | ".join(VARIANTS),
                        found=repr(part))
    recipe = PARTS.get(part, DIALOGUE)
    c = base.get_config()
    c.name = f"tavid_{part or 'dialogue'}"
    c.system = system(part)
    c.data.batch_size = recipe.batch_size

    c.optimizer.learning_rate = recipe.learning_rate
    c.optimizer.warmup_steps = 1000
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.05 if part in ("speaker", "portrait") else 0.01
    c.optimizer.frozen = frozen(part)
    if part == "temporal":  # three quarters of the parameters, which it only reads
        c.optimizer.frozen_dtype = "bfloat16"
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema_decay = 0.999

    c.train.steps = recipe.steps
    c.train.watchdog_seconds = 1800.0

    if recipe.sharded:
        c.mesh.data = 1
        c.mesh.fsdp = -1
    c.plan.topology = recipe.topology
    return c


def system(part: str):
    """config.system of one part, or of all of them."""
    if part == "mapper":
        c = mapper.full()
        # `motion` of puppets: face code and pose; of another face code its width + 7
        c.target_dim = 23
        return c
    if part == "vae":
        return vae.published()
    every = tavid.full()
    if part == "voicebox":
        every.acoustic = voicebox()
    if part == "portrait":
        every.speaker = speaker.resnet18()
    every.text.remat = True
    every.acoustic.remat = True
    every.visual.face_width = portrait.WIDTH
    every.speaker.face_dim = portrait.WIDTH
    if part != "portrait":
        speaker.on_latents(every.speaker, every.visual.latent_size[0], every.visual.latent_dim)
        every.speaker.random_frame = False  # else each row reads all frames of a dialogue for one
    if part in visual.STAGES:
        every.visual.stage = part
        every.visual.unet.remat = "parts" if part == "temporal" else "layers"
        every.visual.frames = 14 if part == "temporal" else 1
        return every.visual
    return every[IN.get(part, part)] if part else every


def voicebox():
    """USDM's Voicebox with a voice and partners, which begin without any effect."""
    c = acoustic.usdm()
    c.voice_dim = 256
    c.partner = True
    c.drop_voice = 0.2
    c.drop_partner = 0.5
    return c


def frozen(part: str) -> tuple[str, ...]:
    """config.optimizer.frozen of one part's training, or of S7, which trains the acoustic part."""
    if part in visual.STAGES:
        return visual.frozen(part)
    return () if part else (r"(text|visual|speaker)/.*",)
