"""Winograd's convolution of pictures against the plain one, whole and in strips."""

import jax
import numpy as np
import pytest

from avjax.codecs.lia_x import layers
from avjax.nn import winograd
from avjax.nn.convolutions import Conv

RNG = np.random.default_rng(0)
PICTURES = RNG.standard_normal((2, 12, 20, 8), np.float32)
KERNEL = RNG.standard_normal((3, 3, 8, 6), np.float32)


@pytest.mark.parametrize("tiles", [1024, 20])
def test_equals_the_plain_convolution(tiles, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", tiles)
    plain = layers.conv(PICTURES, KERNEL)  # too few channels to pay
    made = jax.jit(winograd.convolve)(PICTURES, KERNEL)
    np.testing.assert_allclose(made, plain, atol=3e-5)


def test_gradients_are_the_plain_ones():
    def loss(conv):
        return jax.jit(jax.grad(lambda *args: jax.numpy.sum(jax.numpy.sin(conv(*args))),
                                argnums=(0, 1)))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x = 0.1 * PICTURES
    for ours, reference in zip(loss(winograd.convolve)(x, KERNEL), loss(plain)(x, KERNEL),
                               strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5 * np.abs(reference).max())


def test_where_it_pays():
    assert winograd.takes((1, 64, 64), (3, 3, 512, 256))
    assert winograd.takes((32, 4, 4), (3, 3, 128, 128))
    for size, kernel in (((1, 63, 64), (3, 3, 512, 512)), ((2, 8, 8), (3, 3, 512, 512)),
                         ((1, 64, 64), (3, 3, 512, 64)), ((1, 64, 64), (1, 1, 512, 512))):
        assert not winograd.takes(size, kernel)


def test_picture_layers_use_it_on_a_cpu(monkeypatch):
    conv = Conv(128, 128)
    x = RNG.standard_normal((16, 4, 4, 128), np.float32)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    made = jax.jit(conv.apply)(variables, x)
    monkeypatch.setattr(winograd, "convolve", None)  # would fail
    with pytest.raises(TypeError):
        conv.apply(variables, x)
    monkeypatch.setattr(winograd, "takes", lambda *_: False)
    np.testing.assert_allclose(made, conv.apply(variables, x), atol=1e-5)


def test_layers_use_it_on_a_cpu(monkeypatch):
    called = []
    monkeypatch.setattr(winograd, "takes", lambda size, kernel: called.append(size) or True)
    made = layers.conv(PICTURES, KERNEL)
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    np.testing.assert_allclose(made, layers.conv(PICTURES, KERNEL), atol=3e-5)
    assert called == [(2, 12, 20)]


def test_doubling_in_phases_is_doubling_by_one_kernel():
    whole = layers.interleaved(layers.conv(PICTURES, layers.blurred_twofold(KERNEL)))
    np.testing.assert_allclose(layers.transposed_and_blurred(PICTURES, KERNEL), whole, atol=3e-5)
