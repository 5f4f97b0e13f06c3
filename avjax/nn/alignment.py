"""How likely the frames of packed rows are to spell their utterance's labels in order, each label
for one frame or more, summed over all alignments: the forward sum of a left-to-right HMM without
transition costs, as aligners of speech synthesis use it (Shih et al. 2021, RAD-TTS; Badlani et al.
2022). Unlike CTC it has no blank, so every frame says something, from the first step of training.

The gradient is the posterior of every label at every frame, of forward and backward probabilities
that one scan computes side by side; a CPU takes several times as long for the scan's own
derivative.

Suffixes: B rows, F frames, N positions of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NEVER = -1e30  # the logarithm of zero, finite so that sums of it are


class Labels(NamedTuple):
    """Where the labels of a row's utterances are, each array (B, N).

    segment: utterance of each position, from 1; 0 = padding. spelled: the positions of labels,
    those of an utterance one after the other.
    """

    segment: jax.Array
    spelled: jax.Array


@jax.custom_vjp
def forward_sum(label_BFN, frame_BF, labels: Labels):
    """Negative log-likelihood of the labels given the frames -> (its sum, number of frames),
    float32 scalars.

    Args:
      label_BFN: log-probability that a frame spells the label of a position, float32. The gradient
        is its alone.
      frame_BF: utterance of each frame, in the order of the positions' segments; 0 = none.
      labels: see `Labels`. An utterance of more labels than frames counts nothing.
    """
    return _forward(label_BFN, frame_BF, labels)[0]


def _forward(label_BFN, frame_BF, labels):
    seen_BF = jax.lax.cummax(frame_BF, axis=1)
    begins_BF = (frame_BF > 0) & (frame_BF > _right(seen_BF, 0))
    left_BF = jax.lax.cummin(jnp.where(frame_BF > 0, frame_BF, label_BFN.shape[-1] + 1), axis=1,
                             reverse=True)
    ends_BF = (frame_BF > 0) & (frame_BF != jnp.pad(left_BF, ((0, 0), (0, 1)))[:, 1:])

    def both(x, backward=None):
        """Rows, and the same from the end to the beginning."""
        return jnp.concatenate([x, _flip(x if backward is None else backward)])

    ahead_BFN, back_BFN = jnp.split(_paths(both(label_BFN), both(frame_BF),
                                           both(begins_BF, ends_BF),
                                           Labels(*map(both, labels))), 2)
    paths_BFN = label_BFN + ahead_BFN + _flip(back_BFN)
    total_BF = jax.nn.logsumexp(paths_BFN, axis=-1)
    possible_BF = (frame_BF > 0) & (total_BF > NEVER / 2)
    posterior_BFN = jnp.where(possible_BF[..., None], jnp.exp(paths_BFN - total_BF[..., None]), 0.0)
    loss = -jnp.sum(jnp.where(ends_BF & possible_BF, total_BF, 0.0))
    return (loss, jnp.sum(possible_BF, dtype=jnp.float32)), posterior_BFN


def _backward(posterior_BFN, out):
    return -out[0] * posterior_BFN, None, None


forward_sum.defvjp(_forward, _backward)


def _paths(label_BFN, frame_BF, begins_BF, labels: Labels):
    """Log-probability of the paths that come to the label of each position at each frame, without
    what that frame spells: (B, F, N)."""
    text, segment = labels.spelled, labels.segment
    first = jnp.where(text & ~_right(text, False), 0.0, NEVER)

    def step(before_BN, now):
        label_BN, frame_B, begins_B = now
        last_BN = _right(before_BN, NEVER)
        most_BN = jnp.maximum(before_BN, last_BN)
        # jnp.logaddexp takes a CPU several times as long
        come_BN = most_BN + jnp.log(jnp.exp(before_BN - most_BN) + jnp.exp(last_BN - most_BN))
        come_BN = jnp.where(begins_B[:, None], first, come_BN)
        come_BN = jnp.where(text & (segment == frame_B[:, None]), come_BN, NEVER)
        after_BN = jnp.where(frame_B[:, None] > 0, jnp.maximum(come_BN + label_BN, NEVER),
                             before_BN)
        return after_BN, come_BN

    nothing = jnp.full(text.shape, NEVER)
    over_frames = (jnp.moveaxis(x, 1, 0) for x in (label_BFN, frame_BF, begins_BF))
    return jnp.moveaxis(jax.lax.scan(step, nothing, tuple(over_frames))[1], 0, 1)


def _right(x, fill):
    """The last axis moved by one."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((1, 0),), constant_values=fill)[..., :-1]


def _flip(x):
    return jnp.flip(x, axis=range(1, x.ndim))
