"""How published arrays are laid out, and ours: pairs (to ours, to theirs) for name tables (see
avjax.weights.names), and the order of rotary channels."""

import numpy as np


def _same(w):
    return w


def _transpose(w):
    return w.T


def _conv_in(w):
    return np.transpose(w, (2, 3, 1, 0))


def _conv_out(k):
    return np.transpose(k, (3, 2, 0, 1))


def _point_in(w):
    return w[:, :, 0, 0].T


def _point_out(k):
    return k.T[:, :, None, None]


as_is = (_same, _same)
transposed = (_transpose, _transpose)  # Linear (out, in) <-> (in, out)
conv = (_conv_in, _conv_out)  # (out, in, k, k) <-> (k, k, in, out)
pointwise = (_point_in, _point_out)  # 1x1 convolution (out, in, 1, 1) <-> (in, out)


def halves_from_adjacent(width: int) -> np.ndarray:
    """Channel order that turns adjacent pairs into halves: x_halves = x_adjacent[..., order]."""
    return np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])
