"""The fields of a Talker-T2AV system and its presets (see avjax/fields.py)."""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields

COUPLINGS = ("separate", "joint")
TTS, T2AV = 0, 1  # rows of the task embedding, and the id at an utterance's first position
# task -> streams sampled
MAKES = {"t2av": ("audio", "motion"), "tts": ("audio",), "a2v": ("motion",), "v2a": ("audio",)}


class Config(Section):
    name: str = config_fields.system_name("talker")
    # the backbone: Qwen3-0.6B
    vocab: int = field(151936, "Text tokens.", minimum=1)
    d_model: int = field(1024, "Width of the language model.", minimum=4)
    num_layers: int = field(28, "Its layers.", minimum=1)
    num_heads: int = field(16, "Its query heads.", minimum=1)
    num_kv_heads: int = field(8, "Its key and value heads.", minimum=1)
    head_dim: int = field(128, "Width of one of its heads.", minimum=1)
    d_ff: int = field(3072, "Hidden width of its feed-forward layers.", minimum=1)
    rope_theta: float = field(1e6, "Base of its rotary embedding.", above=0)
    rms_eps: float = field(1e-6, "Of its norms.", minimum=0)
    # patch encoders and diffusion heads, one of each a modality
    encoder_layers: int = field(4, "Layers of a patch encoder.", minimum=1)
    encoder_heads: int = field(8, "Its attention heads.", minimum=1)
    velocity_layers: int = field(8, "Layers of a diffusion head.", minimum=1)
    velocity_heads: int = field(8, "Its attention heads.", minimum=1)
    velocity_width: int = field(1024, "Its width, which is d_model: the hidden state joins its "
                                "sequence as it is.", minimum=1)
    coupling: str = field("separate", "joint: each block of a diffusion head also attends to the "
                          "other head's tokens of its patch.", choices=COUPLINGS)
    # streams
    audio_dim: int = field(32, "Width of an audio frame.", minimum=1)
    motion_dim: int = field(40, "Width of a motion frame.", minimum=1)
    speaker_dim: int = field(256, "Width of a speaker embedding.", minimum=1)
    patch: int = field(4, "Frames a patch.", minimum=1)
    delay: int = field(0, "Patches by which motion lags speech.", minimum=0)
    frame_rate: float = config_fields.FRAME_RATE
    task_embedding: int = field(2, "Tasks that are told apart: 0 = text to speech, 1 = text to "
                                "speech and motion.", minimum=2)
    audio_recipe: Recipe = field(None, "How the audio features must have been made; None = any.")
    motion_recipe: Recipe = field(None, "How the motion must have been made; None = any.")
    speaker_recipe: Recipe = field(None, "How speaker embeddings must have been made; None = any.")
    tokenizer_recipe: Recipe = field(None, "How text must have been tokenized; None = any.")
    # capacity of a training row
    row_tokens: int = field(1024, "Positions of a row: its patches and the text around them.",
                            minimum=1)
    row_patches: int = field(384, "Patches of a row.", minimum=1)
    row_utterances: int = field(8, "Utterances of a row.", minimum=1)
    max_frames: int = field(750, "Longer clips are cut at random to this (30 s, published).",
                            minimum=1)
    balance_kinds: bool = field(True, "Repeats the smaller of the sets with and without motion "
                                "(published).")
    # objective
    motion_weight: float = field(10.0, "Weight of the motion's loss.")
    spelling_weight: float = field(0.0, "Weight of a loss by which hidden states before patches "
                                   "must spell the prompt in order, at most two ids a frame: it "
                                   "teaches where in its text speech is [ours; 0 = published]. "
                                   "Its layer is for training only.", minimum=0)
    regression_weight: float = field(0.0, "Weight of the squared error of a linear regression of "
                                     "patches of speech on the hidden states before them [ours; 0 "
                                     "= published]. Its layer is for training only.", minimum=0)
    repeats: int = field(2, "Draws of noise and time for each target, K.", minimum=1)
    time_mean: float = field(-0.4, "Times are sigmoid(normal(time_mean, time_std)).")
    time_std: float = field(1.0, "See time_mean.")
    hidden_dropout: float = field(0.1, "Share of targets trained without the hidden state, for "
                                  "guidance.", minimum=0, below=1)
    context_dropout: float = field(0.05, "Share of targets trained without the previous patch.",
                                   minimum=0, below=1)
    stop_ignore: int = field(2, "Patches before the last that are labelled neither as going on nor "
                             "as stopping (0.3 s).", minimum=0)
    stop_max_patches: int = field(187, "Longer utterances teach going on only.")
    stop_positive_weight: float = field(0.3, "Weight of the stop labels, times the mean number of "
                                        "the others.")
    # sampler
    steps: int = field(10, "Steps of the diffusion sampler.", minimum=1)
    guidance: float = field(2.0, "On the hidden state; 1 = off.")
    temperature: float = field(0.3, "Deviation of the start noise.")
    sway: float = field(1.0, "Coefficient of sway sampling, which spends steps early.")
    cfg_zero_star: bool = field(True, "CFG-Zero*: scaled guidance, and a first step of zero.")
    stop_threshold: float = field(0.5, "Probability at which a patch counts as the end.", above=0,
                                  below=1)
    stop_streak: int = field(3, "Patches in a row that must count so.", minimum=1)
    min_patches: int = field(7, "Patches made after the prefix before the stop head is asked.",
                             minimum=1)
    trim_stop: bool = field(True, "Takes back the patches made while the streak was building; "
                            "False = published.")
    stop_on: str = field("slots", "Where the stop label is: on the utterance's last slot "
                         "(published), or on its last patch of speech, `delay` slots earlier.",
                         choices=("slots", "speech"))
    complete_motion: bool = field(True, "Speech and motion end together; False = published: motion "
                                  "ends `delay` patches early.")
    delay_motion: str = field("encoded", "The motion token before motion starts: that of zeros, as "
                              "in training, or none (the published sampler; within a prefix that "
                              "holds motion, zeros).", choices=("encoded", "none"))
    task_token: str = field("first", "Where t2av has the task's embedding: first of all, as in "
                            "training, or as the release's infer.py: added to the first patch of a "
                            "prefix, and nowhere without one.", choices=("first", "prefix"))
    # arithmetic
    compute_dtype: str = config_fields.COMPUTE_DTYPE
    attention_kernel: str = config_fields.ATTENTION_KERNEL
    remat: str = field("none", "What the backward pass recomputes: nothing, all but matrix "
                       "products, or all but the layers' inputs.", choices=("none", "dots", "full"))
    init_scale: float = config_fields.INIT_SCALE
    embedding_std: float = field(0.02, "Deviation of fresh token embeddings; larger where the "
                                 "backbone starts from nothing.")

    @staticmethod
    def relations(c, need):
        need(c.steps >= (2 if c.cfg_zero_star else 1), "steps",
             ">= 2 (the first step of CFG-Zero* does nothing)")
        need(c.max_frames >= c.patch, "max_frames", f"at least a patch, {c.patch}")
        need(c.num_heads % c.num_kv_heads == 0, "num_kv_heads",
             f"a divisor of num_heads = {c.num_heads}")
        need(c.head_dim % 2 == 0, "head_dim", "even (rotary pairs)")
        need(c.velocity_width == c.d_model, "velocity_width", f"d_model = {c.d_model}",
             hint="the hidden state joins the head's sequence without a projection")
        for name in ("encoder_heads", "velocity_heads"):
            need(c.d_model % (2 * c[name]) == 0, name,
                 f"d_model = {c.d_model} a multiple of twice it")
        need(c.delay < c.row_patches, "delay", f"less than row_patches = {c.row_patches}")
        need(c.row_tokens > c.row_patches, "row_tokens", f"more than row_patches = {c.row_patches}",
             hint="a row holds its patches' slots and the text around them")
        need(c.guidance == 1 or c.hidden_dropout > 0, "guidance", "1 where hidden_dropout = 0",
             hint="without targets that lack the hidden state there is nothing to guide away from")


# the sampler's fields where the release's infer.py does other than training
INFERENCE = {"delay_motion": "none", "task_token": "prefix", "trim_stop": False,
             "complete_motion": False, "stop_on": "slots"}


def published() -> ConfigDict:
    """The 0.6B model."""
    return Config.make()


def small() -> ConfigDict:
    """A quarter of the width, a seventh of the layers."""
    return Config.make(
        vocab=512,
        d_model=256,
        velocity_width=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        d_ff=768,
        encoder_layers=2,
        encoder_heads=4,
        velocity_layers=3,
        velocity_heads=4,
        row_tokens=256,
        row_patches=128,
        row_utterances=8,
        stop_on="speech",
    )


def tiny() -> ConfigDict:
    """What learns the puppets on two CPU cores."""
    c = small()
    c.update(
        vocab=600,
        embedding_std=1.0,
        d_model=128,
        velocity_width=128,
        num_kv_heads=4,
        head_dim=32,
        d_ff=384,
        encoder_layers=1,
        velocity_layers=2,
        row_tokens=160,
        row_patches=96,
        row_utterances=6,
    )
    return c


check = Config.check
# names of before, which users' config files call
released = published
default = small
