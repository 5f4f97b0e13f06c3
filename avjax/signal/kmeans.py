"""k-means units of feature frames: fitting in memory, assignment, published centroids. Fitting in a
stream, for more frames than fit in memory and on many devices, is kmeans_stream.py; `fit` is the
same algorithm.

Suffixes: N frames, D entries, K centroids.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.signal import kmeans_stream
from avjax.signal.kmeans_stream import TABLE
from avjax.weights.reader import read_checkpoint


def fit(x_ND: np.ndarray, units: int, *, seed: int = 0, iterations: int = 30) -> np.ndarray:
    """Centroids (units, D) float32 of frames (N, D) in memory, or of as many of them as the
    reservoir holds; a pure function of its arguments.

    Raises:
      UserError: fewer distinct frames than units.
    """
    return kmeans_stream.fit(lambda: [x_ND], units, seed=seed, iterations=iterations, passes=0)


def assign(x_ND: np.ndarray, centroids_KD: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid of every frame, (N,) int32; the first of equally near ones."""
    half_norm_K = 0.5 * np.square(centroids_KD).sum(1)
    rows = max(1, TABLE // len(centroids_KD))
    nearest = [(half_norm_K - x_ND[i:i + rows] @ centroids_KD.T).argmin(1)
               for i in range(0, len(x_ND), rows)]
    return np.concatenate([np.zeros(0, np.int32), *nearest]).astype(np.int32)


def nearest(x_ND: jax.Array, centroids_KD: jax.Array) -> jax.Array:
    """`assign` inside a jitted function, TABLE distances at a time."""
    n = len(x_ND)
    rows = max(1, TABLE // len(centroids_KD))
    if n <= rows:
        return kmeans_stream.half_distances(x_ND, centroids_KD).argmin(1).astype(jnp.int32)
    chunks = -(-n // rows)
    size = -(-n // chunks)
    x_ND = jnp.pad(x_ND, ((0, chunks * size - n), (0, 0))).reshape(chunks, size, -1)
    return jax.lax.map(lambda x_RD: nearest(x_RD, centroids_KD), x_ND).reshape(-1)[:n]


def read_centroids(path: str, width: int | None = None) -> np.ndarray:
    """Published centroids, (K, D) float32, e.g. `kmeans_10k.npy`. Nothing in the file is executed.

    Raises:
      UserError: unreadable, not one table of finite numbers, or not `width` wide.
    """
    tree = read_checkpoint(path)
    arrays = list(tree.values()) if isinstance(tree, dict) else [tree]
    table = arrays[0] if len(arrays) == 1 else None
    if not isinstance(table,
                      np.ndarray) or table.ndim != 2 or table.dtype.kind != "f" or not np.isfinite(
                          table).all():
        raise UserError("not a table of centroids", where=str(path),
                        expected="one array (units, width) of finite numbers",
                        found=f"{table.dtype} {table.shape}" if isinstance(table, np.ndarray)
                        else f"{len(arrays)} arrays",
                        hint="give the .npy file that holds the centroids")
    check_width(table, width, str(path))
    return np.ascontiguousarray(table, np.float32)


def check_width(centroids_KD: np.ndarray, width: int | None, where: str) -> None:
    """UserError unless the centroids are `width` wide (None = any width)."""
    if width is not None and centroids_KD.shape[1] != width:
        raise UserError("centroids of another width", where=where,
                        expected=f"(units, {width}), the encoder's width",
                        found=str(centroids_KD.shape), hint="use the centroids that were made for "
                                                            "this encoder")
