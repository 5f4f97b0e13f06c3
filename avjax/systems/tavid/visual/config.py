"""The fields of TAVID's visual System and its presets (see avjax/fields.py).

The paper names Hallo2, its components and "a different dropout per component"; rates, stages and
everything of the Motion Mapper are ours by choice. Numbers of Hallo2 are its public code's.
"""

from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.fields import Recipe, Section, field
from avjax.flow.diffusion import BETAS
from avjax.nn import config_fields
from avjax.systems.tavid.mapper.config import Net, tiny_net

STAGES = ("appearance", "motion", "temporal")
UNITS_A_FRAME = 2
REGIONS = ("full", "face", "lip")  # in the order of the column `regions`
# What each stage trains, by parameter path; the published second stage trains the temporal modules
# only
TRAINABLE = {"appearance": r"(reference|image_projection|face_locator)/.*"
                           r"|denoiser/(?!.*/(motion|temporal)/).*",
             "motion": r"(mapper|windows|audio_projection)/.*|denoiser/.*/motion/.*",
             "temporal": r"denoiser/.*/temporal/.*"}


class UNet(Section):
    channels: tuple[int, ...] = field((320, 640, 1280, 1280), "Of each level, finest first; each "
                                      "level but the last halves the size.", minimum=1)
    layers: int = field(2, "Of a level going down; one more going up.", minimum=1)
    heads: int = field(8, "Attention heads, at every level.", minimum=1)
    groups: int = field(32, "Groups of the norms, at every level.", minimum=1)
    attention_levels: tuple[bool, ...] = field((True, True, True, False), "Levels with spatial "
                                               "transformers and motion tokens.")
    latent_dim: int = field(4, "Channels of the latents that the nets see: the system's "
                            "latent_dim * patch^2.", minimum=1)
    face_dim: int = field(768, "Width of the face tokens.", minimum=1)
    motion_dim: int = field(768, "Width of the motion tokens.", minimum=1)
    regions: tuple[str, ...] = field(("full",), "One motion cross-attention each, of full, face "
                                     "and lip (Hallo2: all), which differ by their masks.")
    temporal_groups: int = field(32, "Groups of the temporal transformers' norms.", minimum=1)
    temporal_length: int = field(32, "Frames that the temporal transformers have positions for.",
                                 minimum=1)
    motion_frames: int = field(2, "Earlier frames that a clip continues.", minimum=0)
    remat: str = field("none", "What the backward pass recomputes: every layer of the nets, or its "
                       "residual block and transformers one by one, which needs less at once.",
                       choices=("none", "layers", "parts"))
    attention_kernel: str = field("auto", "See avjax.nn.attention.",
                                  choices=("auto", "dense", "blocked", "by_head", "cudnn",
                                           "splash"))


class Dropout(Section):
    reference: float = field(0.05, "Share of rows without the reference.", minimum=0, below=1)
    face: float = field(0.05, "Share of rows without the face embedding.", minimum=0, below=1)
    motion: float = field(0.10, "Share of rows without motion tokens.", minimum=0, below=1)
    all: float = field(0.05, "Share of rows without those three together.", minimum=0, below=1)
    motion_frames: float = field(0.05, "Share of rows without motion frames.", minimum=0, below=1)


class Audio(Section):
    """Sound as Hallo2 gives it to its networks: frames of all layers of wav2vec 2.0."""

    layers: int = field(12, "Of the encoder, whose frames are side by side.", minimum=1)
    width: int = field(768, "Of a layer's frames.", minimum=1)
    margin: int = field(2, "Frames to either side that a frame's tokens are made of.", minimum=0)
    hidden: int = field(512, "Width of the two layers in between.", minimum=1)
    tokens: int = field(32, "Tokens of a frame, unet.motion_dim wide.", minimum=1)


class Config(Section):
    name: str = config_fields.system_name("tavid.visual")
    stage: str = field("appearance", "What is trained: single frames; the mapper and its attention "
                       "as well; clips.", choices=STAGES)
    # networks
    unet: UNet = field(None, "Of the reference net and the denoiser.")
    driver: str = field("units", "What makes the motion tokens: units, by the Motion Mapper, of "
                        "all speakers; audio, by Hallo2's projection, of the speaker's own sound.",
                        choices=("units", "audio"))
    mapper: Net = field(None, "The Motion Mapper; where sound drives, its `streams` alone count.")
    audio: Audio = field(None, "Of driver audio.")
    masks: bool = field(False, "The regions' shares are weighted by where the regions lie in the "
                        "reference (column `regions`), as in Hallo2; False: everywhere alike.")
    locator: tuple[int, ...] = field((), "Widths of the face locator, which sees the face's mask "
                                     "(column `face_mask`), finest first; each but the last halves "
                                     "the size. Hallo2: 16, 32, 64, 128; none = no locator.",
                                     minimum=1)
    path: str = field("full", "full: every temporal module runs and sees the motion frames; "
                      "published, eval: the release's two.", choices=("full", "published", "eval"))
    predicts: str = field("velocity", "What the denoiser's last layer gives: the velocity "
                          "(published), or the clean latents, from which it follows: a narrow "
                          "network cannot carry the noise to its output, as a velocity asks of it "
                          "[ours].", choices=("velocity", "data"))
    latent_size: tuple[int, int] = field((64, 64), "Height and width of the latents.", minimum=1)
    latent_dim: int = field(4, "Their channels.", minimum=1)
    patch: int = field(1, "Latent cells a side that are folded into the nets' channels (published: "
                       "none).", minimum=1)
    reference_input: bool = field(False, "The reference's latents are also beside the noisy ones "
                                  "on the denoiser's input, which a short training learns to use "
                                  "sooner than attention [ours].")
    motion_shift: bool = field(False, "A frame's motion tokens also shift its time embedding, "
                               "which every residual block of the denoiser sees [ours].")
    face_width: int = field(512, "Width of a face embedding.", minimum=1)
    face_tokens: int = field(4, "Tokens that it becomes.", minimum=1)
    # training rows
    frames: int = field(14, "Of a training row; beside them, stage temporal has the motion frames. "
                        "Stage 1 of Hallo2: 1.", minimum=1)
    context: int = field(50, "Frames of units to either side of a training row (2 s) [ours].",
                         minimum=0)
    portrait_share: float = field(0.0, "Share of rows whose reference is the portrait, not another "
                                  "frame of the same video [ours].", minimum=0, maximum=1)
    reference_margin: int = field(30, "Frames between a reference and what is made of it, where "
                                  "the video is long enough; stage temporal takes any frame (both "
                                  "Hallo2's).", minimum=0)
    start_share: float = field(0.05, "Share of clips trained as a video's first: motion frames are "
                               "copies of the reference, as when sampling.", minimum=0, maximum=1)
    # objective
    betas: str = field("scaled_linear", "Noise schedule of training.", choices=BETAS)
    min_snr: float = field(5.0, "Gamma of the Min-SNR weights; 0 = the plain mean square of what "
                           "is predicted.", minimum=0)
    noise_offset: float = field(0.05, "Deviation of the noise that a channel's cells share.")
    moving_weight: float = field(0.0, "Extra weight of latent cells by how much they move in the "
                                 "row [ours].", minimum=0)
    dropout: Dropout = field(None, "Shares of rows without each condition, independently [ours, "
                             "from Hallo2].")
    motion_noise: int = field(50, "Motion frames get the noise of a time below this; 0 = none. "
                              "Hallo2: before the VAE; here: latents.", minimum=0)
    motion_drop: float = field(0.25, "Share of latent cells of the motion frames that are zeroed "
                               "(Hallo2: of pixels outside the face).", minimum=0, maximum=1)
    # sampler
    steps: int = field(40, "Of the sampler.", minimum=1)
    clip: int = field(16, "Frames sampled at once.", minimum=1)
    sample_betas: str = field("scaled_linear", "Noise schedule of sampling; linear: what the "
                              "release samples with, though it trains with the other.",
                              choices=BETAS)
    guidance_mode: str = field("combined", "combined: one pass without any condition; separate: "
                               "see sampler.py.", choices=("combined", "separate"))
    guidance: float = field(3.5, "Of mode combined.")
    guidance_reference: float = field(2.0, "On the reference, of mode separate [ours].")
    guidance_motion: float = field(3.5, "On the motion, of mode separate [ours].")
    sample_motion_drop: float = field(0.0, "motion_drop when sampling; the release drops 0.25 "
                                      "there too.", minimum=0, maximum=1)
    units_recipe: Recipe = field(None, "How the units must have been made; None = any.")
    audio_recipe: Recipe = field(None, "How frames of sound must have been made; None = any.")
    latents_recipe: Recipe = field(None, "How the latents must have been made; None = any.")
    faces_recipe: Recipe = field(None, "How face embeddings must have been made; None = any.")
    frame_rate: float = config_fields.FRAME_RATE
    compute_dtype: str = config_fields.COMPUTE_DTYPE

    @staticmethod
    def relations(c, need):
        need(c.predicts == "velocity" or c.sample_betas == c.betas, "sample_betas",
             f"{c.betas} where predicts is data",
             hint="the velocity follows from the data by the betas of training")
        need(c.driver != "units" or c.mapper.token_dim == c.unet.motion_dim, "unet.motion_dim",
             f"mapper.token_dim = {c.mapper.token_dim}")
        need(len(c.unet.regions) > 0 and set(c.unet.regions) <= set(REGIONS), "unet.regions",
             f"some of {', '.join(REGIONS)}")
        need(c.masks or len(c.unet.regions) == 1, "masks", "True where there are several "
             "unet.regions", hint="without masks the regions would be one and the same")
        longest = max(c.clip, c.frames) + c.unet.motion_frames
        need(longest <= c.unet.temporal_length, "unet.temporal_length",
             f">= frames and clip + motion_frames = {longest}")
        need(c.clip >= c.unet.motion_frames, "clip",
             f">= unet.motion_frames = {c.unet.motion_frames}")
        folded = c.latent_dim * c.patch**2
        need(c.unet.latent_dim == folded, "unet.latent_dim", f"latent_dim * patch^2 = {folded}")
        cells = c.patch * 2 ** (len(c.unet.channels) - 1)
        need(all(n % cells == 0 for n in c.latent_size), "latent_size",
             f"multiples of {cells} (patch and levels of the UNet)")


def full() -> ConfigDict:
    """Hallo2's sizes."""
    return Config.make()


def hallo2() -> ConfigDict:
    """Hallo2 itself: one speaker's sound, all regions and their masks, the face's mask."""
    c = Config.make(driver="audio", masks=True, locator=(16, 32, 64, 128))
    c.unet.regions = REGIONS
    c.mapper.streams = 1
    return c


def mask_size(c) -> tuple[int, int]:
    """Height and width of the face's mask that the locator brings to the nets' size."""
    halvings = 2 ** (len(c.locator) - 1)
    height, width = (n // c.patch * halvings for n in c.latent_size)
    return height, width


def tiny() -> ConfigDict:
    """64 x 64 pictures (latents 16 x 16 x 4) on two CPU cores; all ours by choice."""
    return Config.make(
        unet=UNet.make(
            channels=(96,),
            layers=1,
            heads=4,
            groups=8,
            attention_levels=(True,),
            latent_dim=16,
            face_dim=48,
            motion_dim=48,
            temporal_groups=8,
        ),
        mapper=tiny_net(),
        patch=2,
        predicts="data",
        reference_input=True,
        latent_size=(16, 16),
        face_width=16,
        face_tokens=2,
        frames=8,
        context=25,
        portrait_share=0.5,
        reference_margin=0,
        steps=4,
        guidance_mode="separate",
        guidance_reference=1.0,
        guidance_motion=1.5,
    )


def frozen(stage: str) -> tuple[str, ...]:
    """For `config.optimizer.frozen`: everything that the stage does not train."""
    if stage not in STAGES:
        raise UserError("unknown stage", where="config.system.stage", expected=" | ".join(STAGES),
                        found=repr(stage))
    return (rf"(?!({TRAINABLE[stage]})$).*",)


check = Config.check
base = full  # the name of before, which users' config files call
