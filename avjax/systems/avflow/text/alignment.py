"""Monotonic alignment of symbols and frames, on the device: the search of training (Glow-TTS, Kim
et al. 2020, algorithm 1) and the expansion by durations of sampling.

Every frame belongs to one symbol, in order, each symbol has a frame at least. The search is a scan
over frames forward, all examples and symbols at once, and one back.
Suffixes: B batch, X symbols, Y frames, C token width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NEVER = -1e9  # score of a way that does not exist, as published
LOG_2PI = float(np.log(2 * np.pi))


def log_prior(mean_BXC, tokens_BYC):
    """log N(tokens; mean, 1) of every pair of symbol and frame, (B, Y, X) float32."""
    mean_BXC, tokens_BYC = mean_BXC.astype(jnp.float32), tokens_BYC.astype(jnp.float32)
    cross_BYX = jnp.einsum("byc,bxc->byx", tokens_BYC, mean_BXC)
    squares_BYX = (jnp.sum(jnp.square(tokens_BYC), -1)[:, :, None]
                   + jnp.sum(jnp.square(mean_BXC), -1)[:, None])
    return cross_BYX - 0.5 * (squares_BYX + tokens_BYC.shape[-1] * LOG_2PI)


def search(score_BYX, symbols_B, frames_B):
    """The symbol of each frame, (B, Y) int32, on the way of the greatest sum of scores.

    On a tie the way stays with its symbol (seen from the end). Sums are float32, in the order of
    time, so that ties and near ties fall as in the published search.

    Args:
      score_BYX: scores; those outside the lengths are not looked at.
      symbols_B, frames_B: lengths, symbols_B <= frames_B. Frames after the last get its symbol.
    """
    B, Y, X = score_BYX.shape
    symbol_X = jnp.arange(X)

    def forward(best_BX, inputs):
        y, score_BX = inputs
        # symbol 0 is entered before the first frame only
        entry_B1 = jnp.full((B, 1), jnp.where(y == 0, 0.0, NEVER), jnp.float32)
        before_BX = jnp.concatenate([entry_B1, best_BX[:, :-1]], axis=1)
        moved_BX = (best_BX < before_BX) | (symbol_X == y)
        best_BX = jnp.where(symbol_X == y, NEVER, best_BX)
        reached_BX = jnp.maximum(best_BX, before_BX) + score_BX
        return jnp.where(symbol_X <= y, reached_BX, NEVER), moved_BX

    # the score of a way is NEVER until its symbol can be reached
    start_BX = jnp.full((B, X), NEVER, jnp.float32)
    score_YBX = jnp.swapaxes(score_BYX.astype(jnp.float32), 0, 1)
    _, moved_YBX = lax.scan(forward, start_BX, (jnp.arange(Y), score_YBX))

    def back(at_B, inputs):
        y, moved_BX = inputs
        moved_B = jnp.take_along_axis(moved_BX, at_B[:, None], axis=1)[:, 0]
        return at_B - (moved_B & (at_B > 0) & (y < frames_B)), at_B

    return jnp.swapaxes(lax.scan(back, symbols_B - 1, (jnp.arange(Y), moved_YBX),
                                 reverse=True)[1], 0, 1)


def one_hot(symbol_BY, count: int, real_BY):
    """(B, Y, X) float32: 1 where a real frame is of a symbol."""
    return jax.nn.one_hot(symbol_BY, count, dtype=jnp.float32) * real_BY[..., None]


def symbols_of_frames(durations_BX, frames: int):
    """The symbol of each of so many frames, (B, Y) int32, for durations that need not be whole:
    frame y is of the first symbol whose end is after y."""
    ends_BX = jnp.cumsum(durations_BX, axis=1)
    return jnp.sum(ends_BX[:, None] <= jnp.arange(frames)[:, None], axis=-1, dtype=jnp.int32)
