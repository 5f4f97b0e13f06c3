"""What comes after something, joined to it and taken from it again, where both are padded.

Suffixes: B batch, H entries before, T entries.
"""

import jax.numpy as jnp


def joined(before_BH, length_B, x_BT):
    """(B, H + T, ...): the first `length_B` entries of `before`, then those of x; what is behind
    them is anything."""
    H = before_BH.shape[1]
    both = jnp.concatenate([before_BH, x_BT.astype(before_BH.dtype)], axis=1)
    at_T, length_B1 = jnp.arange(both.shape[1]), jnp.reshape(length_B, (-1, 1))
    return _take(both, jnp.where(at_T < length_B1, at_T, at_T - length_B1 + H))


def later(x_BT, first_B, count: int):
    """(B, count, ...): the entries of x from `first_B` on; the last one is repeated."""
    return _take(x_BT, jnp.arange(count) + jnp.reshape(first_B, (-1, 1)))


def _take(x_BT, index_BJ):
    index = jnp.minimum(index_BJ, x_BT.shape[1] - 1)
    return jnp.take_along_axis(x_BT, index.reshape(*index.shape, *(1,) * (x_BT.ndim - 2)), axis=1)
