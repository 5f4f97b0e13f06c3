"""Every field of the acoustic denoiser with its presets.

`base` and `small` are the DiT; its sizes and shares are ours, TAVID (arXiv 2512.20296) prints none.
`usdm` is the published unit Voicebox (naver-ai/xlsr-token-Voicebox), exactly, for its weights;
`tiny` is for puppets on two cores.
"""

from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.signal import mel

BLOCKS = ("dit", "usdm")
SOLVERS = ("euler", "heun")
PREDICTIONS = ("velocity", "data")
# what the published weights were trained on
USDM_MEL = mel.RECIPE | {"gain": 1.0, "mean": -5.5419, "std": 2.1575}


def base() -> ConfigDict:
    c = ConfigDict()
    c.name = "tavid.acoustic"
    # dit: pre-norm, AdaLN-Zero on (time, voice), rotary | usdm: post-norm, ALiBi, U-skips streams
    c.block = "dit"
    c.num_speakers = 2
    c.num_units = 10000  # ids 0 .. num_units - 1; the embedding has one row more, "no units"
    c.mel_dim = 80
    c.voice_dim = 256  # e_spk; 0 = voices are not looked at
    c.partner = True  # the other speakers' units are a condition
    c.prompt = True  # frames of the answer may be given (infilling)
    # network [ours by choice; widths as USDM's]
    c.d_model = 1024
    c.num_layers = 24
    c.num_heads = 16
    c.d_ff = 4096
    c.unit_dim = 1280  # of the units' embedding
    # frames on either side that a block of the DiT sees (4 s): any length at linear cost [ours]; 0
    # = all
    c.window = 344
    c.position_kernel = 31  # frames of the grouped convolutions after the input; 0 = none
    c.position_groups = 16
    c.position_depth = 2
    # definitions that feature shards must match; None = any
    c.mel_recipe = ConfigDict(mel.SPEECH)
    c.units_recipe = None
    c.voices_recipe = None
    # training rows
    c.row_frames = 1378  # a random crop of 16 s (USDM)
    # objective
    c.sigma = 1e-4  # USDM
    # velocity (USDM) | data: the network's output is the clean mel, from which the velocity follows
    c.predict = "velocity"
    c.drop_all = 0.1  # share of examples trained without any condition [ours; USDM .2]
    c.drop_units = 0.1  # [ours]
    c.drop_voice = 0.2  # [ours]
    c.drop_partner = 0.5  # [ours]
    c.drop_prompt = 0.3  # share trained with nothing given (USDM)
    c.mask_least = 0.7  # else a span of U(mask_least, 1) of the crop is to be filled in (USDM)
    # sampler
    c.solver = "heun"
    # evaluations of the network, as USDM counts: Heun makes (steps + 1) // 2 intervals of them
    c.steps = 50
    c.temperature = 1.0  # of the start noise
    # v = v0 + guidance_units (v_units - v0) + guidance_voice (v_all - v_units) [ours: 1, 2]
    c.guidance_units = 1.0
    c.guidance_voice = 2.0
    # arithmetic
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    c.attention_kernel = "auto"  # auto | dense | banded
    c.remat = False  # recompute each block in the backward pass
    c.init_scale = 1.0 / 3.0  # variance * fan_in of fresh kernels
    return c


def small() -> ConfigDict:
    """64 M parameters; the base has 477 M [ours]."""
    c = base()
    c.d_model, c.num_layers, c.num_heads, c.d_ff, c.unit_dim = 512, 12, 8, 2048, 512
    return c


def tiny() -> ConfigDict:
    """1.2 M parameters, for puppets on two CPU cores [ours]: set num_units and the recipes to the
    dataset's.

    Predicting the clean mel learns sooner at this width: a velocity has to carry 80 numbers of
    noise through 128. After 197 steps, each with the other's batches, L1 of generated mel on
    held-out dialogues was 0.48 against 0.83.
    """
    c = base()
    c.num_units = 128
    c.d_model, c.num_layers, c.num_heads, c.d_ff, c.unit_dim = 128, 4, 4, 384, 128
    c.position_kernel, c.partner, c.prompt = 0, False, False
    c.window = 32
    c.row_frames = 128
    c.predict = "data"
    c.drop_units = 0.0
    c.solver, c.steps, c.guidance_voice = "euler", 10, 1.0
    return c


def usdm() -> ConfigDict:
    """The published unit Voicebox; with voice_dim or partner switched on, those start without any
    effect."""
    c = base()
    c.block, c.window = "usdm", 0
    c.voice_dim, c.partner = 0, False
    c.mel_recipe = ConfigDict(USDM_MEL)
    c.drop_all, c.drop_units = 0.2, 0.0
    c.guidance_units = c.guidance_voice = 2.0  # the published scale of 1 adds one difference
    return c


def check(config) -> None:
    """UserError for widths and choices that cannot make a network."""
    def need(good: bool, name: str, expected: str):
        if not good:
            raise UserError("acoustic configuration", where=f"config.system.{name}",
                            expected=expected,
                            found=repr(config[name]))

    need(config.block in BLOCKS, "block", " | ".join(BLOCKS))
    need(config.solver in SOLVERS, "solver", " | ".join(SOLVERS))
    need(config.predict in PREDICTIONS, "predict", " | ".join(PREDICTIONS))
    for name in ("num_speakers", "num_units", "mel_dim", "d_model", "num_layers", "num_heads",
                 "d_ff", "unit_dim",
                 "row_frames", "steps"):
        need(config[name] >= 1, name, ">= 1")
    for name in ("voice_dim", "window", "position_kernel"):
        need(config[name] >= 0, name, ">= 0")
    need(not config.partner or config.num_speakers > 1, "partner",
         "False where there is one speaker")
    need(config.d_model % (2 * config.num_heads) == 0 and config.d_model % 8 == 0, "d_model",
         f"a multiple of 8 and of 2 * num_heads = {2 * config.num_heads}")
    if config.block == "usdm":
        need(config.num_layers % 2 == 0, "num_layers", "even (a U of two halves)")
        need(config.num_heads & (config.num_heads - 1) == 0, "num_heads",
             "a power of two (ALiBi's slopes)")
        need(config.window == 0, "window", "0 with block usdm (its attention is full)")
        need(config.prompt, "prompt", "True with block usdm")
        need(config.predict == "velocity", "predict", "velocity with block usdm")
    if config.position_kernel:
        need(config.position_kernel % 2 == 1, "position_kernel", "0 or odd")
        need(config.d_model % config.position_groups == 0, "position_groups",
             f"a divisor of d_model = {config.d_model}")
    for name in ("drop_all", "drop_units", "drop_voice", "drop_partner", "drop_prompt"):
        need(0 <= config[name] <= 1, name, "a share, 0 to 1")
    need(0 < config.mask_least <= 1, "mask_least", "0 < share <= 1")
    need(0 <= config.sigma < 1, "sigma", "0 <= sigma < 1")
    for name in ("guidance_units", "guidance_voice"):
        need(config[name] >= 0, name, ">= 0")
    # what a sampler guides away from must have been trained: nothing at all, and units without
    # voice and prompt
    need(config.guidance_units == 1 or config.drop_all > 0 or config.drop_units > 0,
         "guidance_units",
         "1 where drop_all = drop_units = 0")
    heard = ["drop_voice"] * (config.voice_dim > 0) + ["drop_prompt"] * bool(config.prompt)
    need(config.guidance_voice == config.guidance_units or all(config[name] > 0 for name in heard),
         "guidance_voice", f"guidance_units = {config.guidance_units} where {' or '.join(heard)} = "
                           "0")
