"""TAVID at full size, a part at a time: --config=configs/tavid.py:PART with PART one of text,
acoustic, appearance, mapper, motion, temporal, speaker; without a part, S7 and dialogues.

Run:      python -m launch.train --config=configs/tavid.py:temporal --config.data.dir=DATA --workdir=runs/tavid/temporal \\
              --config.train.init_from=runs/tavid/motion
Data:     python -m launch.extract --features=tavid --clips=DIR --out=DATA --unit_encoder=xlsr2_1b_v2.pt \\
              --centroids=kmeans_10k.npy --tokens=vocab.txt --vae=sd-vae-ft-mse.safetensors
              --size=512 --max_seconds=10
          (10 seconds: a record holds all frames of its piece; vocab.txt is bert-base-uncased's)
Hardware: the slices of SLICE; what a step takes there: python -m launch.plan
--config=configs/tavid.py:temporal
Provenance: learning rates, batches and steps of the visual stages are Hallo2's public code's (8 and
          4 a device, 30 k steps, AdamW 1e-5); S1 CoVoMix' rate; S2 USDM's batch and rate; the rest
          is ours by choice, since the paper prints none. Widths of faces and portraits' maps are
          what that extraction makes; the parts' own presets have the published ones.
"""

from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.speaker import config as speaker
from avjax.systems.tavid.visual import config as visual
from configs import base

STEPS = {"text": 500_000, "acoustic": 500_000, "appearance": 30_000, "mapper": 30_000,
         "motion": 30_000, "temporal": 30_000,
         "speaker": 100_000, "": 50_000}
BATCH = {"text": 64, "acoustic": 256, "appearance": 64, "mapper": 64, "motion": 64, "temporal": 32,
         "speaker": 256, "": 256}
SLICE = {"text": "v5e:8x8", "acoustic": "v5e:8x8", "appearance": "v5e:8x8", "mapper": "v5e:4x4",
         "motion": "v5e:8x8",
         "temporal": "v5e:4x8", "speaker": "v5e:4x4", "": "v5e:8x8"}
RATE = {"text": 1e-4, "acoustic": 1e-4, "mapper": 1e-4, "speaker": 1e-4, "": 1e-5}


def get_config(part: str = ""):
    if part not in STEPS:
        raise UserError("no such part", where="--config", expected=", ".join(filter(None, STEPS)),
                        found=part)
    whole = tavid.base()
    whole.visual.face_width = whole.speaker.face_dim = portrait.WIDTH
    speaker.on_latents(whole.speaker, whole.visual.latent_size[0], whole.visual.latent_dim)
    whole.speaker.random_frame = False  # else each row reads all frames of a dialogue for one
    c = base.get_config()
    c.name = f"tavid_{part or 'dialogue'}"
    c.data.batch_size = BATCH[part]
    o, t = c.optimizer, c.train
    o.learning_rate, o.warmup_steps, o.weight_decay, o.clip_norm, o.ema_decay = RATE.get(part,
                                                                                         1e-5), 1000, 0.01, 1.0, 0.999
    if part == "speaker":
        o.weight_decay = 0.05
    o.b2, o.eps = 0.999, 1e-8
    t.steps = STEPS[part]
    c.plan.topology = SLICE[part]
    t.watchdog_seconds = 1800.0
    if part not in ("mapper", "speaker"):  # large enough that their state is split over all chips
        c.mesh.data, c.mesh.fsdp = 1, -1
    whole.text.remat = whole.acoustic.remat = True
    if part in visual.STAGES:
        c.system = whole.visual
        c.system.stage = part
        c.system.unet.remat = "layers"
        c.system.frames = 14 if part == "temporal" else 1
        o.frozen = visual.frozen(part)
    elif part == "mapper":
        c.system = mapper.base()
        # `motion` of puppets: face code and pose; of another face code its width + 7
        c.system.target_dim = 23
    elif part:
        c.system = whole[part]
    else:
        c.system = whole
        o.frozen = (r"(text|visual|speaker)/.*",)
    return c
