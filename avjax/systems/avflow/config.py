"""The fields of an AV-Flow system and its presets (see avjax/fields.py)."""

import numpy as np
from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields
from avjax.signal import mel

FUSIONS = ("highway", "separate", "shared", "cascaded")


class LossWeights(Section):
    """0.2 of mel is in effect the release's: its configuration file says 3, its code reads another
    key."""

    mel: float = field(0.2, "Of the mel's flow matching loss.", minimum=0)
    face: float = field(1.0, "Of the face codes'.", minimum=0)
    head: float = field(0.2, "Of the head latent's.", minimum=0)


class Config(Section):
    name: str = config_fields.system_name("avflow")
    d_model: int = field(512, "Width of the towers.", minimum=8)
    num_blocks: int = field(8, "Transformer blocks a tower.", minimum=1)
    num_heads: int = field(4, "Attention heads.", minimum=1)
    d_ff: int = field(1024, "Hidden width of the feed-forward layers.", minimum=1)
    window: tuple = field((16, 8), "(left, right) frames that every block attends to, or one such "
                          "pair a block.")
    fusion: str = field("highway", "How the speech tower and the face tower exchange; the last "
                        "three are the paper's ablations: no exchange, one tower on both streams, "
                        "tokens -> speech -> face and head.", choices=FUSIONS)
    mel_dim: int = field(80, "Mel bands.", minimum=1)
    face_dim: int = field(256, "Width of a face code.", minimum=1)
    head_dim: int = field(8, "Width of a head latent.", minimum=1)
    token_dim: int = field(29, "Width of the speech tokens (logits).", minimum=1)
    identity_dim: int = field(0, "Width of one vector a clip, repeated over time; 0 = none [ours: "
                              "the release has one model a person].", minimum=0)
    partner_token_dim: int = field(0, "Width of the partner's tokens; 0 = none, dyadic: 29.",
                                   minimum=0)
    partner_expression_dim: int = field(0, "Width of the partner's expression; 0 = none, dyadic: "
                                        "55 (release: 50 expression + 2 eyelid + 3 jaw).",
                                        minimum=0)
    partner_head_dim: int = field(0, "Width of the partner's head pose; 0 = none, dyadic: 3.",
                                  minimum=0)
    mel_recipe: Recipe = field(mel.SPEECH, "The mel definition that features must have been made "
                               "with; empty = any.")
    sigma: float = field(1e-6, "Deviation of the flow's end around the data.", minimum=0)
    loss_weights: LossWeights = field(None, "Weight of each stream's loss.")
    partner_dropout: float = field(0.0, "Share of examples trained without their partner, for "
                                   "guidance [ours].", minimum=0, maximum=1)
    euler_steps: int = field(16, "Steps of the sampler.", minimum=1)
    temperature: float = field(1.0, "Deviation of the sampler's start noise.", minimum=0)
    sample_block: int = field(8192, "Frames sampled at once (95 s); longer clips are sampled block "
                              "by block, with the same result.", minimum=1)
    guidance: float = field(1.0, "On the partner's streams; 1 = off, else partner_dropout > 0 in "
                            "training.")
    compute_dtype: str = config_fields.COMPUTE_DTYPE
    attention_kernel: str = config_fields.ATTENTION_KERNEL
    scan_layers: bool = config_fields.SCAN_LAYERS
    remat: bool = field(False, "Recomputes each block in the backward pass: less memory, a third "
                        "more time; blocks are then one scan.")
    init_scale: float = field(1.0 / 3.0, "Variance * fan_in of fresh kernels; 1/3 = the release's "
                              "+-1/sqrt(fan_in).", minimum=0)
    frame_rate: float = field(22050 / 256, "Frames a second of all streams.", above=0)

    @staticmethod
    def relations(c, need):
        need(c.d_model % (2 * c.num_heads) == 0 and c.d_model % 8 == 0, "d_model",
             f"a multiple of 8 and of 2 * num_heads = {2 * c.num_heads}")
        pairs = _window_pairs(c)
        need(pairs is not None and (pairs >= 0).all(), "window",
             f"(left, right) or {c.num_blocks} such pairs, none negative")
        need(c.guidance == 1.0 or partner_width(c) > 0, "guidance", "1.0 without a partner",
             hint="set partner_token_dim or another partner width")
        need(c.guidance == 1.0 or c.partner_dropout > 0, "guidance",
             "1.0 where partner_dropout = 0",
             hint="without examples that lack the partner there is nothing to guide away from")


def published() -> ConfigDict:
    """What the published weights were trained with."""
    return Config.make()


def paper() -> ConfigDict:
    """What the paper says, where that differs from the published code."""
    c = published()
    c.window = (10, 2)
    c.euler_steps = 8
    c.loss_weights.mel = 3.0
    return c


def full() -> ConfigDict:
    """The release with the mel weight that its configuration file means, and 8 Euler steps."""
    c = published()
    c.loss_weights.mel = 3.0
    c.euler_steps = 8
    return c


def tiny() -> ConfigDict:
    """What learns the puppets, or one person's recordings, on two CPU cores."""
    c = full()
    c.d_model = 192
    c.num_blocks = 4
    c.num_heads = 3
    c.d_ff = 512
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


def windows_looking_ahead(config, frames: int) -> tuple[tuple[int, int], ...]:
    """Windows with the config's left context, of which the first `frames` blocks look one frame
    ahead and the others not at all."""
    return tuple((left, int(block < frames)) for block, (left, _) in enumerate(windows(config)))


def windows(config) -> tuple[tuple[int, int], ...]:
    """(left, right) of every block, from one pair or one per block."""
    return tuple((int(left), int(right)) for left, right in _window_pairs(config))


def _window_pairs(config) -> np.ndarray | None:
    """(num_blocks, 2); None where config.window is neither one pair nor as many."""
    try:
        pairs = np.asarray(config.window, dtype=np.int64)
    except (TypeError, ValueError):
        return None
    if pairs.shape == (2,):
        pairs = np.tile(pairs, (config.num_blocks, 1))
    return pairs if pairs.shape == (config.num_blocks, 2) else None


def partner_width(config) -> int:
    return config.partner_token_dim + config.partner_expression_dim + config.partner_head_dim


def condition_width(config) -> int:
    """Columns each tower's input has beside its noisy stream."""
    return config.token_dim + config.identity_dim + partner_width(config)


def parameter_count(config) -> int:
    """Parameters of the network of a config, by its layers' widths: nothing is traced."""
    c, width = config, config.d_model

    def dense(inputs, outputs):
        return (inputs + 1) * outputs

    def projections(state, condition):
        return dense(state + condition, width) + dense(width, state)

    block = (2 * dense(width, 3 * width)  # modulations of attention and of the feed-forward layers
             + dense(width, 3 * width) + dense(width, width)
             + dense(width, c.d_ff) + dense(c.d_ff, width))
    time = dense(width // 4, width) + dense(width, width)
    condition, visual = condition_width(c), c.face_dim + c.head_dim
    if c.fusion == "shared":
        return time + projections(visual + c.mel_dim, condition) + c.num_blocks * block
    seen = condition + (c.mel_dim - c.token_dim) * (c.fusion == "cascaded")
    exchange = dense(2 * width, 2 * width) if c.fusion == "highway" else 0
    return (time + projections(visual, seen) + projections(c.mel_dim, condition)
            + c.num_blocks * (2 * block + exchange))


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


check = Config.check
# names of before, which users' config files call
released = published
default = full
