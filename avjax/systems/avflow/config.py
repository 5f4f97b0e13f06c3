"""Every field of an AV-Flow system with its presets.

`released` is what the published weights were trained with, `paper` what the paper says, `default`
the release with the mel weight its configuration file meant (3; the release's code reads the wrong
key and so trains with 0.2).
"""

import numpy as np
from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.signal import mel

FUSIONS = ("highway", "separate", "shared", "cascaded")


def released() -> ConfigDict:
    c = ConfigDict()
    c.name = "avflow"
    c.d_model = 512
    c.num_blocks = 8
    c.num_heads = 4
    c.d_ff = 1024
    c.window = (16, 8)  # (left, right) frames for every block, or one pair per block
    # highway | separate | shared | cascaded; the last three are the paper's ablations widths; 0 =
    # the input does not exist. Every tower sees [noisy stream; tokens; identity; partner ...]
    c.fusion = "highway"
    c.mel_dim = 80
    c.face_dim = 256
    c.head_dim = 8
    c.token_dim = 29
    # one vector a clip, repeated over time [ours: the release has one model a person]
    c.identity_dim = 0
    c.partner_token_dim = 0  # dyadic: 29
    c.partner_expression_dim = 0  # dyadic: 55 (release: 50 expression + 2 eyelid + 3 jaw)
    c.partner_head_dim = 0  # dyadic: 3
    # the exact mel definition that feature shards must match; empty = any objective
    c.mel_recipe = ConfigDict(mel.SPEECH)
    c.sigma = 1e-6
    c.loss_weights = ConfigDict(dict(mel=0.2, face=1.0, head=0.2))
    # share of examples trained without their partner, for guidance [ours: not in the release]
    # sampler
    c.partner_dropout = 0.0
    c.euler_steps = 16
    c.temperature = 1.0  # of the start noise
    # frames sampled at once (95 s); longer clips go block by block, with the same result
    c.sample_block = 8192
    c.guidance = 1.0  # on the partner's streams; 1 = off, needs partner_dropout > 0 in training
    # arithmetic
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    c.attention_kernel = "auto"  # auto | dense | banded
    # one compiled layer for all: compiles in a fifth of the time, trains slower (docs/scale.md)
    c.scan_layers = False
    # recompute each block in the backward pass: less memory, a third more time; layers are then one
    # scan
    c.remat = False
    # variance * fan_in of fresh kernels; 1/3 = the release's +-1/sqrt(fan_in)
    c.init_scale = 1.0 / 3.0
    c.frame_rate = 22050 / 256
    return c


def paper() -> ConfigDict:
    c = released()
    c.window = (10, 2)
    c.euler_steps = 8
    c.loss_weights.mel = 3.0
    return c


def default() -> ConfigDict:
    c = released()
    c.loss_weights.mel = 3.0
    c.euler_steps = 8
    return c


def dyadic(c: ConfigDict) -> ConfigDict:
    """The same system listening to a participant: tokens, SMIRK expression and head, with dropout
    and guidance."""
    c.partner_token_dim = c.token_dim
    c.partner_expression_dim = 55
    c.partner_head_dim = 3
    c.partner_dropout = 0.1
    c.guidance = 1.5
    return c


def windows(config) -> tuple[tuple[int, int], ...]:
    """(left, right) of every block, from one pair or one per block."""
    pairs = np.asarray(config.window, dtype=np.int64)
    if pairs.shape == (2,):
        pairs = np.tile(pairs, (config.num_blocks, 1))
    if pairs.shape != (config.num_blocks, 2) or (pairs < 0).any():
        raise UserError("attention windows", where="config.system.window",
                        expected=f"(left, right) or {config.num_blocks} such pairs, none negative",
                        found=str(config.window))
    return tuple((int(left), int(right)) for left, right in pairs)


def check(config) -> None:
    """UserError for widths and choices that cannot make a network."""
    if config.fusion not in FUSIONS:
        raise UserError("unknown fusion", where="config.system.fusion",
                        expected=" | ".join(FUSIONS),
                        found=config.fusion)
    if config.d_model % (2 * config.num_heads) or config.d_model % 8:
        raise UserError("model width", where="config.system.d_model",
                        expected="a multiple of 8 and of 2 * num_heads",
                        found=f"{config.d_model} with {config.num_heads} heads")
    for name in ("mel_dim", "face_dim", "head_dim", "token_dim"):
        if config[name] <= 0:
            raise UserError("stream width", where=f"config.system.{name}", expected="> 0",
                            found=str(config[name]))
    if config.guidance != 1.0 and partner_width(config) == 0:
        raise UserError("guidance without a partner", where="config.system.guidance",
                        expected="1.0", found=str(config.guidance),
                        hint="set partner_token_dim or another partner width")
    if config.guidance != 1.0 and not config.partner_dropout > 0:
        raise UserError("guidance without partner_dropout", where="config.system.guidance",
                        found=str(config.guidance),
                        expected="1.0 where partner_dropout = 0",
                        hint="without examples that lack the partner there is nothing to guide "
                        "away from")
    windows(config)


def partner_width(config) -> int:
    return config.partner_token_dim + config.partner_expression_dim + config.partner_head_dim


def condition_width(config) -> int:
    """Columns each tower's input has beside its noisy stream."""
    return config.token_dim + config.identity_dim + partner_width(config)


def receptive_field(config) -> tuple[int, int]:
    """Frames to the left and to the right that one evaluation of the network at a frame depends
    on."""
    pairs = windows(config)
    return sum(left for left, _ in pairs), sum(right for _, right in pairs)


def look_ahead(config, steps: int | None = None) -> tuple[int, float]:
    """Frames after frame i that the sampled frame i depends on, and that many frames in seconds.

    One network evaluation looks sum(right) ahead (steps=1; what papers quote). Each Euler step
    reads the state that the step before computed with another such look-ahead, so the exact figure
    for a sample is steps * sum(right).
    """
    frames = (steps or config.euler_steps) * receptive_field(config)[1]
    return frames, frames / config.frame_rate
