"""WavLM's attention bias: a number a head for how far a key is from its query, which every query
gates by what it holds.

Chen et al. 2022 (arXiv:2110.13900), section 3.1; the buckets of distance are T5's, on both sides.
Suffixes: B batch, T frames, H heads, K width of a head, R offsets, N buckets.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def buckets(offsets, count: int, farthest: int) -> np.ndarray:
    """Bucket of each offset, key minus query: half of `count` for keys behind the query, half of
    either side for an offset each, the rest in logarithmic steps up to `farthest` frames."""
    offsets = np.asarray(offsets)
    side, distance = count // 2, np.abs(offsets)
    exact = side // 2
    far = np.log(np.maximum(distance, 1) / np.float32(exact), dtype=np.float32)
    far = exact + (far / np.log(farthest / exact) * (side - exact)).astype(np.int64)
    return (offsets > 0) * side + np.where(distance < exact, distance, np.minimum(far, side - 1))


def of_offsets(table_NH, frames: int, farthest: int):
    """(H, R): the bias of every offset from -(frames - 1) to frames - 1."""
    found_R = buckets(np.arange(1 - frames, frames), len(table_NH), farthest)
    return table_NH[found_R].T


class Gate(nn.Module):
    """What a query multiplies the bias by, of the layer's attention input (B, H, T, K): (B, H,
    T)."""

    @nn.compact
    def __call__(self, x_BHTK):
        scale_H = self.param("scale", nn.initializers.ones, (x_BHTK.shape[1],))
        gates = nn.Dense(8, name="linear")(x_BHTK)
        first, second = jnp.moveaxis(
            jax.nn.sigmoid(gates.reshape(*gates.shape[:-1], 2, 4).sum(-1)), -1, 0)
        return first * (second * scale_H[None, :, None] - 1) + 2
