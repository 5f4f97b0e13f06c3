"""The fields of text to tokens and its presets (see avjax/fields.py).

`published` is the network of AV-Flow's release, Matcha-TTS (Mehta et al. 2024) with tokens in the
place of mel; `paper` is what AV-Flow's paper says in its place.
"""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields
from avjax.signal import mel


def _share(default: float, doc: str):
    return field(default, doc, minimum=0, below=1)


class Encoder(Section):
    width: int = field(192, "Of the symbols' embedding and all layers.", minimum=1)
    convolutions: int = field(3, "Residual convolutions after the embedding; 0 = none.", minimum=0)
    convolution_kernel: int = field(5, "Symbols that one of them sees.", minimum=1)
    convolution_dropout: float = _share(0.5, "Of their outputs.")
    layers: int = field(6, "Transformer layers; the paper has none.", minimum=0)
    heads: int = field(2, "Their attention heads.", minimum=1)
    d_ff: int = field(768, "Hidden width of their feed-forward convolutions.", minimum=1)
    kernel: int = field(3, "Symbols that those see, and the duration predictor's.", minimum=1)
    dropout: float = _share(0.1, "Of hidden units and residual branches.")
    duration_width: int = field(256, "Of the duration predictor's two convolutions.", minimum=1)


class UNet(Section):
    channels: tuple[int, ...] = field((256, 256), "Width of each level; time is halved between "
                                      "them.", minimum=1)
    blocks: int = field(1, "Transformer blocks a level.", minimum=0)
    middle: int = field(2, "Levels at the lowest rate between down and up.", minimum=0)
    heads: int = field(2, "Attention heads.", minimum=1)
    head_width: int = field(64, "Of each.", minimum=1)
    groups: int = field(8, "Of the group norms.", minimum=1)
    dropout: float = _share(0.05, "Of hidden units and attention's output.")

    @staticmethod
    def relations(c, need):
        need(all(width % c.groups == 0 for width in c.channels), "channels",
             f"multiples of groups = {c.groups}")


class DiT(Section):
    d_model: int = field(256, "Width [ours: the paper prints none].", minimum=8)
    num_blocks: int = field(3, "Blocks (paper).", minimum=1)
    num_heads: int = field(4, "Attention heads [ours].", minimum=1)
    d_ff: int = field(1024, "Hidden width [ours].", minimum=1)

    @staticmethod
    def relations(c, need):
        need(c.d_model % (2 * c.num_heads) == 0 and c.d_model % 8 == 0, "d_model",
             f"a multiple of 8 and of 2 * num_heads = {2 * c.num_heads}")


class Config(Section):
    name: str = config_fields.system_name("avflow.text")
    symbols: int = field(178, "Ids 0 .. symbols - 1: 0 is the blank between symbols.", minimum=1)
    token_dim: int = field(29, "Width of a token (CTC logits).", minimum=1)
    mean: float = field(-2.8461, "Of tokens (release, LJSpeech); the network learns (token - mean) "
                        "/ std.")
    std: float = field(4.5255, "Of tokens (release, LJSpeech).", above=0)
    symbols_recipe: Recipe = field(None, "How the symbols must have been made; None = any.")
    tokens_recipe: Recipe = field(None, "How the tokens must have been made; None = any.")
    frame_rate: float = field(mel.FRAME_RATE, "Tokens a second.", above=0)
    row_symbols: int = field(512, "Symbols of a training row, blanks included.", minimum=1)
    row_frames: int = field(1024, "Frames of a training row: 11.9 s; LJSpeech ends at 10.1 s.",
                            minimum=4)
    # network
    encoder: Encoder = field(None, "Symbols to the mean of their tokens, and to durations.")
    decoder: str = field("unet", "The flow's network: unet (release) or dit (paper).",
                         choices=("unet", "dit"))
    unet: UNet = field(None, "Of decoder = unet.")
    dit: DiT = field(None, "Of decoder = dit.")
    matcha_compat: bool = field(True, "The U-Net as published: a real frame's attention logit is 1 "
                                "more than a padded one's, which is seen all the same, and group "
                                "norms count padding. False: padding is never seen.")
    padding: str = field("alone", "What matcha_compat sees of padding in training: batch, all of "
                         "the row (published); alone, up to a multiple of 4 frames, as an "
                         "utterance by itself has, and as sampling always does.",
                         choices=("batch", "alone"))
    # objective and sampling
    sigma: float = field(1e-4, "Deviation of the flow's end around the data.", minimum=0, below=1)
    euler_steps: int = field(10, "Steps of the sampler.", minimum=1)
    temperature: float = field(0.667, "Deviation of the sampler's start noise.", minimum=0)
    length_scale: float = field(1.0, "Of all durations: 2 speaks half as fast.", above=0)
    longest_symbol: int = field(430, "Frames that a symbol takes at most (5 s), whatever an "
                                "untrained network says [ours].", minimum=1)
    compute_dtype: str = config_fields.COMPUTE_DTYPE

    @staticmethod
    def relations(c, need):
        need(c.encoder.width % (4 * c.encoder.heads) == 0, "encoder.width",
             f"a multiple of 4 * heads = {4 * c.encoder.heads}",
             hint="half of each head rotates, in pairs")
        need(c.row_symbols <= c.row_frames, "row_symbols", f"<= row_frames = {c.row_frames}",
             hint="a symbol takes a frame at least")
        need(c.row_frames % multiple(c) == 0, "row_frames", f"a multiple of {multiple(c)}",
             hint="the U-Net halves time")


def multiple(config) -> int:
    """Frames are padded to a multiple of this (published: 4, though two levels need 2)."""
    return 2 ** max(len(config.unet.channels), 2) if config.decoder == "unet" else 1


def published() -> ConfigDict:
    """The network of the release, trained as Matcha-TTS trains it."""
    return Config.make(padding="batch")


def paper() -> ConfigDict:
    """Three convolutions and a diffusion transformer of three blocks; widths are ours."""
    c = Config.make(decoder="dit")
    c.encoder.layers = 0
    return c


def tiny() -> ConfigDict:
    """What learns the puppets on two CPU cores [ours]: set token_dim, mean and std to the
    dataset's."""
    c = Config.make(matcha_compat=False, row_symbols=192, row_frames=512)
    c.encoder.update(dict(width=96, layers=2, d_ff=192, duration_width=96))
    c.unet.update(dict(channels=(64, 64), middle=1, head_width=32))
    return c


check = Config.check
