"""k-means units of feature frames: k-means++ seeding (Arthur & Vassilvitskii 2007), then Lloyd's iterations.

Suffixes: N frames, D entries, K centroids.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError

MAX_FRAMES = 50_000  # enough for hundreds of centroids; more is drawn down to this with the seed


def fit(x_ND: np.ndarray, units: int, *, seed: int = 0, iterations: int = 30) -> np.ndarray:
    """Centroids (units, D) float32 of frames (N, D); a pure function of its arguments.

    Raises:
      UserError: fewer distinct frames than units.
    """
    x_ND = np.asarray(x_ND, np.float32)
    if len(x_ND) > MAX_FRAMES:
        x_ND = x_ND[np.sort(np.random.default_rng(seed).choice(len(x_ND), MAX_FRAMES, replace=False))]
    distinct = len({row.tobytes() for row in x_ND})
    if distinct < units:
        raise UserError("too few frames for that many units", where="k-means", expected=f"at least {units} distinct",
                        found=f"{distinct} of {len(x_ND)}", way_out="give more speech or fewer units")
    return np.asarray(_fit(jnp.asarray(x_ND), jax.random.key(seed), units, iterations))


def assign(x_ND: np.ndarray, centroids_KD: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid of every frame, (N,) int32."""
    half_norm_K = 0.5 * (centroids_KD**2).sum(1)
    return (half_norm_K - x_ND @ centroids_KD.T).argmin(1).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _fit(x_ND, key, units, iterations):
    norm_N = (x_ND**2).sum(1)

    def squared_distance(centre_D):
        return jnp.maximum(norm_N - 2 * x_ND @ centre_D + centre_D @ centre_D, 0.0)

    first_key, key = jax.random.split(key)
    first_D = x_ND[jax.random.randint(first_key, (), 0, len(x_ND))]

    def seed_one(k, carry):
        centroids_KD, nearest_N = carry
        # The Gumbel trick draws a frame with probability proportional to its squared distance.
        gumbel_N = jax.random.gumbel(jax.random.fold_in(key, k), nearest_N.shape)
        new_D = x_ND[jnp.argmax(jnp.log(jnp.maximum(nearest_N, 1e-30)) + gumbel_N)]
        return centroids_KD.at[k].set(new_D), jnp.minimum(nearest_N, squared_distance(new_D))

    start_KD = jnp.zeros((units, x_ND.shape[1])).at[0].set(first_D)
    centroids_KD, _ = jax.lax.fori_loop(1, units, seed_one, (start_KD, squared_distance(first_D)))

    def lloyd(_, centroids_KD):
        nearest_N = jnp.argmin(0.5 * (centroids_KD**2).sum(1) - x_ND @ centroids_KD.T, axis=1)
        member_NK = jax.nn.one_hot(nearest_N, units, dtype=x_ND.dtype)  # a product is far faster than a scatter here
        count_K, sum_KD = member_NK.sum(0), member_NK.T @ x_ND
        return jnp.where(count_K[:, None] > 0, sum_KD / jnp.maximum(count_K, 1)[:, None], centroids_KD)

    return jax.lax.fori_loop(0, iterations, lloyd, centroids_KD)
