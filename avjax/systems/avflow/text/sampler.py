"""Symbols to tokens: durations, then the flow by Euler steps.

Suffixes: B batch, X symbols, T frames, C token width.
"""

import jax.numpy as jnp

from avjax.flow.solvers import euler
from avjax.systems.avflow.text import alignment
from avjax.systems.avflow.text.model import frames_of, real


def encode(net, params, config, symbols_BX, length_B):
    """(mean (B, X, C), durations (B, X) in frames, which need not be whole, frames (B,) int32 of
    the answer, one at least)."""
    real_BX = real(length_B, symbols_BX.shape[1])
    mean_BXC, logw_BX = net.apply({"params": params}, symbols_BX, real_BX, method="encode")
    whole_BX = jnp.clip(jnp.ceil(jnp.exp(logw_BX)), 0, config.longest_symbol) * real_BX
    durations_BX = whole_BX * config.length_scale
    frames_B = jnp.maximum(jnp.floor(jnp.sum(durations_BX, axis=1)), 1).astype(jnp.int32)
    return mean_BXC, durations_BX, frames_B


def decode(net, params, config, mean_BXC, durations_BX, frames_B, noise_BTC, padding="alone"):
    """Raw tokens (B, T, C) of T = the noise's frames, zeros after `frames_B`; `noise` is unit
    normal, `padding` as config.padding."""
    T = noise_BTC.shape[1]
    real_BT = real(frames_B, T)
    symbol_BT = alignment.symbols_of_frames(durations_BX, T)
    path_BTX = alignment.one_hot(symbol_BT, mean_BXC.shape[1], real_BT)
    mean_BTC = jnp.einsum("btx,bxc->btc", path_BTX, mean_BXC)
    frames = frames_of(config, frames_B, T, padding)

    def velocity(x_BTC, t, _):
        return net.apply({"params": params}, x_BTC, mean_BTC, jnp.full(frames_B.shape, t), frames,
                         method="velocity")

    x_BTC = euler(velocity, config.temperature * noise_BTC, config.euler_steps)
    return (x_BTC * config.std + config.mean) * real_BT[..., None]
