"""Every field of the text-to-units System with its presets: `base` (ours), `covomix` (the published
sizes), `tiny`."""

from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.signal import rates

COUPLINGS = ("independent", "chain")
ALIGNMENTS = ("none", "plan")
ACTIVATIONS = ("swiglu", "geglu")
RATE = float(rates.UNITS)  # units a second
SPECIALS = 3  # ids after the units


def bos(config) -> int:
    """Stands before the first frame."""
    return config.num_units


def eos(config) -> int:
    """The frame after the last (CoVoMix: the id after the units; here BOS lies between)."""
    return config.num_units + 1


def pad(config) -> int:
    """A dropped or absent unit on the decoder's input."""
    return config.num_units + 2


def base() -> ConfigDict:
    """TAVID publishes no sizes; these are ours by choice, after CoVoMix."""
    c = ConfigDict()
    c.name = "tavid.text"
    # what goes in and out
    c.vocab = 30530  # text ids: bert-base-uncased with eight more, of which CoVoMix' marks are six
    c.num_units = 10000  # TAVID: XLS-R layer 35, k-means 10 000
    c.num_streams = 2  # speakers, one stream of units each
    c.frames_per_step = 1  # frames that a decoder step makes of every stream; ours, CoVoMix makes 1
    # the unit of silence (mode over silent frames of the corpus; CoVoMix: HuBERT's 157), which
    # extraction counts: units.filler of the features' recipes.json, 0 where units were fitted
    # there; -1 = counted in each example outside its turns, which is enough to train with;
    # generation then does not look at silence encoder; ours by choice
    c.filler = -1
    c.encoder_width, c.encoder_layers, c.encoder_heads, c.encoder_ff = 512, 6, 8, 1365
    c.encoder_window = 0  # tokens that one sees to either side; 0 = all
    # True: a token also says whose it is, so that marks need not be understood; ours decoder; ours
    # by choice. Its width is that of the embeddings of a step's units side by side, one table, tied
    # output
    c.speaker_embedding = False
    c.d_model, c.num_layers, c.num_heads, c.head_dim, c.d_ff = 1024, 12, 16, 64, 2048
    c.window = 0  # earlier steps that one sees; 0 = all
    c.activation = "swiglu"  # swiglu | geglu
    # independent: streams of a frame are independent given the past | chain: a later stream is
    # given the earlier ones, by a small decoder over the units of a step; ours
    c.coupling = "chain"
    c.depth_width, c.depth_layers, c.depth_heads = 512, 2, 8  # of the chain
    # none: cross-attention finds its place in the text | plan: every token has a planned time,
    # known in training (turns), predicted before decoding; cross-attention is rotary in time; ours
    c.alignment = "none"
    c.rope_theta, c.rms_eps = 1e4, 1e-6
    # training rows
    c.row_tokens = 768
    c.row_frames = 3072  # 61 s, with the end's frame; longer dialogues are cut at turns
    c.single_share = 0.8  # rows of one speaker alone; CoVoMix: 40 % A, 40 % B, 20 % dialogue
    # a piece takes turns until this share of the row is full; drawn uniformly from [it, 1]
    # objective; ours by choice unless said
    c.piece_fill = 1.0
    c.text_dropout = 0.1  # rows without text, for guidance
    c.unit_dropout = 0.0  # earlier units hidden from the decoder
    c.dropout = 0.0  # of every block's output, whole channels of a row
    c.filler_seconds, c.filler_weight = 1.0, 0.2  # longer silence counts less
    c.plan_weight = 0.1  # of the plan's cross-entropy a token
    # sampler; ours by choice
    c.guidance = 1.5
    c.temperature = 0.9
    c.top_p = 0.95
    c.top_k_share = 1.0  # share of the ids that are kept; CoVoMix: 0.1
    # frames; a unit that fills them all is drawn anew without top-p; 0 = off; needs `filler`
    c.repetition_window = 8
    c.plan_temperature, c.plan_top_p = 1.0, 0.95
    # silence of every stream that ends a dialogue whose text is over; without a plan nobody knows
    # when that is, and any silence of that length ends it; 0 = off; needs `filler` arithmetic
    c.stop_seconds = 2.0
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    c.attention_kernel = "auto"
    c.remat = False  # recompute a layer's inside in the backward pass
    c.units_recipe = None  # definitions that feature shards must match; None = any
    c.tokens_recipe = None
    return c


def covomix() -> ConfigDict:
    """The published sizes of CoVoMix' text-to-semantic model; 500 HuBERT units are ours to
    assume."""
    c = base()
    c.num_units, c.filler = 500, 157
    c.encoder_layers, c.encoder_ff = 4, 1365
    c.num_layers, c.num_heads, c.head_dim, c.d_ff = 4, 8, 64, 2730
    c.activation, c.coupling = "geglu", "independent"
    c.row_frames = 2048
    c.filler_weight = 1.0
    c.text_dropout, c.guidance = 0.0, 1.0
    c.temperature, c.top_p, c.top_k_share, c.repetition_window = 1.0, 1.0, 0.1, 0
    return c


def tiny() -> ConfigDict:
    """What learns in minutes on two CPU cores; all of it ours by choice."""
    c = base()
    c.vocab, c.num_units = 64, 128
    c.frames_per_step = 2
    c.encoder_width, c.encoder_layers, c.encoder_heads, c.encoder_ff = 96, 2, 4, 256
    c.encoder_window, c.speaker_embedding = 48, True
    c.d_model, c.num_layers, c.num_heads, c.head_dim, c.d_ff = 192, 3, 4, 32, 384
    c.window = 63
    c.depth_width, c.depth_layers, c.depth_heads = 96, 1, 3
    c.alignment = "plan"
    c.row_tokens, c.row_frames = 224, 512
    c.single_share, c.piece_fill = 0.2, 0.7
    c.unit_dropout, c.dropout = 0.3, 0.1
    return c


def check(config) -> None:
    """UserError for widths and choices that cannot make a network."""
    def need(good: bool, name: str, expected: str, **more):
        if not good:
            raise UserError("text-to-units configuration", where=f"config.system.{name}",
                            expected=expected,
                            found=repr(config[name]), **more)

    for name in ("vocab", "num_units", "num_streams", "frames_per_step", "encoder_layers",
                 "encoder_ff", "num_layers", "num_heads", "d_ff", "depth_layers", "row_tokens",
                 "row_frames"):
        need(config[name] >= 1, name, ">= 1")
    for name in ("encoder_window", "window", "repetition_window"):
        need(config[name] >= 0, name, ">= 0")
    for name, choices in (("coupling", COUPLINGS), ("alignment", ALIGNMENTS),
                          ("activation", ACTIVATIONS)):
        need(config[name] in choices, name, " | ".join(choices))
    slots = config.num_streams * config.frames_per_step
    need(config.d_model % slots == 0, "d_model", f"a multiple of the {slots} units of a step",
         hint="the decoder's width is their embeddings side by side")
    need(config.coupling != "chain" or slots > 1, "coupling",
         "independent where a step makes one unit")
    need(config.row_frames % config.frames_per_step == 0, "row_frames",
         f"a multiple of frames_per_step = {config.frames_per_step}")
    need(config.head_dim % 2 == 0, "head_dim", "even (rotary pairs)")
    for width, heads in (("encoder_width", "encoder_heads"), ("depth_width", "depth_heads")):
        need(config[heads] >= 1 and config[width] % (2 * config[heads]) == 0, heads,
             f"{width} = {config[width]} a multiple of twice it")
    need(-1 <= config.filler < config.num_units, "filler", f"a unit, 0 to {config.num_units - 1}, "
                                                           "or -1")
    for name in ("text_dropout", "unit_dropout", "dropout"):
        need(0 <= config[name] < 1, name, "0 <= share < 1")
    for name in ("single_share", "filler_weight"):
        need(0 <= config[name] <= 1, name, "a share, 0 to 1")
    for name in ("top_p", "top_k_share", "plan_top_p", "piece_fill"):
        need(0 < config[name] <= 1, name, "a share, above 0 and at most 1")
    for name in ("temperature", "plan_temperature"):
        need(config[name] > 0, name, "> 0")
    need(config.stop_seconds == 0 or config.stop_seconds >= 1 / RATE, "stop_seconds",
         f"0 = off, or >= {1 / RATE:g}")
    need(config.guidance >= 0, "guidance", ">= 0; 1 = none")
    need(config.guidance == 1 or config.text_dropout > 0, "guidance", "1 where text_dropout = 0",
         hint="without rows that lack the text there is nothing to guide away from")
