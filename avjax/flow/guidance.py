"""Classifier-free guidance (Ho and Salimans 2022)."""

import jax
import jax.numpy as jnp


def guide(conditional, unconditional, scale: float):
    """unconditional + scale * (conditional - unconditional); scale 1 leaves the conditional prediction."""
    return unconditional + scale * (conditional - unconditional)


def drop_condition(key, condition_BTC, rate: float):
    """Zeroes whole examples of a condition with probability `rate`; returns it and what was kept (batch,)."""
    kept_B = jax.random.bernoulli(key, 1.0 - rate, condition_BTC.shape[:1])
    return condition_BTC * kept_B[:, None, None].astype(condition_BTC.dtype), kept_B.astype(jnp.float32)
