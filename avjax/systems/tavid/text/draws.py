"""A unit from its distribution.

Suffixes: B batch, V units with specials, P frames looked back at for repetition.
"""

import jax
import jax.numpy as jnp

from avjax.nn.attention import NEGATIVE
from avjax.systems.tavid.text.config import eos


def draw(config, logits_BV, keys, seen_BP, can_end_B):
    """A unit (or EOS) a row: temperature, the share of the likeliest, the nucleus; and anew from
    the full distribution where it already fills the frames looked back at and is no silence
    (repetition-aware sampling, VALL-E 2; the rule is ours)."""
    c = config
    ids = jnp.arange(logits_BV.shape[1])
    allowed_BV = (ids < c.num_units) | ((ids == eos(c)) & can_end_B[:, None])
    logits_BV = jnp.where(allowed_BV, logits_BV / c.temperature, NEGATIVE)
    draw_noise = jax.vmap(lambda key: jax.random.gumbel(key, (2, logits_BV.shape[1])))
    noise_2BV = jnp.moveaxis(draw_noise(keys), 1, 0)
    unit_B = jnp.argmax(nucleus(logits_BV, c.top_p, c.top_k_share) + noise_2BV[0], axis=-1)
    if c.repetition_window and c.filler >= 0:
        repeated_B = jnp.all(seen_BP == unit_B[:, None], axis=-1)
        unit_B = jnp.where(repeated_B & (unit_B != c.filler),
                           jnp.argmax(logits_BV + noise_2BV[1], axis=-1), unit_B)
    return unit_B.astype(jnp.int32)


def nucleus(logits, top_p: float, top_k_share: float = 1.0):
    """Hides what is not among the likeliest ids that together have probability `top_p`, nor among
    the share `top_k_share` of all; the likeliest always stays."""
    if top_p == 1.0 and top_k_share == 1.0:
        return logits
    falling = -jnp.sort(-logits, axis=-1)
    probability = jax.nn.softmax(falling, axis=-1)
    kept = jnp.cumsum(probability, axis=-1) - probability < top_p  # of those before it
    kept &= jnp.arange(logits.shape[-1]) < max(1, -int(-top_k_share * logits.shape[-1] // 1))
    lowest = jnp.min(jnp.where(kept, falling, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, NEGATIVE)
