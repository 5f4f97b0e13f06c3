"""Attention kernels against each other and against what a mask promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.nn.attention import NEGATIVE, Band, Causal, Full, attend, attention, cross_attention
from avjax.nn.attention_kernels import HEAD_BLOCK, by_head, cross_kernel, softmax

B, H, T, K = 2, 2, 75, 8


def inputs(length=T):
    return [jax.random.normal(jax.random.key(i), (B, H, length, K)) for i in range(3)]


def segments(kind):
    if kind == "none":
        return None
    if kind == "padding":
        return (jnp.arange(T) < jnp.array([[T], [50]])).astype(jnp.int32)
    # packing
    return jnp.where(jnp.arange(T) < 31, 4, jnp.where(jnp.arange(T) < 60, 7, 0))[None].repeat(B, 0)


MASKS = [Band(16, 8), Band(0, 3), Band(40, 2), Band(200, 200), Causal(), Full()]
FAST = [(Band(16, 8), "none"), (Band(40, 2), "padding"), (Causal(), "packing")]
ALL = [pytest.param(mask, kind, marks=() if (mask, kind) in FAST else pytest.mark.slow,
                    id=f"{mask}-{kind}")
       for mask in MASKS for kind in ("none", "padding", "packing")]


@pytest.mark.parametrize(("mask", "kind"), ALL)
def test_banded_equals_dense(mask, kind):
    seg = segments(kind)
    real = jnp.ones((B, T)) if seg is None else (seg > 0).astype(jnp.float32)

    def run(kernel):
        def scalar(q, k, v):  # a weighted sum over real frames: what padding itself returns is free
            out = attention(q, k, v, mask=mask, segments=seg, kernel=kernel)
            return jnp.sum(out
                           * jnp.cos(jnp.arange(out.size).reshape(out.shape)) * real[:, None, :,
                                                                                     None]), out

        (_, out), grads = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2),
                                                     has_aux=True))(*inputs())
        return out * real[:, None, :, None], grads

    dense, dense_grads = run("dense")
    banded, banded_grads = run("banded")
    np.testing.assert_allclose(banded, dense, atol=2e-6)
    for ours, reference in zip(banded_grads, dense_grads, strict=True):
        np.testing.assert_allclose(ours, reference, atol=2e-5)


@pytest.mark.parametrize("kernel", ["dense", "banded"])
@pytest.mark.parametrize("mask", [Band(5, 2), Causal()], ids=str)
def test_gradients_show_exactly_the_band(kernel, mask):
    """|d out_i / d v_j| summed over channels is non-zero exactly where i may see j."""
    q, k, v = (x[:1, :1, :40] for x in inputs())
    jacobian = jax.jit(jax.jacobian(lambda v: attention(q, k, v, mask=mask,
                                                        kernel=kernel)[0, 0].sum(-1)))(v)
    seen = np.abs(jacobian[:, 0, 0]).sum(-1) > 0
    offset = np.arange(40)[None] - np.arange(40)[:, None]
    left, right = mask.band(40)
    np.testing.assert_array_equal(seen, (offset >= -left) & (offset <= right))


@pytest.mark.parametrize("kernel", ["dense", "banded"])
def test_padding_is_invisible_to_real_frames(kernel):
    q, k, v = inputs()
    valid = (jnp.arange(T) < 50).astype(jnp.float32)[None].repeat(B, 0)
    run = jax.jit(functools.partial(attention, mask=Band(16, 8), kernel=kernel))
    padded, alone = run(q, k, v, valid=valid), run(*(x[:, :, :50] for x in (q, k, v)))
    np.testing.assert_allclose(padded[:, :, :50], alone, atol=1e-6)
    assert np.isfinite(padded).all()


def test_matches_the_library_attention():
    q, k, v = inputs()
    theirs = jax.nn.dot_product_attention(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)),
                                          is_causal=True)
    np.testing.assert_allclose(attention(q, k, v, mask=Causal()), theirs.transpose(0, 2, 1, 3),
                               atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shared_keys_are_keys_repeated(dtype):
    """In 16 bits they are not repeated; value and gradient."""
    q, k, v = (x.astype(dtype) for x in inputs(12))
    k, v = k[:, :1], v[:, :1]

    def grouped(q, k, v):
        return attention(q, k, v, mask=Causal(), segments=segments("packing")[:, 25:37])

    def repeated(q, k, v):
        return grouped(q, *(jnp.repeat(x, H, axis=1) for x in (k, v)))

    def run(f):
        out, pull = jax.vjp(f, q, k, v)
        return out, *pull(q)

    for got, want in zip(*jax.jit(lambda: (run(grouped), run(repeated)))(), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.float32(got), np.float32(want),
                                   atol=1e-5 if dtype == jnp.float32 else 0.05)


def test_banded_memory_is_linear_in_time():
    def temporaries(length):  # bytes
        shapes = [jax.ShapeDtypeStruct((1, 2, length, 16), jnp.float32)] * 3
        compiled = jax.jit(lambda q, k,
                           v: attention(q, k, v, mask=Band(16, 8))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.2 * temporaries(2048) < 4.9 * temporaries(1024)


def test_bad_input():
    q, k, v = inputs()
    with pytest.raises(UserError, match="unknown attention kernel"):
        attention(q, k, v, kernel="flash")
    with pytest.raises(UserError, match="window"):
        Band(-1, 2)
    with pytest.raises(UserError, match="not both"):
        attention(q, k, v, segments=jnp.ones((B, T), int), valid=jnp.ones((B, T)))


def test_softmax_that_keeps_its_reductions():
    """And its gradient, of a row without any key, too."""
    logits, dy = (jax.random.normal(jax.random.key(i), (4, 6)) for i in range(2))
    logits = logits.at[1, 2:].set(NEGATIVE).at[2].set(NEGATIVE)

    @jax.jit
    def run():
        both = (jax.vjp(f, logits) for f in (softmax, jax.nn.softmax))
        return [(out, pull(dy)[0]) for out, pull in both]

    (ours, by_ours), (theirs, by_theirs) = run()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(by_ours, by_theirs, atol=1e-6)


@pytest.mark.parametrize("queries", [70, HEAD_BLOCK + 45])
def test_head_after_head_equals_dense(queries):
    """Values and gradients: rows that see fewer keys, a bias of positions, blocks that do not
    divide."""
    keys = 90
    q, k, v = (jax.random.normal(jax.random.key(i), (B, n, H, K))
               for i, n in enumerate((queries, keys, keys)))
    lengths = jnp.array([keys, 41])
    slope = jnp.array([0.3, 0.05])

    def bias(h, at_Q, at_S):
        return -slope[h] * jnp.abs(at_Q[:, None] - at_S[None])

    whole = jnp.stack([bias(h, jnp.arange(queries), jnp.arange(keys)) for h in range(H)])
    seen = jnp.arange(keys) < lengths[:, None]

    def run(function):
        def scalar(q, k, v):
            out = function(q, k, v)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        (_, out), grads = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2),
                                                     has_aux=True))(q, k, v)
        return out, *grads

    pairs = [([lambda q, k, v, kernel=kernel: cross_attention(q, k, v, lengths_B=lengths,
                                                              kernel=kernel)
               for kernel in ("by_head", "dense")]),
             (lambda q, k, v: by_head(q, k, v, seen, bias),
              lambda q, k, v: attend(q, k, v, seen[:, None, None], bias=whole, heads_inside=True))]
    for ours, reference in pairs:
        for made, expected in zip(run(ours), run(reference), strict=True):
            np.testing.assert_allclose(made, expected, atol=1e-5)


def test_where_head_after_head_pays():
    q = jax.ShapeDtypeStruct((B, 1024, H, K), np.float32)
    assert cross_kernel(q, 2048) == "by_head"
    assert cross_kernel(q, 32) == "dense"
    assert cross_kernel(jax.ShapeDtypeStruct(q.shape, jnp.bfloat16), 2048) == "dense"
