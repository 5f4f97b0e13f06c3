import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from avjax.sharding.mesh import make_mesh
from avjax.training.flops import barriers, count_flops, live_jaxpr, without_remat

N, D, LAYERS = 16, 32, 8
DOT = 2 * N * D * D
X = jax.ShapeDtypeStruct((N, D), jnp.float32)
W = jax.ShapeDtypeStruct((LAYERS, D, D), jnp.float32)


def scanned(x, w):
    return jax.lax.scan(lambda c, k: (jnp.tanh(c @ k), None), x, w)[0].sum()


def test_scan_of_eight_layers_is_exact():
    assert count_flops(scanned, X, W) == LAYERS * DOT
    assert count_flops(jax.jit(scanned), X, W) == LAYERS * DOT
    assert count_flops(jax.grad(scanned, argnums=(0, 1)), X, W) == 3 * LAYERS * DOT


def test_remat_counts_the_recomputation():
    def layer(c, k):
        return jnp.tanh(jnp.tanh(c @ k) @ k)

    def plain(x, w):
        return jax.lax.scan(lambda c, k: (layer(c, k), None), x, w)[0].sum()

    def remat(x, w):
        return jax.lax.scan(lambda c, k: (jax.checkpoint(layer)(c, k), None), x, w)[0].sum()

    assert count_flops(jax.grad(plain, argnums=(0, 1)), X, W) == (2 + 4) * LAYERS * DOT
    assert count_flops(jax.grad(remat, argnums=(0, 1)), X, W) == (2 + 2 + 4) * LAYERS * DOT


def test_a_models_flops_are_those_without_remat():
    """Of every system that has the field: the same as of the config with remat off; None where it
    is off anyway."""
    config = ConfigDict(dict(remat="dots", unet=dict(remat="layers", wide=3),
                             parts=dict(text=dict(remat=True))))
    plain = without_remat(FrozenConfigDict(config)).to_dict()
    assert plain == dict(remat="none", unet=dict(remat="none", wide=3),
                         parts=dict(text=dict(remat=False)))
    assert without_remat(ConfigDict(plain)) is None and without_remat(None) is None


def test_barriers_are_counted_where_nothing_else_keeps_what_is_recomputed_apart():
    def layer(c, k):
        return jnp.tanh(jnp.tanh(c @ k) @ k)

    def apart(x, w):
        return sum(jax.checkpoint(layer)(x, w[i]).sum() for i in range(2))

    def scanned(x, w):
        again = jax.checkpoint(layer, prevent_cse=False)
        return jax.lax.scan(lambda c, k: (again(c, k), None), x, w)[0].sum()

    assert [barriers(live_jaxpr(jax.grad(f), X, W)) for f in (apart, scanned)] == [2, 0]


def test_loops_with_constant_trip_count():
    def body(i, c):
        return c @ c.T @ c

    once = 2 * (N * N * D) * 2
    assert count_flops(lambda x: jax.lax.fori_loop(2, 7, body, x), X) == 5 * once

    def loop(x):
        return jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, body(0, c[1])), (0, x))

    assert count_flops(loop, X) == 5 * once

    def unknown(x, n):
        return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, body(0, c[1])), (0, x))

    assert count_flops(unknown, X, 5) == once


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(groups):
    x, k = jax.ShapeDtypeStruct((2, 50, 8),
                                jnp.float32), jax.ShapeDtypeStruct((3, 8 // groups, 12),
                                                                   jnp.float32)
    flops = count_flops(lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups), x,
                        k)
    assert flops == 2 * (2 * 50 * 12) * 3 * (8 // groups)


def test_custom_derivative_cond_and_batched_product():
    @jax.custom_vjp
    def f(x, k):
        return x @ k

    f.defvjp(lambda x, k: (f(x, k), (x, k)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    k = jax.ShapeDtypeStruct((D, D), jnp.float32)
    assert count_flops(jax.value_and_grad(lambda x, k: f(x, k).sum(), argnums=(0, 1)), X,
                       k) == 3 * DOT
    # a frozen kernel's gradient is dead code, although the written-out backward pass makes it
    assert count_flops(jax.value_and_grad(lambda x, k: f(x, jax.lax.stop_gradient(k)).sum()), X,
                       k) == 2 * DOT
    assert count_flops(lambda x, k: jax.lax.cond(x[0, 0] > 0, lambda: x @ k, lambda: x @ k @ k), X,
                       k) == 2 * DOT
    heads = jax.ShapeDtypeStruct((2, 3, 5, 7), jnp.float32)
    assert count_flops(lambda q: jnp.einsum("bhtk,bhsk->bhts", q, q),
                       heads) == 2 * 2 * 3 * 5 * 5 * 7


def test_what_every_device_does_of_a_shard_map_counts():
    mesh = make_mesh({"data": 2, "seq": 4})
    spread = jax.shard_map(lambda x, k: x @ k, mesh=mesh,
                           in_specs=(PartitionSpec("seq"), PartitionSpec()),
                           out_specs=PartitionSpec("seq"), axis_names={"seq"})
    with jax.set_mesh(mesh):
        assert count_flops(jax.jit(spread), X, jax.ShapeDtypeStruct((D, D), jnp.float32)) == DOT
