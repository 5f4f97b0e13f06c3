"""The network of Talker's audio autoencoder, WhisperX-VAE: 24 kHz speech <-> 32 numbers a frame at
25 Hz, by the encoder and decoder of DAC (Kumar et al. 2023, arXiv:2306.06546) with features of
Whisper added to what the encoder makes.

Pure functions of parameters under the published names, weight norm folded. Frames behind
`frames_B` are silent at every layer, so that the valid ones do not depend on padding. The
halos say how far a part must reach to be what it is of the whole.
Suffixes: B batch, N samples, T frames, C channels, D width, Z latent channels.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax

from avjax.codecs.published.bigvgan import polyphase

SAMPLE_RATE, RATE = 24000, 25
HOP = SAMPLE_RATE // RATE  # samples a frame
DIM = 32
DILATIONS = (1, 3, 9)


@dataclasses.dataclass(frozen=True)
class WhisperXVAEConfig:
    """down, up: strides of the encoder's and the decoder's blocks."""

    down: tuple[int, ...] = (2, 4, 8, 15)
    up: tuple[int, ...] = (15, 8, 4, 2)

    @property
    def encoder_halo(self) -> int:
        """Frames on either side that a latent depends on."""
        samples, every = 3, 1
        for stride in self.down:
            samples += every * (3 * sum(DILATIONS) + stride)
            every *= stride
        return math.ceil((samples + every) / HOP)

    @property
    def decoder_halo(self) -> int:
        """Frames on either side that a frame's samples depend on."""
        samples, every = 3 * HOP, HOP
        for stride in self.up:
            samples += every  # a step before and a step behind
            every //= stride
            samples += every * 3 * sum(DILATIONS)
        return math.ceil((samples + 3) / HOP)


class _Signal:
    """Steps (B, T, C) with `length_B` of them valid; the others stay zero."""

    def __init__(self, params: dict, x_BTC, length_B):
        self.params, self.x, self.length = params, x_BTC, length_B

    def masked(self):
        valid_BT = jnp.arange(self.x.shape[1]) < self.length[:, None]
        self.x = jnp.where(valid_BT[..., None], self.x, 0)

    def conv(self, name: str, *, pad: int, stride: int = 1, dilation: int = 1):
        self.x = lax.conv_general_dilated(
            self.x, self.params[f"{name}.weight"].transpose(2, 1, 0), (stride,), [(pad, pad)],
            rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
        ) + self.params[f"{name}.bias"]
        self.length = self.length // stride
        self.masked()

    def transposed(self, name: str, stride: int):
        """Twice as wide a kernel as the stride, so every sample is of two steps. Where the stride
        is odd the published layer appends a sample (output_padding 1)."""
        B, T, _ = self.x.shape
        kernel = polyphase(self.params[f"{name}.weight"], stride)
        y_BTC = lax.conv_general_dilated(self.x, kernel, (1,), [(1, 1)],
                                         dimension_numbers=("NWC", "WIO", "NWC"))
        y_BTC = y_BTC.reshape(B, (T + 1) * stride, -1)
        first = -(-stride // 2)
        self.x = y_BTC[:, first:first + T * stride] + self.params[f"{name}.bias"]
        self.length = self.length * stride
        self.masked()

    def snake(self, name: str):
        """x + sin(a x)^2 / a, a channel's own a (Ziyin et al. 2020); zero stays zero."""
        alpha_C = self.params[f"{name}.alpha"].reshape(-1)
        self.x = self.x + jnp.square(jnp.sin(alpha_C * self.x)) / (alpha_C + 1e-9)

    def residual(self, name: str, dilation: int):
        before = self.x
        self.snake(f"{name}.block.0")
        self.conv(f"{name}.block.1", pad=3 * dilation, dilation=dilation)
        self.snake(f"{name}.block.2")
        self.conv(f"{name}.block.3", pad=0)
        self.x = before + self.x


def acoustic(params: dict, config: WhisperXVAEConfig, wav_BN, frames_B):
    """(B, N) samples, N a multiple of HOP -> (B, N / HOP, D)."""
    signal = _Signal(params, wav_BN[..., None], frames_B * HOP)
    signal.masked()
    signal.conv("CodecEnc.block.0", pad=3)
    for i, stride in enumerate(config.down, 1):
        block = f"CodecEnc.block.{i}.block"
        for j, dilation in enumerate(DILATIONS):
            signal.residual(f"{block}.{j}", dilation)
        signal.snake(f"{block}.3")
        signal.conv(f"{block}.4", pad=-(-stride // 2), stride=stride)
    last = len(config.down) + 1
    signal.snake(f"CodecEnc.block.{last}")
    signal.conv(f"CodecEnc.block.{last + 1}", pad=1)
    return signal.x


def encode(params: dict, config: WhisperXVAEConfig, wav_BN, semantic_BTD, frames_B):
    """Samples (B, N) and Whisper's features at 50 Hz, two a frame (B, 2 T, D) -> means of the
    latents (B, T, Z)."""
    B, _, D = semantic_BTD.shape
    x_BTD = acoustic(params, config, wav_BN, frames_B)
    x_BTD += semantic_BTD.reshape(B, -1, 2, D).mean(2)
    signal = _Signal(params, x_BTD, frames_B)
    signal.conv("vae.in_proj", pad=0)
    return jnp.split(signal.x, 2, axis=-1)[0]


def decode(params: dict, config: WhisperXVAEConfig, latent_BTZ, frames_B):
    """Latents (B, T, Z) -> (B, T * HOP) samples in [-1, 1]."""
    signal = _Signal(params, latent_BTZ, frames_B)
    signal.masked()
    signal.conv("vae.out_proj", pad=0)
    signal.conv("CodecDec.model.0", pad=3)
    for i, stride in enumerate(config.up, 1):
        block = f"CodecDec.model.{i}.block"
        signal.snake(f"{block}.0")
        signal.transposed(f"{block}.1", stride)
        for j, dilation in enumerate(DILATIONS, 2):
            signal.residual(f"{block}.{j}", dilation)
    last = len(config.up) + 1
    signal.snake(f"CodecDec.model.{last}")
    signal.conv(f"CodecDec.model.{last + 1}", pad=3)
    return jnp.tanh(signal.x[..., 0])
