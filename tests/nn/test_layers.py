"""Hand-written backward passes against automatic ones; rotary layouts against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from avjax.nn.embeddings import rotary_tables, rotate
from avjax.nn.layers import Dense, SwiGLU, adaptive_norm, gated_matmul, gelu, matmul, swiglu
from avjax.weights.layouts import halves_from_adjacent


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def both_ways(f, dy, *args):
    """(f(*args), *gradients of its product with dy), of one program."""
    @jax.jit
    def run(dy, *args):
        y, pull = jax.vjp(f, *args)
        return y, *pull(dy)

    return run(dy, *args)


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-6, 6, 101)
    exact, approximate = (functools.partial(jax.nn.gelu, approximate=a) for a in (False, True))
    (ours, slope), (theirs, automatic) = (jax.jit(jax.vmap(jax.value_and_grad(f)))(x)
                                          for f in (gelu, exact))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(ours - jax.jit(approximate)(x)).max() > 1e-4
    np.testing.assert_allclose(slope, automatic, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_adaptive_norm_and_its_gradient(batch):
    x, beta, gamma, dy = normal(0, 3, 5, 8), normal(1, batch, 1,
                                                    8), normal(2, batch, 1, 8), normal(3, 3, 5, 8)

    def plain(x, beta, gamma):
        return jax.nn.standardize(x, epsilon=1e-6) * (1 + gamma) + beta

    out, *grads = both_ways(lambda *a: adaptive_norm(*a, 1e-6), dy, x, beta, gamma)
    reference, *reference_grads = both_ways(plain, dy, x, beta, gamma)
    np.testing.assert_allclose(out, reference, atol=1e-6)
    for ours, theirs in zip(grads, reference_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_adaptive_norms_gradient_in_bfloat16_is_that_of_float32_rounded_once():
    """A large common part of dy cancels in the mean, which therefore has to be one of float32."""
    x, beta, gamma, noise = normal(0, 2, 5,
                                   64), jnp.zeros((2, 1,
                                                   64)), jnp.zeros((2, 1, 64)), normal(3, 2, 5, 64)
    x, beta, gamma, dy = (a.astype(jnp.bfloat16) for a in (x, beta, gamma, 8 + noise))
    pulled = jax.jit(lambda dy, *a: jax.vjp(adaptive_norm, *a)[1](dy))
    exact = pulled(*(a.astype(jnp.float32) for a in (dy, x, beta, gamma)))
    for ours, theirs in zip(pulled(dy, x, beta, gamma), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-8, atol=1e-5)


def test_matmul_gradient():
    x, kernel, dy = (np.asarray(a, np.float64) for a in (normal(0, 2, 3, 4), normal(1, 4, 5),
                                                         normal(2, 2, 3, 5)))
    _, dx, dkernel = both_ways(matmul, *(a.astype(np.float32) for a in (dy, x, kernel)))
    np.testing.assert_allclose(dx, dy @ kernel.T, atol=1e-5)
    np.testing.assert_allclose(dkernel, np.einsum("bti,bto->io", x, dy), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_over_several_axes_and_their_gradients(dtype):
    """In 16 bits the axes stay; of small integers every sum is exact."""
    rng = np.random.default_rng(0)
    x, kernel, dy = (rng.integers(-2, 3, shape).astype(np.float32) for shape in
                     ((2, 3, 4, 2), (4, 2, 5, 3), (2, 3, 5, 3)))
    y, dx, dkernel = both_ways(lambda x, kernel: matmul(x, kernel, 2),
                               *(a.astype(dtype) for a in (dy, x, kernel)))
    for got, want in ((y, np.einsum("abhk,hkcd->abcd", x, kernel)),
                      (dx, np.einsum("abcd,hkcd->abhk", dy, kernel)),
                      (dkernel, np.einsum("abhk,abcd->hkcd", x, dy))):
        assert got.dtype == dtype
        np.testing.assert_array_equal(np.float32(got), want)


def test_dense_takes_heads():
    dense, x = Dense((2, 3), 8), normal(0, 5, 4, 2)
    params = jax.jit(dense.init)(jax.random.key(1), x.reshape(5, 8))
    np.testing.assert_allclose(dense.apply(params, x, heads=4),
                               dense.apply(params, x.reshape(5, 8)), atol=1e-6)


def test_dense_rows_add_up():
    dense = Dense((2, 3), 7)
    x = normal(0, 4, 7)
    params = jax.jit(dense.init)(jax.random.key(1), x)
    assert params["params"]["kernel"].shape == (7, 2, 3)
    parts = (dense.apply(params, x[:, :4], rows=slice(0, 4), bias=False)
             + dense.apply(params, x[:, 4:], rows=slice(4, None)))
    np.testing.assert_allclose(parts, dense.apply(params, x), atol=1e-6)


def test_rotary_layouts_give_the_same_scores_and_depend_on_distance_only():
    q, k = normal(0, 1, 1, 6, 16), normal(1, 1, 1, 6, 16)
    order = halves_from_adjacent(16)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def scores(first, pairs, reorder):
        tables = rotary_tables(first + jnp.arange(6), 16)
        a, b = (rotate(x[..., order] if reorder else x, *tables, pairs) for x in (q, k))
        return jnp.einsum("bhqk,bhsk->bhqs", a, b)

    adjacent = scores(0, "adjacent", False)
    np.testing.assert_allclose(scores(0, "halves", True), adjacent, atol=1e-5)
    np.testing.assert_allclose(scores(100, "adjacent", False), adjacent, atol=1e-4)
    assert np.abs(scores(0, "halves", False) - adjacent).max() > 1e-2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rotation_through_a_product_is_the_same(dtype):
    x, tables = normal(0, 2, 3, 6, 16).astype(dtype), rotary_tables(jnp.arange(6), 16)
    got, want = (np.float32(rotate(x, *tables, pairs)) for pairs in ("product", "halves"))
    np.testing.assert_allclose(got, want, atol=1e-6 if dtype == jnp.float32 else 0.02)


def test_swiglu_is_the_same_of_many_tokens_and_of_few():
    """Many: gate and value as two products, also in the gradient."""
    net, x = SwiGLU(width=8, hidden=5), normal(0, 12, 8)
    params = net.init(jax.random.key(1), x)

    def loss(params, x):
        return jnp.sum(jnp.sin(net.apply(params, x)))

    def in_parts(params, x):
        return loss(params, x[:6]) + loss(params, x[6:])

    many, few = (jax.jit(jax.value_and_grad(f, (0, 1)))(params, x) for f in (loss, in_parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), many, few)


def test_gated_product_and_its_gradient():
    pair, kernel, dy = (normal(0, 2, 3, 6), normal(1, 2, 3, 6)), normal(2, 6, 4), normal(3, 2, 3, 4)
    ours = both_ways(lambda *x: gated_matmul(swiglu, *x), dy, pair, kernel)
    plain = both_ways(lambda pair, kernel: jax.nn.silu(pair[0]) * pair[1] @ kernel, dy, pair,
                      kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, plain)


def test_swiglu_of_16_bits_is_that_of_float32_rounded():
    x, dy = (normal(i, 2, 5, 16).astype(jnp.bfloat16) for i in range(2))
    params = jax.jit(SwiGLU(width=16, hidden=24).init)(jax.random.key(1), np.float32(x))
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        net = SwiGLU(width=16, hidden=24, dtype=dtype)

        found.append(jax.tree.map(np.float32, both_ways(net.apply, dy.astype(dtype), params,
                                                        x.astype(dtype))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2**-6 * np.abs(b).max()),
                 found[1], found[0])


def test_parameters_of_another_shape_are_refused():
    x, dense = np.ones((2, 3), np.float32), Dense(4, 3)
    params = {"kernel": np.ones((3, 4), np.float32), "bias": np.ones(4, np.float32)}
    np.testing.assert_array_equal(dense.apply({"params": params}, x), np.full((2, 4), 4.0))
    for name, shape in (("kernel", (3, 5)), ("bias", (1,))):
        with pytest.raises(ScopeParamShapeError, match=name):
            dense.apply({"params": params | {name: np.ones(shape, np.float32)}}, x)
