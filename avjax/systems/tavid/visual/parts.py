"""The small nets beside the U-Nets: face embedding -> tokens, audio features -> tokens, face mask
-> feature map.

Sizes of the published ones in brackets. Suffixes: B batch, F frames, E embedding, M tokens, K token
width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from avjax.nn.convolutions import Conv
from avjax.nn.layers import Dense, LayerNorm

LOCATOR = (16, 32, 64, 128)


class ImageProjection(nn.Module):
    """Face embedding (B, E) -> (B, M, K) tokens: one product, then a layer norm a token. Without a
    face the tokens are those of the zero embedding. [E 512, M 4, K 768]"""

    embedding: int
    tokens: int
    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.project = Dense((self.tokens, self.width), self.embedding, self.dtype)
        self.norm = LayerNorm(self.width)

    def __call__(self, face_BE):
        return self.norm(self.project(face_BE))


class AudioProjection(nn.Module):
    """Windows of audio features (B, F, window, blocks, channels) -> (B, F, M, K) tokens. [5 x 12 x
    768 -> 32 x 768]"""

    inputs: int  # window * blocks * channels
    hidden: int
    tokens: int
    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.hidden1 = Dense(self.hidden, self.inputs, self.dtype)
        self.hidden2 = Dense(self.hidden, self.hidden, self.dtype)
        self.project = Dense((self.tokens, self.width), self.hidden, self.dtype)
        self.norm = LayerNorm(self.width)

    def __call__(self, windows):
        B, F = windows.shape[:2]
        x = jax.nn.relu(self.hidden1(windows.reshape(B * F, -1)))
        x = self.project(jax.nn.relu(self.hidden2(x)))
        return self.norm(x).reshape(B, F, self.tokens, self.width)


def windows(x_F, margin: int = 2):
    """(F, ...) -> (F, 2 * margin + 1, ...): each frame with its neighbours, the ends repeated."""
    frames = len(x_F)
    at = np.clip(np.arange(frames)[:, None] + np.arange(-margin, margin + 1), 0, frames - 1)
    return x_F[at]


class FaceLocator(nn.Module):
    """Face mask (B, F, H, W, 3) -> (B, F, H / 8, W / 8, channels), added after the denoiser's first
    convolution. Fresh ones give zeros. [channels 320]"""

    channels: int
    widths: tuple[int, ...] = LOCATOR
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        w = self.widths
        self.inputs = Conv(w[0], 3, dtype=self.dtype)
        self.blocks = [Conv(w[i + halve], w[i], stride=1 + halve, dtype=self.dtype)
                       for i in range(len(w) - 1) for halve in (0, 1)]
        self.outputs = Conv(self.channels, w[-1], dtype=self.dtype, init_scale=0.0)

    def __call__(self, mask_BFHWC):
        B, F = mask_BFHWC.shape[:2]
        x = jax.nn.silu(self.inputs(mask_BFHWC.reshape(-1, *mask_BFHWC.shape[2:])))
        for conv in self.blocks:
            x = jax.nn.silu(conv(x))
        x = self.outputs(x)
        return x.reshape(B, F, *x.shape[1:])
