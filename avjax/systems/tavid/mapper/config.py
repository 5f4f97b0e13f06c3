"""The fields of the Motion Mapper and of the System that trains it alone, with presets (see
avjax/fields.py).

The paper names joint self-attention over the speakers' streams and two ablations; every size and
rate is ours by choice.
"""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields

MODES = ("joint", "dual", "concat")


class Net(Section):
    """The network's own fields, which the visual System has too. About 30 million parameters beside
    the units' rows."""

    mode: str = field("joint", "How a stream attends: joint, one softmax over all streams; dual, "
                      "over itself, then over the partners'; concat, all streams joined frame by "
                      "frame into one sequence.", choices=MODES)
    share_weights: bool = field(True, "One set of layers for all streams; False: oneself and "
                                "partners have their own (MMDiT).")
    num_units: int = field(10_000, "Size of the units' codebook.", minimum=1)
    streams: int = field(2, "Speakers, one stream of units each.", minimum=1)
    unit_dim: int = field(1280, "Width of a unit's embedding = of the encoder's features.",
                          minimum=1)
    centroids: str = field("", "A .npy file of (num_units, unit_dim) that the embeddings begin "
                           "with; none = random.")
    d_model: int = field(512, "Width of the blocks.", minimum=1)
    num_blocks: int = field(8, "Transformer blocks.", minimum=1)
    num_heads: int = field(8, "Attention heads.", minimum=1)
    mlp_ratio: float = field(4.0, "Hidden width of the MLPs over d_model in mode joint; the other "
                             "modes' is what makes their parameters as many.")
    band: int = field(50, "Frames that a block sees to either side (2 s).", minimum=0)
    tokens: int = field(4, "Motion tokens a frame.", minimum=1)
    token_dim: int = field(768, "Their width = Hallo2's audio tokens, whose attention weights then "
                           "load.", minimum=1)
    margin: int = field(2, "Frames to either side whose tokens the denoiser is given as well.",
                        minimum=0)
    scan_layers: bool = field(False, "One compiled block for all but the last: compiles faster, "
                              "trains slower (docs/compiled_programs.md).")
    init_scale: float = config_fields.INIT_SCALE
    attention_kernel: str = config_fields.ATTENTION_KERNEL

    @staticmethod
    def relations(c, need):
        need(c.streams >= 2 or c.mode != "dual", "streams", ">= 2 (dual attends to partners)")
        need(c.d_model % (2 * c.num_heads) == 0, "d_model",
             f"a multiple of 2 * num_heads = {2 * c.num_heads} (rotary pairs)")
        need(hidden_width(c) >= 1, "mlp_ratio",
             "> 2 for dual, > streams / (2 num_blocks) for concat")
        need(c.share_weights or c.mode != "concat", "share_weights", "True in mode concat",
             hint="joined streams have one set of layers")


class Config(Net):
    """Warm start: regress what the self channel's pictures show (or another feature of 25 Hz) from
    all channels' units."""

    name: str = config_fields.system_name("tavid.mapper")
    target: str = field("motion", "Feature (frames, streams, target_dim) of the examples that is "
                        "regressed.")
    target_dim: int = field(64, "Its width.", minimum=1)
    head: str = field("linear", "From a frame's tokens to the target: linear, one layer, which the "
                      "denoiser does not get; none, the tokens are the target (Hallo2's audio "
                      "tokens), so that attention which was trained on it knows them.",
                      choices=("linear", "none"))
    segment: int = field(250, "Frames of a training crop (10 s).", minimum=1)
    smooth: float = field(1.0, "Error at which the loss turns from square to linear.", above=0)
    unit_dropout: float = field(0.0, "Share of examples from which a partner's channel is hidden.")
    frame_rate: float = config_fields.FRAME_RATE
    units_recipe: Recipe = field(None, "How the units must have been made; None = any.")
    compute_dtype: str = config_fields.COMPUTE_DTYPE

    @staticmethod
    def relations(c, need):
        Net.relations(c, need)
        need(c.head == "linear" or c.target_dim == c.tokens * c.token_dim, "target_dim",
             f"tokens * token_dim = {c.tokens * c.token_dim} without a head")


def tiny_net() -> ConfigDict:
    """What learns on two CPU cores."""
    return Net.make(
        num_units=200,
        unit_dim=64,
        d_model=96,
        num_blocks=3,
        num_heads=4,
        band=12,
        tokens=2,
        token_dim=48,
    )


def full() -> ConfigDict:
    return Config.make()


def tiny() -> ConfigDict:
    return Config.make(**tiny_net(), target_dim=23, segment=100)


def hidden_width(c) -> int:
    """Of the MLP. Mode dual pays for its second attention (4 D^2 a block) and concat for joining S
    streams (S D^2 once) here, so that the three modes have equal parameters but for rounding."""
    D, ratio = c.d_model, c.mlp_ratio
    spent = {"joint": 0.0, "dual": 2.0, "concat": c.streams / (2 * c.num_blocks)}[c.mode]
    return round((ratio - spent) * D)


check = Config.check
# names of before, which users' config files call
base = full
net = Net.make
