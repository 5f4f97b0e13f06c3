"""Convolution by points against the plain sum."""

import jax
import numpy as np
import pytest

from avjax.nn import toom_cook


@pytest.mark.parametrize("taps, dilation, length",
                         [(3, 1, 4), (3, 5, 41), (7, 1, 1), (7, 3, 24), (11, 1, 50), (11, 5, 7)])
def test_the_convolution_is_the_plain_sum(taps, dilation, length):
    rng = np.random.default_rng(taps * dilation)
    x_BTC = rng.standard_normal((2, length, 3)).astype(np.float32)
    kernel_KCO = rng.standard_normal((taps, 3, 5)).astype(np.float32)
    reach = dilation * (taps // 2)
    padded = np.pad(x_BTC.astype(np.float64), ((0, 0), (reach, reach), (0, 0)))
    plain = sum(padded[:, k * dilation:k * dilation + length] @ kernel_KCO[k] for k in range(taps))
    points = toom_cook.evaluate(kernel_KCO)
    assert points.shape == ((6, 1, 3, 5) if taps == 3 else (7, (taps + 1) // 4, 3, 5))
    convolve = jax.jit(toom_cook.convolve, static_argnums=(2, 3))
    np.testing.assert_allclose(convolve(x_BTC, points, dilation, 0), plain,
                               atol=1e-5 * np.abs(plain).max())
    wide = np.pad(x_BTC, ((0, 0), (6, 6), (0, 0)))
    np.testing.assert_allclose(convolve(x_BTC, points, dilation, 6),
                               convolve(wide, points, dilation, 0), atol=1e-5 * np.abs(plain).max())


def test_which_kernels_it_takes():
    assert [taps for taps in range(1, 13) if toom_cook.takes(taps)] == [3, 7, 11]
