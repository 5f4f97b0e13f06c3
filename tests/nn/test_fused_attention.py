"""Fused attention: splash attention, interpreted, against the dense formula; both kernels compiled
for accelerators that are not here. cuDNN's values need a card."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.nn import fused_attention
from avjax.nn.attention import Band, Causal, Full, attention, cross_attention
from avjax.planning import compilers, hlo, kernels, topologies
from avjax.sharding.mesh import batch_sharding, make_mesh
from avjax.training.flops import count_flops

B, H, G, T, K = 2, 4, 2, 75, 8
XLA = {name: compilers.find(topologies.CHIPS[name]) for name in ("h100", "v5e")}
CHIPS = [pytest.param(name, marks=pytest.mark.skipif(XLA[name] is None, reason=reason))
         for name, reason in (("h100", "needs the extra aot-gpu"), ("v5e", "needs libtpu"))]
PACKED = jnp.where(jnp.arange(T) < 31, 4, jnp.where(jnp.arange(T) < 60, 7, 0))[None].repeat(B, 0)


def inputs(length=T, dtype=jnp.float32):
    shapes = [(B, heads, length, K) for heads in (H, G, G)]
    return [jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("mask", "segments", "streams"), [
    (Causal(), PACKED, 1), (Full(), None, 1), (Band(9, 4), PACKED, 1), (Band(6, 2), None, 3)],
    ids=["packed", "full", "band", "streams"])
def test_splash_equals_dense(mask, segments, streams):
    def run(kernel):
        def scalar(q, k, v):
            out = attention(q, k, v, mask=mask, segments=segments, streams=streams, kernel=kernel)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        (_, out), grads = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2),
                                                     has_aux=True))(*inputs())
        return out, *grads

    for ours, reference in zip(run("splash"), run("dense"), strict=True):
        np.testing.assert_allclose(ours, reference, atol=2e-5)


@pytest.mark.parametrize("lengths", [None, jnp.array([9, 40])])
def test_splash_equals_dense_on_other_keys(lengths):
    """Values and gradients, of numbers of queries and keys that fill no register."""
    q, k, v = (jax.random.normal(jax.random.key(i), (B, length, H, K))
               for i, length in enumerate((T, 40, 40)))

    def run(kernel):
        def scalar(q, k, v):
            out = cross_attention(q, k, v, lengths_B=lengths, kernel=kernel)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        (_, out), grads = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2),
                                                     has_aux=True))(q, k, v)
        return out, *grads

    for ours, reference in zip(run("splash"), run("dense"), strict=True):
        np.testing.assert_allclose(ours, reference, atol=2e-5)


def test_splash_on_every_devices_rows_and_heads():
    mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 4})
    q, k, v = (x.swapaxes(1, 2) for x in inputs()[:1] * 3)
    lengths = jnp.array([T, 9])
    with jax.set_mesh(mesh):
        out = jax.jit(lambda *a: attention(*a, mask=Causal(), kernel="splash"))(*inputs())
        cross = jax.jit(lambda *a: cross_attention(*a, lengths_B=lengths, kernel="splash"))(q, k, v)
    np.testing.assert_allclose(out, attention(*inputs(), mask=Causal(), kernel="dense"), atol=1e-5)
    np.testing.assert_allclose(cross, cross_attention(q, k, v, lengths_B=lengths, kernel="dense"),
                               atol=1e-5)


@pytest.mark.parametrize("odd", [0, 1])
def test_what_cudnn_is_told_to_hide(odd):
    """Its bias shows what the dense formula sees; a position that makes the length even is seen by
    no other, and sees itself, so that its row is no NaN."""
    length, band = 6, Band(2, 1)

    def near(offset):
        return (offset >= -band.left) & (offset <= band.right)

    segments = jnp.array([[0, 0, 0, 1, 1, 1]])
    seen = np.asarray(fused_attention._seen(length, odd, near, segments, 1))[0, 0]
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    same = np.asarray(segments)[0][None] == np.asarray(segments)[0][:, None]
    np.testing.assert_array_equal(seen[:length, :length], near(offset) & same)
    assert not seen[length:, :length].any() and not seen[:length, length:].any()
    assert seen.diagonal().all()


def compiled(name, kernel, mask, length, segments):
    """(program, bytes of temporaries) of the gradient of 16-bit attention."""
    topology = topologies.parse({"h100": "h100:8", "v5e": "v5e:2x4"}[name])
    devices = XLA[name].devices(topology)
    mesh = make_mesh({"data": -1}, topologies.stand_ins(topology))
    mesh = (make_mesh({"data": -1}, devices) if topology.chip.is_tpu
            else compilers.on_devices(mesh, devices))
    place = batch_sharding(mesh)
    q, k = (jax.ShapeDtypeStruct((16, heads, length, 64), jnp.bfloat16, sharding=place)
            for heads in (H, G))
    rows = jax.ShapeDtypeStruct((16, length), jnp.int32, sharding=place)

    def scalar(q, k, v, rows):
        out = attention(q, k, v, mask=mask, segments=rows if segments else None, kernel=kernel)
        return jnp.square(out.astype(jnp.float32)).sum()

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(scalar, (0, 1, 2))).lower(q, k, k, rows).compile(
            {**XLA[name].options, **XLA[name].hurried} or None)
    return kernels.count(hlo.parse(step.as_text())), step.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", CHIPS)
def test_a_long_sequence_is_one_kernel_on_accelerators(name):
    """"auto" takes the fused kernel of the platform that is compiled for, not of this process."""
    found, _ = compiled(name, "auto", Causal(), 1024, True)
    assert found[kernels.ATTENTION] >= 2, found
    found, _ = compiled(name, "auto", Causal(), 128, False)
    assert kernels.ATTENTION not in found, "short sequences are as they were"
    found, fused = compiled(name, "auto", Band(150, 150), 1024, False)
    assert found[kernels.ATTENTION] >= 2, "a band of much of the sequence"
    _, banded = compiled(name, "banded", Band(150, 150), 1024, False)
    assert 2 * fused <= banded, "no scores are kept"
    found, _ = compiled(name, "auto", Band(60, 60), 1024, False)
    assert kernels.ATTENTION not in found, "a narrow band"


@pytest.mark.parametrize("name", CHIPS)
def test_queries_on_other_keys_in_one_kernel(name):
    """The platform is the mesh's; keys may be fewer than queries and of various lengths. As the
    planner hurries: heads as wide as any of ours fit."""
    topology = topologies.parse({"h100": "h100:8", "v5e": "v5e:2x4"}[name])
    devices, sizes = XLA[name].devices(topology), {"data": 4, "tensor": 2}
    mesh = (make_mesh(sizes, devices) if topology.chip.is_tpu else
            compilers.on_devices(make_mesh(sizes, topologies.stand_ins(topology)), devices))
    keys, width = (77, 64) if name == "h100" else (300, 160)
    q, k = (jax.ShapeDtypeStruct((8, n, H, width), jnp.bfloat16, sharding=batch_sharding(mesh))
            for n in (512, keys))

    def scalar(q, k, v):
        out = cross_attention(q, k, v, lengths_B=jnp.arange(8) + 60)
        return jnp.square(out.astype(jnp.float32)).sum()

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(scalar, (0, 1, 2))).lower(q, k, k).compile(
            {**XLA[name].options, **XLA[name].hurried})
    assert kernels.count(hlo.parse(step.as_text()))[kernels.ATTENTION] >= 2


@pytest.mark.skipif(XLA["h100"] is None, reason="needs the extra aot-gpu")
def test_cudnn_takes_bands_packing_and_odd_lengths():
    for mask, length, segments in ((Full(), 1024, False), (Causal(), 345, False),
                                   (Band(300, 0), 1024, False), (Band(300, 200), 345, True)):
        found, fused = compiled("h100", "auto" if mask == Full() else "cudnn", mask, length,
                                segments)
        assert found[kernels.ATTENTION] == 2, (mask, found)
    _, dense = compiled("h100", "dense", mask, length, segments)
    assert fused < dense / 2, "no scores are kept"


def test_flops_do_not_depend_on_the_kernel():
    q = jax.ShapeDtypeStruct((B, H, 256, K), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((B, G, 256, K), jnp.bfloat16)

    def count(kernel):
        def scalar(*a):
            return jnp.square(attention(*a, mask=Causal(), kernel=kernel).astype(jnp.float32)).sum()

        return count_flops(jax.grad(scalar, (0, 1, 2)), q, k, k)

    # beside the products splash sums outputs times their gradients: 1 / (6 T) of them
    assert count("splash") == pytest.approx(count("dense"), rel=1e-3)


def test_a_kernel_that_does_not_run_here():
    with pytest.raises(UserError, match="cuDNN's attention does not run here.*float32 on cpu"):
        attention(*inputs(), kernel="cudnn")
    with pytest.raises(UserError, match="splash attention does not run here.*a traced window"):
        jax.jit(lambda w, *a: attention(*a, mask=Band(9, 9), window=(w, w), kernel="splash"))(
            3, *inputs())
