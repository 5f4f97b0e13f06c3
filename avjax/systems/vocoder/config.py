"""The fields of a BigVGAN that is trained, and its presets (see avjax/fields.py). Sizes and weights
of the losses are those of the published config.json files."""

import math

from ml_collections import ConfigDict

from avjax.fields import Section, field
from avjax.nn import config_fields
from avjax.systems.vocoder.losses import SCALES

SPECTRAL = ("mrd", "mbd", "cqtd")  # the published code has one of them beside the periods'


class Config(Section):
    name: str = config_fields.system_name("vocoder")
    # the mel that is inverted
    sample_rate: int = field(22050, "Samples a second.", minimum=1)
    n_fft: int = field(1024, "Points of the mel's transform.", minimum=2)
    bands: int = field(80, "Mel bands.", minimum=1)
    fmax: float = field(8000.0, "Hz, top of the mel.", above=0)
    mel: str = field("sound", "What the network reads: mel of the sound of each segment, made in "
                     "the step as published; or the mel of the features, such as a model's own.",
                     choices=("sound", "features"))
    peak: float = field(0.95, "The peak that every segment is brought to; 0 = as it is.", minimum=0,
                        maximum=1)
    # the generator
    channels: int = field(512, "After the first convolution; every upsampling halves them.",
                          minimum=2)
    rates: tuple[int, ...] = field((8, 8, 2, 2), "Of the upsamplings; their product is the mel's "
                                   "hop.", minimum=1)
    kernels: tuple[int, ...] = field((16, 16, 4, 4), "Taps of the upsamplings.", minimum=1)
    block_kernels: tuple[int, ...] = field((3, 7, 11), "Taps of the blocks side by side.",
                                           minimum=1)
    dilations: tuple[tuple[int, ...], ...] = field(((1, 3, 5),) * 3, "Of the layers of each block.")
    start: str = field("published", "Fresh parameters: as the published code draws them, or (ours) "
                       "so that the first layer reads mel of zero mean and unit deviation, and the "
                       "sound begins quietly.", choices=("published", "normalised"))
    log_scale: bool = field(True, "The activations' numbers are logarithms.")
    tanh: bool = field(True, "At the end, with a bias (version 1); else clipping without.")
    # the discriminators
    discriminators: tuple[str, ...] = field(("mpd", "mrd"), "Those that there are; () trains by "
                                            "the mel alone.", choices=("mpd", *SPECTRAL))
    width: int = field(32, "Narrowest layers of mpd, layers of mrd.", minimum=1)
    periods: tuple[int, ...] = field((2, 3, 5, 7, 11), "Of mpd.", minimum=1)
    resolutions: tuple[tuple[int, int, int], ...] = field(
        ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)), "Of mrd: points, hop, window.")
    band_windows: tuple[int, ...] = field((2048, 1024, 512), "Of mbd.", minimum=8)
    band_width: int = field(32, "Layers of mbd.", minimum=1)
    octave_width: int = field(128, "Layers of cqtd.", minimum=1)
    octave_dilations: tuple[int, ...] = field((1, 2, 4), "Along time, of its layers in the middle.",
                                              minimum=1)
    octave_transforms: tuple[tuple[int, int, int], ...] = field(
        ((512, 9, 24), (256, 9, 36), (256, 9, 48)), "Of cqtd: hop at the doubled rate, octaves, "
        "bins an octave.")
    # the losses
    mel_scales: str = field("one", "Log-mel distance at one scale (version 1), or at seven.",
                            choices=("one", "seven"))
    silence: float = field(0.0, "Amplitude below which sound is nothing to the distance at seven "
                           "scales (ours; published: 0).", minimum=0)
    mel_weight: float = field(45.0, "Of that distance.", minimum=0)
    feature_weight: float = field(2.0, "Of the discriminators' features.", minimum=0)
    adversarial_from: int = field(0, "Step from which there are discriminators; before it the mel "
                                  "alone counts.", minimum=0)

    @staticmethod
    def relations(c, need):
        stages = len(c.rates)
        need(stages > 0 and len(c.kernels) == stages and all(
            kernel >= rate for rate, kernel in zip(c.rates, c.kernels, strict=True)), "kernels",
            f"one a rate, each at least its rate ({stages} rates)")
        need(c.channels % 2**stages == 0, "channels", f"a multiple of {2**stages}")
        need(len(c.block_kernels) == len(c.dilations) > 0, "dilations", "one tuple a block kernel")
        need(all(k % 2 for k in c.block_kernels), "block_kernels", "odd numbers of taps")
        hop = math.prod(c.rates)
        need(c.n_fft % hop == 0, "rates", f"a product that divides n_fft = {c.n_fft}")
        need(c.fmax <= c.sample_rate / 2, "fmax", f"at most {c.sample_rate / 2}")
        need(len(set(c.discriminators)) == len(c.discriminators), "discriminators", "each once")
        need(not c.peak or c.mel == "sound", "peak", "0 where mel = 'features'",
             hint="features were made of sound as loud as it is")
        need("cqtd" not in c.discriminators or all(
            hop % 2 ** (octaves - 1) == 0 for hop, octaves, _ in c.octave_transforms),
            "octave_transforms", "hops that divide by 2^(octaves - 1)")


def published() -> ConfigDict:
    """bigvgan_22khz_80band: 112 million parameters."""
    return Config.make(channels=1536, rates=(4, 4, 2, 2, 2, 2), kernels=(8, 8, 4, 4, 4, 4))


def base() -> ConfigDict:
    """bigvgan_base_22khz_80band: 14 million."""
    return Config.make()


def version_2() -> ConfigDict:
    """bigvgan_v2_22khz_80band_fmax8k_256x."""
    c = published()
    c.update(tanh=False, discriminators=("mpd", "cqtd"), mel_scales="seven", mel_weight=15.0)
    return c


def tiny() -> ConfigDict:
    """What learns on two CPU cores within minutes; ours by choice."""
    return Config.make(channels=64, rates=(8, 8, 4), kernels=(16, 16, 8), block_kernels=(3,),
                       dilations=((1, 3),), discriminators=(), mel_scales="seven", mel_weight=15.0,
                       mel="features", peak=0.0, start="normalised", silence=3e-4)


def least_segment(config) -> int:
    """Frames that a segment must have at least, so that every loss has its reflections."""
    longest = [config.n_fft // 2]
    longest += [max(window for window, _ in SCALES) // 2] if config.mel_scales == "seven" else []
    longest += ([max(points for points, _, _ in config.resolutions) // 2]
                if "mrd" in config.discriminators else [])
    longest += [max(config.band_windows) // 2] if "mbd" in config.discriminators else []
    return max(longest) // math.prod(config.rates) + 1
