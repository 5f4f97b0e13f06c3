"""Pairs (to ours, to theirs) for the name tables of picture networks; see avjax.weights.names."""

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
