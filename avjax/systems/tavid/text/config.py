"""The fields of the text-to-units System and its presets (see avjax/fields.py).

TAVID publishes no sizes; where nothing else is said, they are ours by choice, after CoVoMix.
"""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields
from avjax.signal import rates

RATE = float(rates.UNITS)  # units a second
SPECIALS = 3  # ids after the units


def bos(config) -> int:
    """Comes before the first frame."""
    return config.num_units


def eos(config) -> int:
    """The frame after the last (CoVoMix: the id after the units; here BOS is between)."""
    return config.num_units + 1


def pad(config) -> int:
    """A dropped or absent unit on the decoder's input."""
    return config.num_units + 2


def _part(default: float, doc: str):
    """A share that may be all but not nothing."""
    return field(default, doc, above=0, maximum=1)


class Config(Section):
    name: str = config_fields.system_name("tavid.text")
    # what goes in and out
    vocab: int = field(30530, "Text ids: bert-base-uncased with eight more, of which CoVoMix' "
                       "marks are six.", minimum=1)
    num_units: int = field(10000, "Size of the units' codebook (TAVID: XLS-R layer 35, k-means "
                           "10 000).", minimum=1)
    num_streams: int = field(2, "Speakers, one stream of units each.", minimum=1)
    frames_per_step: int = field(1, "Frames that a decoder step makes of every stream; CoVoMix "
                                 "makes 1.", minimum=1)
    filler: int = field(-1, "The unit of silence (mode over silent frames of the corpus; CoVoMix: "
                        "HuBERT's 157), which extraction counts: units.filler of the features' "
                        "recipes.json, 0 where units were fitted there. -1 = counted in each "
                        "example outside its turns, which is enough to train with; generation "
                        "then does not look at silence.", minimum=-1)
    # encoder
    encoder_width: int = field(512, "Width of the text encoder.", minimum=1)
    encoder_layers: int = field(6, "Its layers.", minimum=1)
    encoder_heads: int = field(8, "Its attention heads.", minimum=1)
    encoder_ff: int = field(1365, "Hidden width of its feed-forward layers.", minimum=1)
    encoder_window: int = field(0, "Tokens to either side that one sees; 0 = all.", minimum=0)
    speaker_embedding: bool = field(False, "A token also says whose it is, so that marks need not "
                                    "be understood.")
    # decoder
    d_model: int = field(1024, "Its width: that of the embeddings of a step's units side by side, "
                         "one table, tied output.", minimum=1)
    num_layers: int = field(12, "Its layers.", minimum=1)
    num_heads: int = field(16, "Its attention heads.", minimum=1)
    head_dim: int = field(64, "Width of one of them.", minimum=1)
    d_ff: int = field(2048, "Hidden width of its feed-forward layers.", minimum=1)
    window: int = field(0, "Earlier steps that one sees; 0 = all.", minimum=0)
    activation: str = field("swiglu", "Of the feed-forward layers.", choices=("swiglu", "geglu"))
    coupling: str = field("chain", "independent: streams of a frame are independent given the "
                          "past; chain: a later stream is given the earlier ones, by a small "
                          "decoder over the units of a step.", choices=("independent", "chain"))
    depth_width: int = field(512, "Width of the chain's decoder.", minimum=1)
    depth_layers: int = field(2, "Its layers.", minimum=1)
    depth_heads: int = field(8, "Its attention heads.", minimum=1)
    alignment: str = field("none", "none: cross-attention finds its place in the text; plan: every "
                           "token has a planned time, known in training (turns), predicted before "
                           "decoding; cross-attention is rotary in time.",
                           choices=("none", "plan"))
    rope_theta: float = field(1e4, "Base of the rotary embeddings.", above=0)
    rms_eps: float = field(1e-6, "Of the norms.", minimum=0)
    # training rows
    row_tokens: int = field(768, "Text tokens of a row.", minimum=1)
    row_frames: int = field(3072, "Frames of a row, the end's included (61 s); longer dialogues "
                            "are cut at turns.", minimum=1)
    single_share: float = field(0.8, "Share of rows of one speaker alone; CoVoMix: 40 % A, 40 % B, "
                                "20 % dialogue.", minimum=0, maximum=1)
    piece_fill: float = _part(1.0, "A piece takes turns until this share of the row is full; drawn "
                              "uniformly from [it, 1].")
    # objective
    text_dropout: float = field(0.1, "Share of rows without text, for guidance.", minimum=0,
                                below=1)
    unit_dropout: float = field(0.0, "Share of earlier units hidden from the decoder.", minimum=0,
                                below=1)
    dropout: float = field(0.0, "Of every block's output, complete channels of a row.", minimum=0,
                           below=1)
    filler_seconds: float = field(1.0, "Silence beyond this counts less in the loss.")
    filler_weight: float = field(0.2, "How much it counts.", minimum=0, maximum=1)
    plan_weight: float = field(0.1, "Of the plan's cross-entropy a token.")
    # sampler
    guidance: float = field(1.5, "On the text; 1 = none.", minimum=0)
    temperature: float = field(0.9, "Of the units' distribution.", above=0)
    top_p: float = _part(0.95, "Nucleus of the units' distribution that is kept.")
    top_k_share: float = _part(1.0, "Share of the ids that are kept; CoVoMix: 0.1.")
    repetition_window: int = field(8, "Frames; a unit that fills them all is drawn anew without "
                                   "top-p. 0 = off; needs `filler`.", minimum=0)
    plan_temperature: float = field(1.0, "Of the plan's distribution.", above=0)
    plan_top_p: float = _part(0.95, "Nucleus of the plan's distribution that is kept.")
    stop_seconds: float = field(2.0, "Silence of every stream that ends a dialogue whose text is "
                                "over; without a plan nobody knows when that is, and any silence "
                                "of that length ends it. 0 = off; needs `filler`.")
    # arithmetic
    compute_dtype: str = config_fields.COMPUTE_DTYPE
    attention_kernel: str = config_fields.ATTENTION_KERNEL
    remat: bool = config_fields.REMAT
    units_recipe: Recipe = field(None, "How the units must have been made; None = any.")
    tokens_recipe: Recipe = field(None, "How text must have been tokenized; None = any.")

    @staticmethod
    def relations(c, need):
        slots = c.num_streams * c.frames_per_step
        need(c.d_model % slots == 0, "d_model", f"a multiple of the {slots} units of a step",
             hint="the decoder's width is their embeddings side by side")
        need(c.coupling != "chain" or slots > 1, "coupling",
             "independent where a step makes one unit")
        need(c.row_frames % c.frames_per_step == 0, "row_frames",
             f"a multiple of frames_per_step = {c.frames_per_step}")
        need(c.head_dim % 2 == 0, "head_dim", "even (rotary pairs)")
        for width, heads in (("encoder_width", "encoder_heads"), ("depth_width", "depth_heads")):
            need(c[width] % (2 * c[heads]) == 0, heads, f"{width} = {c[width]} a multiple of "
                 "twice it")
        need(c.filler < c.num_units, "filler", f"a unit, 0 to {c.num_units - 1}, or -1")
        need(c.stop_seconds == 0 or c.stop_seconds >= 1 / RATE, "stop_seconds",
             f"0 = off, or >= {1 / RATE:g}")
        need(c.guidance == 1 or c.text_dropout > 0, "guidance", "1 where text_dropout = 0",
             hint="without rows that lack the text there is nothing to guide away from")


def full() -> ConfigDict:
    return Config.make()


def covomix() -> ConfigDict:
    """The published sizes of CoVoMix' text-to-semantic model; 500 HuBERT units are ours to
    assume."""
    return Config.make(
        num_units=500,
        filler=157,
        encoder_layers=4,
        encoder_ff=1365,
        num_layers=4,
        num_heads=8,
        head_dim=64,
        d_ff=2730,
        activation="geglu",
        coupling="independent",
        row_frames=2048,
        filler_weight=1.0,
        text_dropout=0.0,
        guidance=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k_share=0.1,
        repetition_window=0,
    )


def tiny() -> ConfigDict:
    """What learns in minutes on two CPU cores."""
    return Config.make(
        vocab=64,
        num_units=128,
        frames_per_step=2,
        encoder_width=96,
        encoder_layers=2,
        encoder_heads=4,
        encoder_ff=256,
        encoder_window=48,
        speaker_embedding=True,
        d_model=192,
        num_layers=3,
        num_heads=4,
        head_dim=32,
        d_ff=384,
        window=63,
        depth_width=96,
        depth_layers=1,
        depth_heads=3,
        alignment="plan",
        row_tokens=224,
        row_frames=512,
        single_share=0.2,
        piece_fill=0.7,
        unit_dropout=0.3,
        dropout=0.1,
    )


check = Config.check
base = full  # the name of before, which users' config files call
