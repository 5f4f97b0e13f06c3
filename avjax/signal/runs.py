"""Stretches of frames of which something is true."""

import numpy as np


def intervals(active_N: np.ndarray) -> np.ndarray:
    """(K, 2) half-open runs of True."""
    edges = np.flatnonzero(np.diff(np.pad(np.asarray(active_N, bool).astype(np.int8), 1)))
    return edges.reshape(-1, 2)
