"""Classifier-free guidance (Ho and Salimans 2022) and CFG-Zero* (Fan et al. 2025)."""

import jax
import jax.numpy as jnp


def guide(conditional, unconditional, scale: float):
    """unconditional + scale * (conditional - unconditional); scale 1 leaves the conditional
    prediction."""
    return unconditional + scale * (conditional - unconditional)


def guide_zero_star(conditional, unconditional, scale: float):
    """`guide` with the unconditional prediction first scaled, an example at a time, to its
    projection of the conditional one (CFG-Zero*, eq. 10). The leading axis is the batch."""
    axes = tuple(range(1, conditional.ndim))
    along = jnp.sum(conditional * unconditional, axis=axes, keepdims=True)
    length = jnp.sum(jnp.square(unconditional), axis=axes, keepdims=True) + 1e-8
    return guide(conditional, along / length * unconditional, scale)


def zero_init_steps(steps: int) -> int:
    """First Euler steps that CFG-Zero* takes with zero velocity: 4 % of the `steps` + 1 times, at
    least one."""
    return max(1, int(0.04 * (steps + 1)))


def drop_condition(key, condition_BTC, rate: float):
    """Zeroes the condition of an example with probability `rate` -> condition, kept (batch,)."""
    kept_B = jax.random.bernoulli(key, 1.0 - rate, condition_BTC.shape[:1])
    condition_BTC = condition_BTC * kept_B[:, None, None].astype(condition_BTC.dtype)
    return condition_BTC, kept_B.astype(jnp.float32)
