"""The fields of the acoustic denoiser and its presets (see avjax/fields.py).

Sizes and shares of the DiT are ours, TAVID (arXiv 2512.20296) prints none. `usdm` is the published
unit Voicebox (naver-ai/xlsr-token-Voicebox), exactly, for its weights.
"""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields
from avjax.signal import level, mel

# what the published weights were trained on
USDM_MEL = mel.RECIPE | {"gain": 1.0, "mean": -5.5419, "std": 2.1575}


def _share(default: float, doc: str):
    return field(default, doc, minimum=0, maximum=1)


class Config(Section):
    name: str = config_fields.system_name("tavid.acoustic")
    block: str = field("dit", "dit: pre-norm, AdaLN-Zero on (time, voice), rotary; usdm: "
                       "post-norm, ALiBi, U-skips.", choices=("dit", "usdm"))
    # streams
    num_speakers: int = field(2, "Of a conversation.", minimum=1)
    num_units: int = field(10000, "Ids 0 .. num_units - 1; the embedding has one row more, for no "
                           "units.", minimum=1)
    mel_dim: int = field(80, "Mel bands.", minimum=1)
    voice_dim: int = field(256, "Width of the speaker embedding e_spk; 0 = voices are not looked "
                           "at.", minimum=0)
    partner: bool = field(True, "The other speakers' units are a condition.")
    prompt: bool = field(True, "Frames of the answer may be given (infilling).")
    # network [ours by choice; widths as USDM's]
    d_model: int = field(1024, "Width of the blocks.", minimum=1)
    num_layers: int = field(24, "Transformer blocks.", minimum=1)
    num_heads: int = field(16, "Attention heads.", minimum=1)
    d_ff: int = field(4096, "Hidden width of the feed-forward layers.", minimum=1)
    unit_dim: int = field(1280, "Width of the units' embedding.", minimum=1)
    window: int = field(344, "Frames on either side that a block of the DiT sees (4 s): any length "
                        "at linear cost [ours]; 0 = all.", minimum=0)
    position_kernel: int = field(31, "Frames of the grouped convolutions after the input; 0 = "
                                 "none.", minimum=0)
    position_groups: int = field(16, "Their groups.", minimum=1)
    position_depth: int = field(2, "How many of them.")
    mel_recipe: Recipe = field(mel.SPEECH, "How the mel must have been made; None = any.")
    units_recipe: Recipe = field(None, "How the units must have been made; None = any.")
    voices_recipe: Recipe = field(None, "How speaker embeddings must have been made; None = any.")
    row_frames: int = field(1378, "Frames of a training row: a random crop of 16 s (USDM).",
                            minimum=1)
    # objective
    sigma: float = field(1e-4, "Deviation of the flow's end around the data (USDM).", minimum=0,
                         below=1)
    predict: str = field("velocity", "What the network's output is: the velocity (USDM), or the "
                         "clean mel, from which the velocity follows.",
                         choices=("velocity", "data"))
    drop_all: float = _share(0.1, "Of examples trained without any condition [ours; USDM .2].")
    drop_units: float = _share(0.1, "Of examples trained without their units [ours].")
    drop_voice: float = _share(0.2, "Of examples trained without the voice [ours].")
    drop_partner: float = _share(0.5, "Of examples trained without the partner [ours].")
    drop_prompt: float = _share(0.3, "Of examples trained with no frame given (USDM).")
    mask_least: float = field(0.7, "Else a span of U(mask_least, 1) of the crop is to be filled in "
                              "(USDM).", above=0, maximum=1)
    # sampler
    solver: str = field("heun", "Of the ODE.", choices=("euler", "heun"))
    steps: int = field(50, "Evaluations of the network, as USDM counts: Heun makes (steps + 1) // "
                       "2 intervals of them.", minimum=1)
    temperature: float = field(1.0, "Deviation of the start noise.")
    guidance_units: float = field(1.0, "v = v0 + guidance_units (v_units - v0) + guidance_voice "
                                  "(v_all - v_units) [ours].", minimum=0)
    guidance_voice: float = field(2.0, "See guidance_units [ours].", minimum=0)
    # arithmetic
    compute_dtype: str = config_fields.COMPUTE_DTYPE
    attention_kernel: str = config_fields.ATTENTION_KERNEL
    remat: bool = config_fields.REMAT
    init_scale: float = config_fields.INIT_SCALE

    @staticmethod
    def relations(c, need):
        need(not c.partner or c.num_speakers > 1, "partner", "False where there is one speaker")
        need(c.d_model % (2 * c.num_heads) == 0 and c.d_model % 8 == 0, "d_model",
             f"a multiple of 8 and of 2 * num_heads = {2 * c.num_heads}")
        if c.block == "usdm":
            need(c.num_layers % 2 == 0, "num_layers", "even (a U of two halves)")
            need(c.num_heads & (c.num_heads - 1) == 0, "num_heads",
                 "a power of two (ALiBi's slopes)")
            need(c.window == 0, "window", "0 with block usdm (its attention is full)")
            need(c.prompt, "prompt", "True with block usdm")
            need(c.predict == "velocity", "predict", "velocity with block usdm")
        if c.position_kernel:
            need(c.position_kernel % 2 == 1, "position_kernel", "0 or odd")
            need(c.d_model % c.position_groups == 0, "position_groups",
                 f"a divisor of d_model = {c.d_model}")
        # what a sampler guides away from must have been trained: nothing at all, and units without
        # voice and prompt
        need(c.guidance_units == 1 or c.drop_all > 0 or c.drop_units > 0, "guidance_units",
             "1 where drop_all = drop_units = 0")
        heard = ["drop_voice"] * (c.voice_dim > 0) + ["drop_prompt"] * bool(c.prompt)
        need(c.guidance_voice == c.guidance_units or all(c[name] > 0 for name in heard),
             "guidance_voice",
             f"guidance_units = {c.guidance_units} where {' or '.join(heard)} = 0")


def full() -> ConfigDict:
    """The DiT of 477 M parameters."""
    return Config.make()


def small() -> ConfigDict:
    """64 M parameters [ours]."""
    return Config.make(
        d_model=512,
        num_layers=12,
        num_heads=8,
        d_ff=2048,
        unit_dim=512,
    )


def tiny() -> ConfigDict:
    """1.2 M parameters, for puppets on two CPU cores [ours]: set num_units and the recipes to the
    dataset's.

    Predicting the clean mel learns sooner at this width: a velocity has to carry 80 numbers of
    noise through 128. After 197 steps, each with the other's batches, L1 of generated mel on
    held-out dialogues was 0.48 against 0.83.
    """
    return Config.make(
        num_units=128,
        d_model=128,
        num_layers=4,
        num_heads=4,
        d_ff=384,
        unit_dim=128,
        position_kernel=0,
        partner=False,
        prompt=False,
        window=32,
        row_frames=128,
        predict="data",
        drop_units=0.0,
        solver="euler",
        steps=10,
        guidance_voice=1.0,
    )


def usdm() -> ConfigDict:
    """The published unit Voicebox; with voice_dim or partner switched on, those start without any
    effect. The published guidance scale of 1 adds one difference: 2 here."""
    c = Config.make(
        block="usdm",
        window=0,
        voice_dim=0,
        partner=False,
        drop_all=0.2,
        drop_units=0.0,
        guidance_units=2.0,
        guidance_voice=2.0,
    )
    c.mel_recipe = ConfigDict(USDM_MEL | {"level": level.RECIPE})
    return c


check = Config.check
base = full  # the name of before, which users' config files call
