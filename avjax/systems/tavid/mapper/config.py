"""Every field of the Motion Mapper and of the System that trains it alone, with presets `base` and
`tiny`.

The paper names joint self-attention over the speakers' streams and two ablations; every size and
rate is ours by choice.
"""

from ml_collections import ConfigDict

from avjax.errors import UserError

MODES = ("joint", "dual", "concat")


def net() -> ConfigDict:
    """The network's own fields, which the visual System has too. About 30 million parameters beside
    the units' rows."""
    c = ConfigDict()
    # joint: one softmax over all streams | dual: over one's own, then over the partners' | concat:
    # the streams are joined frame by frame into one sequence
    c.mode = "joint"
    # one set of layers for all streams; False: oneself and partners have their own (MMDiT)
    c.share_weights = True
    c.num_units = 10_000
    c.streams = 2
    c.unit_dim = 1280  # width of a unit's row = of the encoder's features
    c.centroids = ""  # .npy of (num_units, unit_dim) that the rows begin with; "" = random
    c.d_model = 512
    c.num_blocks = 8
    c.num_heads = 8
    # of mode joint; the others' hidden widths are what makes their parameters as many
    c.mlp_ratio = 4.0
    c.band = 50  # frames that a block sees to either side (2 s)
    c.tokens = 4  # per frame
    c.token_dim = 768  # = Hallo2's audio tokens, whose attention weights then load
    c.margin = 2  # the denoiser is given the tokens of so many frames to either side as well
    # one compiled block for all of them but the last: compiles faster, trains slower
    # (docs/scale.md)
    c.scan_layers = False
    c.init_scale = 1.0 / 3.0  # variance * fan_in of fresh kernels
    c.attention_kernel = "auto"  # auto | dense | banded
    return c


def tiny_net() -> ConfigDict:
    """What learns on two CPU cores."""
    c = net()
    c.num_units, c.unit_dim = 200, 64
    c.d_model, c.num_blocks, c.num_heads, c.band = 96, 3, 4, 12
    c.tokens, c.token_dim = 2, 48
    return c


def base() -> ConfigDict:
    """Warm start: regress what the self channel's pictures show (or another feature of 25 Hz) from
    all channels' units."""
    c = net()
    c.name = "tavid.mapper"
    c.target = "motion"  # feature (frames, streams, target_dim) of the examples
    c.target_dim = 64
    c.segment = 250  # frames of a training crop (10 s)
    c.smooth = 1.0  # error at which the loss turns from square to linear
    c.unit_dropout = 0.0  # share of a partner's channel hidden from an example
    c.frame_rate = 25.0
    c.units_recipe = None  # how the units must have been made; None = any
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    return c


def tiny() -> ConfigDict:
    c = base()
    c.update(tiny_net())
    c.target_dim, c.segment, c.smooth = 23, 100, 1.0
    return c


def hidden_width(c) -> int:
    """Of the MLP. Mode dual pays for its second attention (4 D^2 a block) and concat for joining S
    streams (S D^2 once) here, so that the three modes have equal parameters but for rounding."""
    D, ratio = c.d_model, c.mlp_ratio
    spent = {"joint": 0.0, "dual": 2.0, "concat": c.streams / (2 * c.num_blocks)}[c.mode]
    return round((ratio - spent) * D)


def check_net(c, where: str = "config.system") -> None:
    """UserError for what cannot make a network."""
    def need(good: bool, name: str, expected: str, **more):
        if not good:
            raise UserError("Motion Mapper", where=f"{where}.{name}", expected=expected,
                            found=repr(c[name]), **more)

    need(c.mode in MODES, "mode", " | ".join(MODES))
    for name in ("num_units", "streams", "unit_dim", "d_model", "num_blocks", "num_heads", "tokens",
                 "token_dim"):
        need(c[name] >= 1, name, ">= 1")
    need(c.streams >= 2 or c.mode != "dual", "streams", ">= 2 (dual attends to partners)")
    need(c.d_model % (2 * c.num_heads) == 0, "d_model", "a multiple of 2 * num_heads = "
                                                        f"{2 * c.num_heads} (rotary pairs)")
    need(c.band >= 0, "band", ">= 0 frames")
    need(c.margin >= 0, "margin", ">= 0 frames")
    need(hidden_width(c) >= 1, "mlp_ratio", "> 2 for dual, > streams / (2 num_blocks) for concat")
    need(c.share_weights or c.mode != "concat", "share_weights", "True in mode concat",
         hint="joined streams have one set of layers")


def check(c) -> None:
    """UserError for what cannot be trained."""
    check_net(c)
    for name in ("target_dim", "segment"):
        if c[name] < 1:
            raise UserError("Motion Mapper", where=f"config.system.{name}", expected=">= 1",
                            found=str(c[name]))
    if not c.smooth > 0:
        raise UserError("Motion Mapper", where="config.system.smooth", expected="> 0",
                        found=str(c.smooth))
