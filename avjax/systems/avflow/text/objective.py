"""Three losses of one step: durations against those of the alignment, tokens against their symbols'
mean, the flow from noise to tokens (Mehta et al. 2024, section 2).

Suffixes: B batch, X symbols, T frames, C token width.
"""

import jax
import jax.numpy as jnp
from jax import lax

from avjax.flow.path import interpolate
from avjax.systems.avflow.text import alignment
from avjax.systems.avflow.text.model import frames_of, real


def losses(net, params, config, batch, t_B, noise_BTC, key=None):
    """{"duration", "prior", "flow"} scalars, {"symbol" (B, T), "mean" (B, T, C), "log_durations",
    "mean_of_symbols", "velocity"} of what they came from.

    Args:
      batch: symbols (B, X), symbols_length (B,), tokens (B, T, C) normalised, zeros after
        tokens_length (B,).
      t_B, noise_BTC: time and unit normal start of each path.
      key: of dropout; None = none.
    """
    symbols_B, frames_B = batch["symbols_length"], batch["tokens_length"]
    tokens_BTC = batch["tokens"]
    _, T, C = tokens_BTC.shape
    X = batch["symbols"].shape[1]
    keys = [None] * 2 if key is None else jax.random.split(key)
    real_BX, real_BT = real(symbols_B, X), real(frames_B, T)

    def apply(method, *arguments):
        return net.apply({"params": params}, *arguments, method=method)

    mean_BXC, logw_BX = apply("encode", batch["symbols"], real_BX, keys[0])
    score_BTX = alignment.log_prior(lax.stop_gradient(mean_BXC), tokens_BTC)
    symbol_BT = alignment.search(score_BTX, symbols_B, frames_B)
    path_BTX = alignment.one_hot(symbol_BT, X, real_BT)
    target_BX = jnp.log(1e-8 + jnp.sum(path_BTX, axis=1)) * real_BX
    duration = jnp.sum(jnp.square(logw_BX - target_BX)) / jnp.sum(symbols_B)

    count = jnp.maximum(jnp.sum(real_BT), 1.0) * C
    mean_BTC = jnp.einsum("btx,bxc->btc", path_BTX, mean_BXC)
    away_BT = jnp.sum(jnp.square(tokens_BTC - mean_BTC), axis=-1)
    prior = 0.5 * (jnp.sum(away_BT * real_BT) / count + alignment.LOG_2PI)

    xt_BTC = interpolate(noise_BTC, tokens_BTC, t_B, config.sigma)
    frames = frames_of(config, frames_B, T, config.padding)
    velocity_BTC = apply("velocity", xt_BTC, mean_BTC, t_B, frames, keys[1])
    target_BTC = tokens_BTC - (1 - config.sigma) * noise_BTC
    error_BT = jnp.sum(jnp.square(velocity_BTC - target_BTC), axis=-1)
    flow = jnp.sum(error_BT * real_BT) / count
    return ({"duration": duration, "prior": prior, "flow": flow},
            {"symbol": symbol_BT, "mean": mean_BTC, "log_durations": logw_BX,
             "mean_of_symbols": mean_BXC, "velocity": velocity_BTC})
