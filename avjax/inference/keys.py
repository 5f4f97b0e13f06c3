"""Whose noise is whose: a key an example, from the seed and the example's name alone."""

import zlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np


def example_keys(seed: int, names: Iterable[str]) -> jax.Array:
    """(batch,) typed keys, fold_in(key(seed), crc32(name)): whatever the task, the batch and the
    command, the same name and seed give the same noise."""
    checksums = np.array([zlib.crc32(name.encode()) for name in names], np.uint32)
    return jax.vmap(lambda c: jax.random.fold_in(jax.random.key(seed), c))(jnp.asarray(checksums))
