"""Text to tokens: an encoder of symbols and the network of a flow from noise to tokens.

Suffixes: B batch, X symbols, T frames, C token width.
"""

import flax.linen as nn
import jax.numpy as jnp

from avjax.systems.avflow.text.config import Config, multiple
from avjax.systems.avflow.text.dit import DiT
from avjax.systems.avflow.text.encoder import TextEncoder
from avjax.systems.avflow.text.unet import Frames, UNet

DECODERS = {"unet": UNet, "dit": DiT}


class TextNet(nn.Module):
    """Two networks under one name; see `TextEncoder` and `UNet` for their calls."""

    config: Config
    dtype: jnp.dtype

    def setup(self):
        self.encoder = TextEncoder(self.config, self.dtype)
        self.decoder = DECODERS[self.config.decoder](self.config, self.dtype)

    def encode(self, symbols_BX, real_BX, key=None):
        return self.encoder(symbols_BX, real_BX, key)

    def velocity(self, x_BTC, mean_BTC, t_B, frames: Frames, key=None):
        return self.decoder(x_BTC, mean_BTC, t_B, frames, key)

    def __call__(self, symbols_BX, real_BX, x_BTC, mean_BTC, t_B, frames: Frames):
        """Both, so that `init` finds all parameters."""
        return self.encode(symbols_BX, real_BX), self.velocity(x_BTC, mean_BTC, t_B, frames)


def real(lengths_B, size: int):
    """(B, size) float32: 1 before the length."""
    return (jnp.arange(size) < lengths_B[:, None]).astype(jnp.float32)


def frames_of(config, lengths_B, size: int, padding: str) -> Frames:
    """What the flow's network is told of `size` frames; `padding` as config.padding."""
    real_BT = real(lengths_B, size)
    if not config.matcha_compat:
        return Frames(real_BT, real_BT)
    if padding == "batch":
        return Frames(real_BT, jnp.ones_like(real_BT))
    return Frames(real_BT, real(-(-lengths_B // multiple(config)) * multiple(config), size))
