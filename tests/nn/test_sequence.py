"""Attention over a split time axis against the one-device kernels, and what is sent between devices
for it."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.nn.attention import Band, Causal, Full, attention
from avjax.nn.sequence import put_at, take_at
from avjax.sharding.activations import each_frame, fold_frames, shard, unfold_frames
from avjax.sharding.mesh import make_mesh
from tests.sharding.compiled import collectives

FAST = {"xla_backend_optimization_level": "0"}
SEQ8, MIXED = dict(seq=8), dict(data=2, seq=2, tensor=2)


def run(sizes, fn, *args):
    """fn compiled for a mesh (None: one device) -> (results, HLO)."""
    if sizes is None:
        return jax.device_get(jax.jit(fn, compiler_options=FAST)(*args)), ""
    with jax.set_mesh(make_mesh(sizes)):
        compiled = jax.jit(fn).lower(*args).compile(FAST)
        return jax.device_get(compiled(*args)), compiled.as_text()


def inputs(batch=2, heads=4, groups=4, length=64, width=8):
    shapes = (batch, heads, length, width), *((batch, groups, length, width),) * 2
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


def masks_of(kind, batch, length):
    at = jnp.arange(length)
    return {"all": {},
            "valid": {"valid": (at < jnp.array([[length], [length - 23]])).astype(jnp.float32)},
            "packed": {"segments": jnp.where(at < 27, 4,
                                             jnp.where(at < 50, 7,
                                                       0))[None].repeat(batch, 0)}}[kind]


CASES = {  # name: (mesh, mask, which positions, streams, length, key-value heads, kernel)
    "near": (SEQ8, Band(5, 3), "all", 1, 64, 4, "auto"),
    "near, blocked": (SEQ8, Band(5, 3), "valid", 1, 512, 4, "banded"),
    "wider than a share": (SEQ8, Band(19, 9), "packed", 1, 64, 2, "auto"),
    "wider, blocked": (SEQ8, Band(70, 0), "valid", 1, 512, 4, "banded"),
    "as wide as all": (SEQ8, Band(60, 40), "packed", 1, 64, 4, "banded"),
    "one side": (SEQ8, Band(0, 7), "valid", 1, 61, 4, "dense"),
    "uneven": (SEQ8, Band(5, 3), "packed", 1, 61, 4, "auto"),
    "streams": (MIXED, Band(6, 4), "valid", 2, 96, 2, "auto"),
    "streams, uneven, blocked": (MIXED, Band(6, 4), "valid", 2, 170, 4, "banded"),
    "causal": (SEQ8, Causal(), "packed", 1, 64, 2, "auto"),
    "causal, uneven": (MIXED, Causal(), "all", 1, 63, 1, "auto"),
    "full": (MIXED, Full(), "valid", 1, 64, 4, "auto"),
    "batch that does not divide": (dict(data=4, seq=2), Causal(), "packed", 1, 64, 4, "auto"),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_one_device_in_values_and_gradients(name):
    sizes, mask, which, streams, length, groups, kernel = CASES[name]
    more = masks_of(which, 2, length)
    real = more.get("valid", jnp.ones((2, length)))[:, None, :, None]

    def scalar(q, k, v):
        out = attention(q, k, v, mask=mask, streams=streams, kernel=kernel, **more)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)) * real), out * real

    fn = jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True)
    (one, split), hlo = zip(*(run(s, fn, *inputs(groups=groups, length=length))
                              for s in (None, sizes)), strict=True)
    for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(np.abs(b).max())))
    assert collectives(hlo[1]), "nothing was exchanged: the attention was not split"


def test_a_band_sends_its_halo_and_nothing_else():
    """8 devices of 64 steps; a band of (16, 8): 24 keys and values a layer come to each, where
    gathering is 448."""
    def received(mask, kernel="auto"):
        _, hlo = run(SEQ8, lambda q, k, v: shard(attention(q, k, v, mask=mask, kernel=kernel),
                                                 "batch", None, "time"),
                     *(x for x in inputs(1, 4, 4, 512)))
        return {c.kind: c.bytes for c in collectives(hlo)}, sum(c.bytes for c in collectives(hlo))

    step = 2 * 4 * 8 * 4  # keys and values, heads, width, bytes
    kinds, total = received(Band(16, 8))
    assert set(kinds) == {"collective-permute"} and total == 24 * step
    kinds, total = received(Causal())
    assert set(kinds) == {"all-gather"} and total == 512 * step  # its own share is counted as well


def test_gradients_show_exactly_the_band():
    q, k, v = (x[:1, :1, :40] for x in inputs(length=40))

    def jacobian(v):
        return jax.jacobian(lambda v: attention(q, k, v, mask=Band(11, 2))[0, 0].sum(-1))(v)

    found, _ = run(SEQ8, jacobian, v)
    offset = np.arange(40)[None] - np.arange(40)[:, None]
    np.testing.assert_array_equal(np.abs(found[:, 0, 0]).sum(-1) > 0,
                                  (offset >= -11) & (offset <= 2))


def test_positions_anywhere_are_taken_and_put():
    x, index = jax.random.normal(jax.random.key(0),
                                 (4, 64, 6)), jax.random.permutation(jax.random.key(1), 64)[:16]
    # one position too far
    index = jnp.stack([jnp.roll(index, i) for i in range(4)]).at[1, 3].set(64)
    value = jax.random.normal(jax.random.key(2), (4, 16, 6))

    def both(x, value):
        taken, put = take_at(x, jnp.minimum(index, 63)), put_at(x, index, value)
        return jnp.sum(jnp.sin(taken)) + jnp.sum(jnp.cos(put)), (taken, put)

    fn = jax.value_and_grad(both, argnums=(0, 1), has_aux=True)
    one, _ = run(None, fn, x, value)
    for sizes in (SEQ8, MIXED):
        split, hlo = run(sizes, fn, x, value)
        for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert not any(c.kind == "all-gather" and (4, 64, 6) in [s for _, s in c.shapes]
                       for c in collectives(hlo))


def test_folding_frames_moves_nothing_and_comes_back():
    x, y = jax.random.normal(jax.random.key(0),
                             (8, 16, 3, 4)), jax.random.normal(jax.random.key(1), (8, 4))

    def there_and_back(x, y):
        x = shard(x, "batch", "time")
        return unfold_frames(jnp.sin(fold_frames(x)) * each_frame(y, 16)[:, None], 8)

    for sizes in (None, dict(data=2, fsdp=2, seq=2), SEQ8, dict(data=8)):
        out, hlo = run(sizes, there_and_back, x, y)
        np.testing.assert_allclose(out, np.sin(x) * y[:, None, None], rtol=1e-6)
        assert not collectives(hlo)
