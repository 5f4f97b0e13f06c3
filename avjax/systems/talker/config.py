"""Every field of a Talker-T2AV system with its presets: `released` is the published 0.6B, `default`
a small one."""

from ml_collections import ConfigDict

from avjax.errors import UserError

REMAT = ("none", "dots", "full")
COUPLINGS = ("separate", "joint")
STOPS = ("slots", "speech")
DELAYS = ("encoded", "none")
TTS, T2AV = 0, 1  # rows of the task embedding, and the id at an utterance's first position
# task -> streams sampled
MAKES = {"t2av": ("audio", "motion"), "tts": ("audio",), "a2v": ("motion",), "v2a": ("audio",)}


def released() -> ConfigDict:
    c = ConfigDict()
    c.name = "talker"
    # the backbone: Qwen3-0.6B
    c.vocab = 151936
    c.d_model = 1024
    c.num_layers = 28
    c.num_heads = 16
    c.num_kv_heads = 8
    c.head_dim = 128
    c.d_ff = 3072
    c.rope_theta = 1e6
    c.rms_eps = 1e-6
    # patch encoders and diffusion heads (one of each a modality)
    c.encoder_layers = 4
    c.encoder_heads = 8
    c.velocity_layers = 8
    c.velocity_heads = 8
    c.velocity_width = 1024  # = d_model: the hidden state joins the head's sequence as it is
    # separate | joint: each block of a head also attends to the other head's tokens of its patch
    # streams
    c.coupling = "separate"
    c.audio_dim = 32
    c.motion_dim = 40
    c.speaker_dim = 256
    c.patch = 4  # frames a patch
    c.delay = 0  # patches by which motion lags speech
    c.frame_rate = 25.0
    c.task_embedding = 2  # tasks: 0 = text to speech, 1 = text to speech and motion
    # definitions that feature shards must match; None = any
    c.audio_recipe = None
    c.motion_recipe = None
    c.speaker_recipe = None
    c.tokenizer_recipe = None
    # capacity of a training row
    c.row_tokens = 1024
    c.row_patches = 384
    c.row_utterances = 8
    c.max_frames = 750  # longer clips are cut at random to 30 s, as published
    # the smaller of the sets with and without motion is repeated, as published objective
    c.balance_kinds = True
    c.motion_weight = 10.0
    c.repeats = 2  # fresh noise and time for each target, K
    c.time_mean = -0.4  # t = sigmoid(normal(time_mean, time_std))
    c.time_std = 1.0
    c.hidden_dropout = 0.1  # share of targets trained without the hidden state, for guidance
    c.context_dropout = 0.05  # share trained without the previous patch
    c.stop_ignore = 2  # patches before the last that are neither "go on" nor "stop" (0.3 s)
    c.stop_max_patches = 187  # longer utterances teach "go on" only
    c.stop_positive_weight = 0.3  # of the positives, times the mean number of negatives
    # sampler
    c.steps = 10
    c.guidance = 2.0
    c.temperature = 0.3  # of the start noise
    c.sway = 1.0
    c.cfg_zero_star = True
    c.stop_threshold = 0.5
    c.stop_streak = 3
    c.min_patches = 7  # made after the prefix before the stop head is asked
    # take back the patches made while the streak was building; False = published
    c.trim_stop = True
    # slots | speech: the stop label stands on the utterance's last slot (published) or on its last
    # patch of speech, `delay` slots earlier
    c.stop_on = "slots"
    # speech and motion end together; False = published: motion ends `delay` patches early
    c.complete_motion = True
    # encoded | none: motion token before motion starts, that of zeros, as in training, or nothing
    # (the published sampler) arithmetic
    c.delay_motion = "encoded"
    c.compute_dtype = "auto"  # auto = bfloat16 on TPU and GPU, float32 on CPU
    c.attention_kernel = "auto"  # auto | dense | banded
    c.remat = "none"  # none | dots (keep matrix products only) | full (keep layer inputs only)
    c.init_scale = 1.0 / 3.0  # variance * fan_in of fresh kernels
    # of fresh token embeddings; larger where the backbone starts from nothing
    c.embedding_std = 0.02
    return c


def default() -> ConfigDict:
    c = released()
    c.vocab = 512
    c.d_model = c.velocity_width = 256
    c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim, c.d_ff = 4, 4, 2, 64, 768
    c.encoder_layers, c.encoder_heads, c.velocity_layers, c.velocity_heads = 2, 4, 3, 4
    c.row_tokens, c.row_patches, c.row_utterances = 256, 128, 8
    c.stop_on = "speech"
    return c


def check(config) -> None:
    """UserError for widths and choices that cannot make a network."""
    def need(good: bool, name: str, expected: str, **more):
        if not good:
            raise UserError("Talker configuration", where=f"config.system.{name}",
                            expected=expected,
                            found=repr(config[name]), **more)

    for name in ("vocab", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
                 "encoder_layers", "velocity_layers", "audio_dim", "motion_dim", "speaker_dim",
                 "patch", "row_tokens", "row_patches",
                 "row_utterances", "repeats", "steps", "stop_streak"):
        need(config[name] >= 1, name, ">= 1")
    need(config.coupling in COUPLINGS, "coupling", " | ".join(COUPLINGS))
    need(config.remat in REMAT, "remat", " | ".join(REMAT))
    need(config.stop_on in STOPS, "stop_on", " | ".join(STOPS))
    need(config.delay_motion in DELAYS, "delay_motion", " | ".join(DELAYS))
    need(config.steps >= (2 if config.cfg_zero_star else 1), "steps",
         ">= 2 (the first step of CFG-Zero* does nothing)")
    need(config.max_frames >= config.patch, "max_frames", f"at least a patch, {config.patch}")
    need(config.stop_ignore >= 0, "stop_ignore", ">= 0 patches")
    need(config.min_patches >= 1, "min_patches", ">= 1")
    need(config.num_heads % config.num_kv_heads == 0, "num_kv_heads",
         f"a divisor of num_heads = {config.num_heads}")
    need(config.head_dim % 2 == 0, "head_dim", "even (rotary pairs)")
    need(config.velocity_width == config.d_model, "velocity_width", f"d_model = {config.d_model}",
         hint="the hidden state joins the head's sequence without a projection")
    for name in ("encoder_heads", "velocity_heads"):
        need(config.d_model % (2 * config[name]) == 0, name, f"d_model = {config.d_model} a "
                                                             "multiple of twice it")
    need(config.d_model >= 4, "d_model", ">= 4 (sines and cosines of the time embedding)")
    need(config.delay >= 0, "delay", ">= 0 patches")
    need(config.delay < config.row_patches, "delay",
         f"less than row_patches = {config.row_patches}")
    need(config.row_tokens > config.row_patches, "row_tokens",
         f"more than row_patches = {config.row_patches}",
         hint="a row holds its patches' slots and the text around them")
    need(config.task_embedding >= 2, "task_embedding", ">= 2 (text to speech; text to speech and "
                                                       "motion)")
    for name in ("hidden_dropout", "context_dropout"):
        need(0 <= config[name] < 1, name, "0 <= share < 1")
    need(config.guidance == 1 or config.hidden_dropout > 0, "guidance",
         "1 where hidden_dropout = 0", hint="without targets that lack the hidden state there is "
                                            "nothing to guide away from")
    need(0 < config.stop_threshold < 1, "stop_threshold", "a probability")
