"""Windows that slide over pictures in time, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from avjax.nn import sliding

RNG = np.random.default_rng(0)
PICTURES = RNG.standard_normal((2, 6, 11, 9, 3), np.float32)


@pytest.mark.parametrize(("window", "strides", "padding", "strip"), [
    ((5, 7, 7), (1, 2, 2), "VALID", 1), ((3, 3, 3), (1, 1, 1), "SAME", 500),
    ((3, 2, 4), (2, 2, 2), "SAME", 100), ((1, 3, 3), (1, 3, 1), "VALID", 10**6)])
def test_strips_make_the_plain_convolution(window, strides, padding, strip, monkeypatch):
    """A row a strip, strips that do not divide the picture, all in one."""
    kernel = RNG.standard_normal((*window, 3, 4), np.float32)
    monkeypatch.setattr(sliding, "STRIP", strip)
    made = jax.jit(sliding.convolve, static_argnums=(2, 3))(PICTURES, kernel, strides, padding)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plain = sliding.convolve(PICTURES, kernel, strides, padding)
    np.testing.assert_allclose(made, plain, atol=1e-6 * np.abs(plain).max())


@pytest.mark.parametrize(("window", "strides", "padding"), [
    ((1, 3, 3), (1, 2, 2), "SAME"), ((3, 3, 3), (1, 1, 1), "SAME"), ((2, 2, 1), (2, 2, 2), "VALID"),
    ((3, 3, 3), (2, 1, 3), [(1, 1), (0, 2), (1, 0)])])
def test_the_largest_of_each_axis_is_the_largest_of_all(window, strides, padding):
    whole = padding if isinstance(padding, str) else [(0, 0), *padding, (0, 0)]
    np.testing.assert_array_equal(
        sliding.largest(PICTURES, window, strides, padding),
        lax.reduce_window(PICTURES, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), whole))
