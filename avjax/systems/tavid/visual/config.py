"""Every field of TAVID's visual System with its presets: `base` has Hallo2's sizes, `tiny` is for
64 x 64 pictures.

The paper names Hallo2, its components and "a different dropout per component"; rates, stages and
everything of the Motion Mapper are ours by choice. Numbers of Hallo2 are its public code's.
"""

from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.flow.diffusion import BETAS
from avjax.systems.tavid.mapper import config as mapper

STAGES = ("appearance", "motion", "temporal")
PREDICTS = ("velocity", "data")
GUIDANCES = ("combined", "separate")
UNITS_A_FRAME = 2
# What each stage trains, by parameter path; the published second stage trains the temporal modules
# only
TRAINABLE = {"appearance": r"reference/.*|image_projection/.*|denoiser/(?!.*/(motion|temporal)/).*",
             "motion": r"mapper/.*|windows/.*|denoiser/.*/motion/.*",
             "temporal": r"denoiser/.*/temporal/.*"}


def base() -> ConfigDict:
    c = ConfigDict()
    c.name = "tavid.visual"
    # appearance: single frames | motion: + the mapper and its attention | temporal: clips networks;
    # unet.latent_dim is what the nets see, latent_dim * patch^2
    c.stage = "appearance"
    c.unet = ConfigDict(dict(channels=(320, 640, 1280, 1280), layers=2, heads=8, groups=32,
                             attention_levels=(True, True, True, False), latent_dim=4, face_dim=768,
                             motion_dim=768,
                             # Hallo2: ("full", "face", "lip"), which differ by masks that nothing
                             # here makes
                             regions=("full",),
                             temporal_groups=32, temporal_length=32, motion_frames=2,
                             remat="none", attention_kernel="auto"))
    c.mapper = mapper.net()
    # full: every temporal module runs and sees the motion frames | published | eval: the release's
    # two
    c.path = "full"
    # what the denoiser's last layer gives (published); data: the clean latents, from which the
    # velocity follows: a narrow network cannot carry the noise to its output, as a velocity asks of
    # it [ours]
    c.predicts = "velocity"
    c.latent_size = (64, 64)
    c.latent_dim = 4
    c.patch = 1  # latent cells a side that are folded into the nets' channels (published: none)
    # True: the reference's latents also stand beside the noisy ones on the denoiser's input, which
    # a short training needs less time to make use of than of attention (ours)
    c.reference_input = False
    c.face_width = 512
    c.face_tokens = 4
    # rows
    # of a training row; beside them, stage temporal has the motion frames. Stage 1 of Hallo2: 1
    c.frames = 14
    c.context = 50  # frames of units to either side of a training row (2 s) [ours]
    # of rows whose reference is the portrait, not another frame of the same video [ours]
    c.portrait_share = 0.0
    # frames between a reference and what is made of it, where the video is long enough; stage
    # temporal takes any frame (both Hallo2's)
    c.reference_margin = 30
    # of clips trained as a video's first: motion frames are copies of the reference, as when
    # sampling objective
    c.start_share = 0.05
    c.betas = "scaled_linear"
    c.min_snr = 5.0  # gamma of the Min-SNR weights; 0 = the plain mean square of what is predicted
    c.noise_offset = 0.05
    c.moving_weight = 0.0  # extra weight of latent cells by how much they move in the row [ours]
    # share of rows without each condition, independently; "all" is without the first three together
    # [ours, from Hallo2]
    c.dropout = ConfigDict(dict(reference=0.05, face=0.05, motion=0.10, all=0.05,
                                motion_frames=0.05))
    # motion frames get the noise of a time below this; 0 = none. Hallo2: before the VAE; here:
    # latents
    c.motion_noise = 50
    # share of latent cells of the motion frames that are zeroed (Hallo2: of pixels outside the
    # face) sampler
    c.motion_drop = 0.25
    c.steps = 40
    c.clip = 16  # frames sampled at once
    # linear: what the release samples with, though it trains with the other
    c.sample_betas = "scaled_linear"
    # combined: one pass without any condition | separate: see sampler.py
    c.guidance_mode = "combined"
    c.guidance = 3.5  # combined
    c.guidance_reference = 2.0  # separate [ours]
    c.guidance_motion = 3.5  # separate [ours]
    # 0.25: the release drops cells of the motion frames when sampling, too definitions that feature
    # shards must match; None = any
    c.sample_motion_drop = 0.0
    c.units_recipe = None
    c.latents_recipe = None
    c.faces_recipe = None
    c.frame_rate = 25.0
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    return c


def tiny() -> ConfigDict:
    """64 x 64 pictures (latents 16 x 16 x 4) on two CPU cores; all ours by choice."""
    c = base()
    c.unet.update(dict(channels=(96,), layers=1, heads=4, groups=8, attention_levels=(True,),
                       latent_dim=16, face_dim=48, motion_dim=48, regions=("full",),
                       temporal_groups=8))
    c.patch, c.predicts, c.reference_input = 2, "data", True
    c.mapper = mapper.tiny_net()
    c.mapper.token_dim = 48
    c.latent_size, c.face_width, c.face_tokens = (16, 16), 16, 2
    c.frames, c.context, c.portrait_share, c.reference_margin = 8, 25, 0.5, 0
    c.steps, c.guidance_mode, c.guidance_reference, c.guidance_motion = 4, "separate", 1.0, 1.5
    return c


def frozen(stage: str) -> tuple[str, ...]:
    """For `config.optimizer.frozen`: everything that the stage does not train."""
    if stage not in STAGES:
        raise UserError("unknown stage", where="config.system.stage", expected=" | ".join(STAGES),
                        found=repr(stage))
    return (rf"(?!({TRAINABLE[stage]})$).*",)


def check(c) -> None:
    """UserError for what cannot be built or trained."""
    def need(good: bool, name: str, expected: str, **more):
        if not good:
            raise UserError("visual configuration", where=f"config.system.{name}",
                            expected=expected, found=repr(c[name]),
                            **more)

    need(c.stage in STAGES, "stage", " | ".join(STAGES))
    need(c.predicts in PREDICTS, "predicts", " | ".join(PREDICTS))
    need(c.guidance_mode in GUIDANCES, "guidance_mode", " | ".join(GUIDANCES))
    for name in ("betas", "sample_betas"):
        need(c[name] in BETAS, name, " | ".join(BETAS))
    for name in ("frames", "clip", "steps", "face_width", "face_tokens"):
        need(c[name] >= 1, name, ">= 1")
    for name in ("min_snr", "context", "motion_noise", "moving_weight", "reference_margin"):
        need(c[name] >= 0, name, ">= 0")
    for name in ("portrait_share", "start_share", "motion_drop", "sample_motion_drop"):
        need(0 <= c[name] <= 1, name, "a share")
    need(all(0 <= share < 1 for share in c.dropout.values()), "dropout", "shares below 1")
    need(c.predicts == "velocity" or c.sample_betas == c.betas, "sample_betas",
         f"{c.betas} where predicts is data", hint="the velocity follows from the data by the "
                                                   "betas of training")
    need(c.mapper.token_dim == c.unet.motion_dim, "unet", "motion_dim = mapper.token_dim = "
                                                          f"{c.mapper.token_dim}")
    longest = max(c.clip, c.frames) + c.unet.motion_frames
    need(longest <= c.unet.temporal_length, "unet", "temporal_length >= frames and clip + "
                                                    f"motion_frames = {longest}")
    need(c.clip >= c.unet.motion_frames, "clip", f">= unet.motion_frames = {c.unet.motion_frames}")
    folded = c.latent_dim * c.patch**2
    need(c.unet.latent_dim == folded, "unet", f"latent_dim = latent_dim * patch^2 = {folded}")
    cells = c.patch * 2 ** (len(c.unet.channels) - 1)
    need(all(n % cells == 0 for n in c.latent_size), "latent_size",
         f"multiples of {cells} (patch and levels of the UNet)")
    mapper.check_net(c.mapper, "config.system.mapper")
