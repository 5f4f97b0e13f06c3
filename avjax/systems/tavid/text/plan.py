"""When every token of a dialogue is spoken: known in training, predicted before decoding. Ours by
choice.

CoVoMix' decoder finds its place in the text by attention alone, which takes long to learn. With a
plan, cross-attention is rotary in time: a frame looks for tokens of its own time. The plan is the
sequence of time steps from token to token, negative where speakers overlap; each is drawn from a
categorical distribution over bins, given all the text.

Suffixes: B batch, N tokens, M bins.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Edges of the bins in frames: half frames where a turn's own tokens are, wider towards long gaps
# and overlaps.
EDGES = np.concatenate([[-1000, -300, -200, -150, -110, -80, -60, -45, -35, -25, -17, -11, -6, -2.5,
                         -0.5],
                        np.arange(0.25, 8, 0.5), [8, 9, 10, 12, 14, 17, 21, 26, 32, 40, 50, 65, 85,
                                                  120, 200, 400, 1500]]
                       ).astype(np.float32)
BINS = len(EDGES) - 1
NOT_A_STEP = 2**30  # folded into an example's key: no decoder step has this number


def token_times(token_speaker_N: np.ndarray, turns_K6: np.ndarray) -> np.ndarray:
    """(N,) float32 frames: the middle of every token, if those of a turn were equally long. A
    turn's tokens are its speaker's within its span, back-channels in it have times of their own.
    Tokens without a speaker share the time of the next that has one, so that a gap is one step."""
    times_N = np.full(len(token_speaker_N), np.nan)
    for speaker, first, last, start, end, _ in sorted(turns_K6.tolist(), key=lambda turn: turn[5]):
        own = first + np.flatnonzero(token_speaker_N[first:last] == speaker)
        times_N[own] = start + (np.arange(len(own)) + 0.5) * (end - start) / max(len(own), 1)
    known = np.flatnonzero(np.isfinite(times_N))
    if not len(known):
        return np.zeros(len(times_N), np.float32)
    following = np.searchsorted(known, np.arange(len(times_N)))
    return times_N[known[np.minimum(following, len(known) - 1)]].astype(np.float32)


def steps_of(times_BN):
    """Time steps from token to token, the first from frame 0."""
    return jnp.diff(times_BN, axis=-1, prepend=0.0)


def loss(logits_BNM, times_BN, real_BN):
    """Mean cross-entropy of the steps' bins over real tokens."""
    return jnp.sum(entropy(logits_BNM, times_BN) * real_BN) / jnp.maximum(jnp.sum(real_BN), 1.0)


def entropy(logits_BNM, times_BN):
    """Nats of the step to each token (B, N)."""
    bins_BN = jnp.clip(jnp.searchsorted(jnp.asarray(EDGES), steps_of(times_BN), side="right") - 1,
                       0, BINS - 1)
    picked_BN = jnp.take_along_axis(jax.nn.log_softmax(logits_BNM), bins_BN[..., None],
                                    axis=-1)[..., 0]
    return -picked_BN


def sample(logits_BNM, real_BN, keys, temperature: float, known_BN=None, count_B=0, first_B=0):
    """Times (B, N) in frames. A token's noise depends on its place and the example's key alone.

    Args:
      known_BN: times that are known, of the first `count_B` tokens.
      first_B: no other token is before this frame.
    """
    def noise(key):
        key = jax.random.fold_in(key, NOT_A_STEP)
        return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (BINS + 1,),
                                                     minval=1e-7))(
            jnp.arange(logits_BNM.shape[1]))

    uniform = jax.vmap(noise)(keys)
    bins_BN = jnp.argmax(logits_BNM / temperature - jnp.log(-jnp.log(uniform[..., :BINS])), axis=-1)
    low_BN, high_BN = (jnp.asarray(edge)[bins_BN] for edge in (EDGES[:-1], EDGES[1:]))
    steps_BN = jnp.where(real_BN, low_BN + uniform[..., BINS] * (high_BN - low_BN), 0.0)

    known_BN = jnp.zeros(steps_BN.shape) if known_BN is None else known_BN
    is_known_BN = jnp.arange(steps_BN.shape[1]) < jnp.reshape(count_B, (-1, 1))
    is_known_BN = jnp.broadcast_to(is_known_BN, steps_BN.shape)

    def add(time_B, inputs):
        step_B, known_B, is_known_B = inputs
        time_B = jnp.where(is_known_B, known_B, jnp.maximum(time_B + step_B, first_B))
        return time_B, time_B

    inputs = (steps_BN.T, known_BN.T, is_known_BN.T)
    return jnp.moveaxis(jax.lax.scan(add, jnp.zeros(len(keys)), inputs)[1], 0, 1)
