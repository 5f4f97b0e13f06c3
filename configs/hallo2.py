"""Hallo2 (arXiv:2410.07718): a portrait and a sound in, a video out; and how its weights become
those that units drive. Without a variant, its second stage.

Prepare:    avjax weights import --system=tavid.visual --folder=pretrained_models \\
                --workdir=runs/hallo2_released
            (Hallo2's own layout: hallo2/net.pth, sd-vae-ft-mse, wav2vec; then avjax generate
            --workdir=runs/hallo2_released --audio=a.wav --portrait=a.png)
            avjax extract --features=tavid --clips=DIR --out=DATA --vae=sd-vae-ft-mse.safetensors \\
                --audio_encoder=wav2vec2-base-960h --size=512 --max_seconds=10 \\
                --face_embeddings=FOLDER [--audio_tokens=net.pth]
            (or --face_embeddings=clips, of clips prepared with --face_embeddings=512)
Run:        avjax train --config=configs/hallo2.py:appearance --config.data.dir=DATA \\
                --workdir=runs/hallo2/appearance \\
                --config.train.init_from=WORKDIR of Stable Diffusion and AnimateDiff, imported
            avjax train --config=configs/hallo2.py --config.data.dir=DATA \\
                --workdir=runs/hallo2/temporal --config.train.init_from=runs/hallo2_released
            TAVID from Hallo2's weights: mapper regresses its audio tokens, and units then drives
            the released networks by the mapper's:
            avjax train --config=configs/hallo2.py:mapper ... --workdir=runs/tavid/mapper
            avjax train --config=configs/hallo2.py:units ... --workdir=runs/tavid/motion \\
                --config.train.init_from=runs/hallo2_released \\
                '--config.train.init_parts=(("mapper", "runs/tavid/mapper", "mapper"),)'
            Everything on puppets, two CPU cores, at tiny size:
            avjax train --config=configs/hallo2.py:puppets --workdir=runs/hallo2
Hardware:   the slices of configs/tavid.py, whose stages these are; puppets: two CPU cores, 3.0 GB,
            864 CPU seconds (77 minutes by the clock beside up to 25 other jobs).
Expect:     puppets, once: 78 frames of a face like the portrait's, whose lips and head do not
            follow the sound (docs/tavid.md).
Sizes:      the public code's; on puppets, ours by choice.
Provenance: sizes, regions, schedule, batches, rates and steps are the public code's; on puppets,
            all sizes are ours by choice. What a trained run looks like there is plumbing, never
            realism.
"""

from avjax.errors import UserError
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.vae import config as vae
from avjax.systems.tavid.visual import config as visual
from configs import base, tavid

AUDIO_TOKENS = (32, 768)  # a frame; their width
CLIPS = "{workdir}/data/clips"
PICTURES = "{workdir}/data/pictures"
FEATURES = "{workdir}/data/features"
SPOKEN = "{workdir}/data/spoken"  # the same with audio tokens
NAME = "configs/hallo2.py"


def get_config(variant: str = ""):
    if variant not in EXPERIMENTS:
        raise UserError("unknown variant", where=NAME, expected=" | ".join(VARIANTS),
                        found=repr(variant))
    c = EXPERIMENTS[variant]()
    c.name = f"hallo2_{variant or 'temporal'}"
    return c


def _stage(stage: str):
    """A stage of the released networks, driven by one speaker's sound."""
    c = tavid.get_config(stage)
    c.system = visual.hallo2()
    c.system.stage = stage
    c.system.unet.remat = "parts" if stage == "temporal" else "layers"
    c.system.frames = 14 if stage == "temporal" else 1
    return c


def _mapper():
    """The warm start: frames' motion tokens are Hallo2's audio tokens."""
    c = tavid.get_config("mapper")
    tokens, width = AUDIO_TOKENS
    c.system.update(dict(tokens=tokens, token_dim=width, margin=0, target="audio_tokens",
                         target_dim=tokens * width, head="none"))
    return c


def _units():
    """The released networks, all speakers' units in the place of the sound."""
    c = _stage("motion")
    c.system.driver = "units"
    c.system.mapper.update(dict(streams=2, tokens=AUDIO_TOKENS[0], margin=0))
    return c


# ---- puppets, at tiny size


def _tiny(system, *, steps: int, batch_size: int, learning_rate: float):
    c = base.get_config()
    c.system = system
    c.data.batch_size = batch_size
    c.optimizer.learning_rate = learning_rate
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 20
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema_decay = 0.99
    c.train.steps = steps
    c.train.log_every = 50
    c.train.checkpoint_every = c.train.evaluate_every = max(1, steps)
    c.train.loss_examples = 8
    return c


def _puppet_net(stage: str):
    c = visual.tiny()
    c.update(dict(stage=stage, driver="audio", masks=True, locator=(8, 8, 16, 16), face_width=64,
                  min_snr=0.0))
    c.unet.regions = visual.REGIONS
    c.mapper.update(dict(streams=1, tokens=4, margin=0, num_units=64))
    c.audio.update(dict(layers=2, width=128, hidden=64, tokens=4))  # of the random encoder
    return c


def _puppet_stage(stage: str, steps: int):
    c = _tiny(_puppet_net(stage), steps=steps, batch_size=4, learning_rate=1e-3)
    if stage != "motion":  # a short appearance makes no renderer: motion goes on with all of it
        c.optimizer.frozen = visual.frozen(stage)
    return c


def _puppet_mapper():
    c = _tiny(mapper.tiny(), steps=200, batch_size=8, learning_rate=2e-3)
    tokens, width = 4, c.system.token_dim
    c.system.update(dict(streams=1, num_units=64, tokens=tokens, margin=0, target="audio_tokens",
                         target_dim=tokens * width, head="none", segment=50))
    return c


def _puppet_units():
    c = _puppet_stage("motion", 100)
    c.system.driver = "units"
    return c


def _puppets():
    """Every stage in order; then the temporal one, and a sample of an example's sound."""
    c = _puppet_stage("temporal", 60)
    c.stages = _stages()
    c.data.dir = FEATURES
    c.train.init_from = "{workdir}/motion"
    c.sample.example = "test_speaker/0"
    return c


def _stages():
    def train(part, data, **overrides):
        return dict(kind="train", config=f"{NAME}:puppets_{part}", workdir=f"{{workdir}}/{part}",
                    overrides={"data.dir": data} | overrides)

    def features(out, **more):
        return dict(kind="extract", features="tavid", clips=CLIPS, out=out, vae="{workdir}/vae",
                    num_units=64, audio_encoder="random", scripts="none", **more)

    return (
        dict(kind="prepare", dataset="puppets", out=CLIPS, sentences=6, speakers=24, held_out=4,
             valid=2, test=2, seed=0),
        dict(kind="extract", features="pictures", clips=CLIPS, out=PICTURES),
        train("vae", PICTURES),
        features(FEATURES),
        train("appearance", FEATURES),
        train("motion", FEATURES, **{"train.init_from": "{workdir}/appearance"}),
        # units take the place of the sound, whose tokens the mapper has learnt to make
        features(SPOKEN, audio_tokens="{workdir}/motion"),
        train("mapper", SPOKEN),
        train("units", SPOKEN, **{"train.init_from": "{workdir}/motion", "train.init_parts": (
            ("mapper", "{workdir}/mapper", "mapper"),)}),
    )


EXPERIMENTS = {
    "": lambda: _stage("temporal"),
    "appearance": lambda: _stage("appearance"),
    "motion": lambda: _stage("motion"),
    "mapper": _mapper,
    "units": _units,
    "puppets": _puppets,
    "puppets_vae": lambda: _tiny(vae.tiny(), steps=600, batch_size=2, learning_rate=4e-3),
    "puppets_appearance": lambda: _puppet_stage("appearance", 120),
    "puppets_motion": lambda: _puppet_stage("motion", 150),
    "puppets_mapper": _puppet_mapper,
    "puppets_units": _puppet_units,
}
VARIANTS = tuple(name for name in EXPERIMENTS if name)
