"""Bytes alive at once, by hand for small functions."""

import jax
import jax.numpy as jnp

from avjax.training.flops import live_jaxpr
from avjax.training.memory import bytes_of, peak_bytes, peak_of

N = 64
X = jax.ShapeDtypeStruct((N, N), jnp.float32)
ONE = 4 * N * N


def test_values_live_until_they_are_last_read():
    assert peak_bytes(lambda x: x @ x, X) == ONE
    # a product and the one made from it
    assert peak_bytes(lambda x: ((x @ x) @ x) @ x, X) == 2 * ONE
    assert peak_bytes(lambda x: (x @ x) @ (x @ x.T), X) == 3 * ONE
    # the second is what is returned
    assert peak_of(live_jaxpr(lambda x: (x @ x) @ x, X), results=False) == ONE
    assert peak_bytes(lambda x: jnp.broadcast_to((x @ x).reshape(-1), (8, N * N)).sum(),
                      X) <= ONE + 8
    assert bytes_of({"a": X, "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}) == ONE + 6


def test_remat_keeps_less_and_a_loop_counts_its_body_once():
    def layers(x, w, wrap):
        def layer(x, k):
            return jnp.sin(jnp.sin(x @ k) @ k), None
        return jax.lax.scan(wrap(layer), x, w)[0].sum()

    w = jax.ShapeDtypeStruct((32, N, N), jnp.float32)
    plain = peak_bytes(jax.value_and_grad(lambda x, w: layers(x, w, lambda f: f)), X, w)
    remat = peak_bytes(jax.value_and_grad(lambda x, w: layers(x, w, jax.checkpoint)), X, w)
    assert 32 * ONE <= remat < 45 * ONE  # the layers' inputs, and one layer's own
    assert plain > 1.8 * remat
    # forward: nothing is kept
    assert peak_bytes(lambda x, w: layers(x, w, lambda f: f), X, w) < 6 * ONE
