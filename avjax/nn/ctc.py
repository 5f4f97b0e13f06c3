"""Connectionist temporal classification (Graves et al. 2006) over packed rows: how likely frames
are to spell their utterance's labels in order, summed over all alignments.

The gradient is the posterior of every label at every frame (their eq. 16), of forward and backward
probabilities that one scan computes side by side. Steps are short, so a CPU takes longer for the
scan's own derivative, for several of them at once (`unroll`), and for jnp.logaddexp: 55 ms of it
instead of 6 for a row of 768 frames and 352 positions.

Suffixes: B rows, F frames, N positions of a row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

NEVER = -1e30  # the logarithm of zero, finite so that sums of it are


class Labels(NamedTuple):
    """What the utterances of rows spell, each array (B, N).

    ids: of the labels. segment: utterance of each position, from 1; 0 = padding. first: the
    positions just before an utterance's labels. spelled: those of labels, which follow at once.
    Behind the last label there must be one more position of its utterance.
    """

    ids: jax.Array
    segment: jax.Array
    first: jax.Array
    spelled: jax.Array


@jax.custom_vjp
def packed_ctc(label_BFN, blank_BF, frame_BF, labels: Labels):
    """Negative log-likelihood of the labels given the frames -> (its sum, number of labels),
    float32 scalars.

    Args:
      label_BFN, blank_BF: log-probability that a frame spells the label of a position, or nothing;
        float32. The gradient is theirs alone.
      frame_BF: utterance of each frame, in the order of the positions' segments; 0 = none.
      labels: see `Labels`. An utterance with more labels than its frames can spell counts nothing.
    """
    return _forward(label_BFN, blank_BF, frame_BF, labels)[0]


def _forward(label_BFN, blank_BF, frame_BF, labels):
    text, segment = labels.spelled, labels.segment
    # its blank is the one behind the last label
    closes = _right(text, False) & ~text & (segment > 0)
    earlier_BF = _right(jax.lax.cummax(frame_BF, axis=1), 0)
    begins_BF = (frame_BF > 0) & (frame_BF > earlier_BF)
    later_BF = jax.lax.cummin(jnp.where(frame_BF > 0, frame_BF, segment.shape[1] + 1), axis=1,
                              reverse=True)
    ends_BF = (frame_BF > 0) & (frame_BF != jnp.pad(later_BF, ((0, 0), (0, 1)))[:, 1:])

    def both(x, backward=None):
        """Rows, and the same from the end to the beginning."""
        return jnp.concatenate([x, _flip(x if backward is None else backward)])

    label, blank = _paths(both(label_BFN), both(blank_BF), both(frame_BF),
                          both(begins_BF, ends_BF),
                          Labels(both(labels.ids), both(segment), both(labels.first, closes),
                                 both(text)))
    (label, label_back), (blank, blank_back) = (jnp.split(jnp.moveaxis(x, 0, 1), 2)
                                                for x in (label, blank))
    label_BFN += label + _flip(label_back)
    # from the end, the blank after a label
    blank_BFN = blank_BF[..., None] + blank + _right(_flip(blank_back), NEVER)
    total_BF = jax.nn.logsumexp(jnp.concatenate([label_BFN, blank_BFN], axis=-1), axis=-1)
    possible_BF = (frame_BF > 0) & (total_BF > NEVER / 2)
    counted_BF = ends_BF & possible_BF
    labels_BF = jnp.sum(text[:, None] & (segment[:, None] == frame_BF[..., None]), axis=-1)
    out = (-jnp.sum(jnp.where(counted_BF, total_BF, 0.0)),
           jnp.sum(jnp.where(counted_BF, labels_BF, 0)).astype(jnp.float32))
    label_BFN = jnp.where(possible_BF[..., None], jnp.exp(label_BFN - total_BF[..., None]), 0.0)
    return out, (label_BFN, jnp.where(possible_BF, 1 - jnp.sum(label_BFN, axis=-1), 0.0))


def _backward(posterior, out):
    return *(-out[0] * x for x in posterior), None, None


packed_ctc.defvjp(_forward, _backward)


def _paths(label_BFN, blank_BF, frame_BF, begins_BF, labels: Labels):
    """Log-probability of the paths that come to the label of each position, and to the blank
    before it, at each frame, without what that frame spells: two (F, B, N)."""
    text, segment = labels.spelled, labels.segment
    # a label follows its like only over a blank
    skips = text & ((labels.ids != _right(labels.ids, -1)) | _right(labels.first, False))
    blanks = text | _right(text, False) & (segment > 0)
    fresh = jnp.where(labels.first, 0.0, NEVER)

    def step(before, now):
        label_BN, blank_B, frame_B, begins_B = now
        old_label = jnp.where(begins_B[:, None], fresh, before[0])
        old_blank = jnp.where(begins_B[:, None], NEVER, before[1])
        left = _right(old_label, NEVER)
        here = segment == frame_B[:, None]
        blank = jnp.where(here & blanks, _sum(old_blank, left), NEVER)
        label = _sum(old_label, old_blank, jnp.where(skips, left, NEVER))
        label = jnp.where(here & text, label, NEVER)
        there = frame_B[:, None] > 0
        after = (jnp.where(there, jnp.maximum(label + label_BN, NEVER), before[0]),
                 jnp.where(there, jnp.maximum(blank + blank_B[:, None], NEVER), before[1]))
        return after, (label, blank)

    nothing = jnp.full(text.shape, NEVER)
    return jax.lax.scan(step, (nothing, nothing),
                        tuple(jnp.moveaxis(x, 1, 0) for x in (label_BFN, blank_BF, frame_BF,
                                                              begins_BF)))[1]


def _sum(*x):
    """The logarithm of the sum of what these are logarithms of."""
    most = functools.reduce(jnp.maximum, x)
    return most + jnp.log(sum(jnp.exp(one - most) for one in x))


def _right(x, fill):
    """The last axis moved by one."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((1, 0),), constant_values=fill)[..., :-1]


def _flip(x):
    return jnp.flip(x, axis=range(1, x.ndim))
