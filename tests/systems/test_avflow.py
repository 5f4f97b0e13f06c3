"""AV-Flow's promises: receptive field, padding, masked means, ablations, blocks of time, streaming,
strict rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.systems.api import abstract_params, build, example_batch
from avjax.systems.avflow.config import (
    default,
    dyadic,
    look_ahead,
    paper,
    receptive_field,
    released,
    windows,
)
from avjax.systems.avflow.streaming import StreamingSampler
from avjax.training.flops import count_flops, flops_of, live
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_state
from avjax.training.step import plain_step
from configs import base


def tiny(**overrides):
    """Two blocks where windows matter, one elsewhere."""
    c = default()
    c.update(dict(d_model=16, num_blocks=1, num_heads=2, d_ff=16, mel_dim=5, face_dim=4, head_dim=2,
                  token_dim=3,
                  window=(3, 1), euler_steps=2))
    c.update(overrides)
    return c


def random_params(system, seed=0):
    """Every parameter random: fresh ones have closed gates, through which nothing shows."""
    rng = np.random.default_rng(seed)
    shapes = abstract_params(system)
    return jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch_of(system, batch=2, time=20, seed=0):
    shapes = example_batch(system, batch=batch, time=time)
    data = {name: normal((seed, i), *s.shape) for i, (name, s) in enumerate(shapes.items())}
    return {**data, "mask": np.ones((batch, time), np.float32)}


def generate(system, params, conditions, keys):
    return jax.jit(system.generate)(params, conditions, keys)


def conditions_of(system, **kw):
    return {name: value for name, value in batch_of(system, **kw).items()
            if name in system.conditions_spec}


def test_receptive_field_is_the_sum_of_the_windows():
    system = build(tiny(num_blocks=2, window=((3, 1), (2, 2))))
    params, time = random_params(system), 24
    x, conditions = np.zeros((1, time, 11), np.float32), conditions_of(system, batch=1, time=time)

    def output(tokens):
        return system.velocity(params, x, jnp.full((1,), 0.4), tokens,
                               conditions["mask"])[0].sum(-1)

    jacobian = jax.jit(jax.jacobian(output))(system.condition(conditions))
    seen = np.abs(jacobian[:, 0]).sum(-1) > 0
    left, right = receptive_field(system.config)
    assert (left, right) == (5, 3)
    offset = np.arange(time)[None] - np.arange(time)[:, None]
    np.testing.assert_array_equal(seen, (offset >= -left) & (offset <= right))


def test_look_ahead_arithmetic():
    assert look_ahead(released(), steps=1) == (64, pytest.approx(64 * 256 / 22050))  # 0.74 s
    assert look_ahead(paper(), steps=1)[0] == 16
    # three steps of 1 + 2
    assert look_ahead(tiny(num_blocks=2, window=((3, 1), (2, 2)), euler_steps=3))[0] == 9
    assert windows(paper()) == ((10, 2),) * 8


@pytest.mark.parametrize("fusion", ["highway", *(pytest.param(name, marks=pytest.mark.slow)
                                                 for name in ("separate", "shared", "cascaded"))])
def test_every_fusion_trains_and_samples(fusion):
    system = build(tiny(fusion=fusion))
    params, batch = random_params(system), batch_of(system)
    (loss, metrics), grads = jax.jit(jax.value_and_grad(system.loss,
                                                        has_aux=True))(params, batch,
                                                                       jax.random.key(1))
    assert set(metrics) == {"loss", "face", "head", "mel"}
    weights = system.config.loss_weights
    np.testing.assert_allclose(loss, sum(weights[k] * metrics[k] for k in ("face", "head", "mel")),
                               rtol=1e-6)
    assert all(np.abs(g).max() > 0
               for g in jax.tree.leaves(grads)), "a parameter that nothing trains"
    streams = generate(system, params, conditions_of(system),
                       jax.random.split(jax.random.key(2), 2))
    assert {name: s.shape for name, s in streams.items()} == {
        name: spec.resolve(batch=2, time=20).shape for name, spec in system.streams_spec.items()}


@pytest.mark.slow
def test_ablations_cut_what_they_say():
    """Does the face's velocity feel the noisy mel? Not without a highway."""
    for fusion, felt in (("highway", True), ("separate", False), ("shared", True),
                         ("cascaded", False)):
        system = build(tiny(fusion=fusion))
        params, batch = random_params(system), batch_of(system)
        condition = system.condition(batch)

        def face(mel, system=system, params=params, batch=batch, condition=condition):
            x = jnp.concatenate([batch["face"], batch["head"], mel], -1)
            return system.velocity(params, x, jnp.full((2,), 0.3), condition, None,
                                   batch["mel"])[..., :4].sum()

        assert (np.abs(jax.jit(jax.grad(face))(batch["mel"])).max() > 0) == felt, fusion


@pytest.mark.slow
def test_padded_frames_count_for_nothing_in_the_loss():
    system = build(tiny())
    params, short = random_params(system), conditions_of(system, time=15)
    pad = {name: np.concatenate([x, np.full((2, 6, *x.shape[2:]), 0 if name == "mask" else 9,
                                            x.dtype)], axis=1)
           for name, x in short.items()}
    x0, x1 = normal(1, 2, 15, 11), normal(2, 2, 15, 11)
    t = np.array([0.2, 0.7], np.float32)
    loss_at = jax.jit(system.loss_at)
    plain = loss_at(params, x0, x1, t, system.condition(short), short["mask"])[0]
    wide = [np.pad(x, ((0, 0), (0, 6), (0, 0)), constant_values=50.0) for x in (x0, x1)]
    padded = loss_at(params, *wide, t, system.condition(pad), pad["mask"])[0]
    np.testing.assert_allclose(padded, plain, rtol=1e-5)


def test_blocks_of_time_change_nothing():
    whole, blocked = build(tiny()), build(tiny(sample_block=16))
    params, conditions = random_params(whole), conditions_of(whole, time=50)
    x0 = normal(3, 2, 50, 11)
    ours, reference = (jax.jit(s.sample)(params, x0, conditions) for s in (blocked, whole))
    np.testing.assert_allclose(ours, reference, atol=3e-5)


@functools.cache
def gradients(**overrides):
    system = build(tiny(num_blocks=2, window=((3, 1), (2, 2)), **overrides))
    grad = jax.jit(jax.grad(system.loss, has_aux=True))
    return grad(random_params(system), batch_of(system), jax.random.key(0))[0]


def test_remat_saves_memory_and_is_not_in_mfu():
    """By XLA's own account, on CPU too, whose compiler merges what only a barrier keeps apart."""
    temporary, flops = {}, {}
    for remat in (False, True):
        system = build(tiny(num_blocks=3, d_ff=64, remat=remat))
        params, batch = abstract_params(system), example_batch(system, batch=2, time=64)
        traced = jax.jit(jax.grad(system.loss, has_aux=True)).trace(params, batch,
                                                                    jax.random.key(0))
        temporary[remat] = traced.lower().compile().memory_analysis().temp_size_in_bytes
        flops[remat] = flops_of(live(traced.jaxpr.jaxpr))
    assert temporary[True] < 0.8 * temporary[False], temporary
    assert flops[True] > 1.2 * flops[False]
    # what the loop takes MFU from, of a step whose own FLOPs are flops[True]
    config = base.get_config()
    optimizer = make_optimizer(config.optimizer, 10, params)
    state = abstract_state(system, optimizer, make_mesh({"data": 1}, jax.devices()[:1]), ema=False)
    assert count_flops(plain_step(config, system, optimizer), state, batch) == flops[False]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [dict(remat=True), dict(scan_layers=True),
                                       dict(scan_layers=True, remat=True)], ids=str)
def test_remat_and_scan_change_nothing(overrides):
    a, b = gradients(), gradients(**overrides)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


@pytest.mark.slow
def test_partner_streams_dropout_and_guidance():
    def dyadic_with(**overrides):
        config = dyadic(tiny())
        config.update(overrides)
        return build(config)

    system = dyadic_with(partner_dropout=0.0, guidance=1.0)
    params, conditions = random_params(system), conditions_of(system)
    assert set(conditions) == {"tokens", "partner_tokens", "partner_expression", "partner_head",
                               "mask"}
    x0 = normal(3, 2, 20, 11)
    gone = {name: 0 * x if name.startswith("partner") else x for name, x in conditions.items()}

    sample = {guidance: jax.jit(dyadic_with(guidance=guidance, euler_steps=1).sample)
              for guidance in (1.0, 1.5)}

    def first_step(guidance, conditions):
        return sample[guidance](params, x0, conditions) - x0

    expected = first_step(1.0, gone) + 1.5 * (first_step(1.0, conditions) - first_step(1.0, gone))
    np.testing.assert_allclose(first_step(1.5, conditions), expected, atol=1e-4)
    assert np.abs(first_step(1.5, conditions) - first_step(1.0, conditions)).max() > 1e-2
    batch = batch_of(system)
    dropping = dyadic_with(partner_dropout=1.0 - 1e-6)
    batch_gone = {name: 0 * x if name.startswith("partner") else x for name, x in batch.items()}
    key = jax.random.key(0)
    loss = jax.jit(system.loss)
    dropped, silent = jax.jit(dropping.loss)(params, batch,
                                             key)[0], loss(params, batch_gone, key)[0]
    np.testing.assert_allclose(dropped, silent, rtol=1e-6)
    assert not np.allclose(dropped, loss(params, batch, key)[0], rtol=1e-4)


@pytest.mark.slow
def test_identity_reaches_the_output():
    system = build(tiny(identity_dim=4))
    params, conditions = random_params(system), conditions_of(system)
    keys = jax.random.split(jax.random.key(0), 2)
    a = generate(system, params, conditions, keys)["face"]
    other = {**conditions,
             "identity": conditions["identity"] + np.array([[0.0], [1.0]], np.float32)}
    b = generate(system, params, other, keys)["face"]
    np.testing.assert_array_equal(a[0], b[0])
    assert np.abs(a[1] - b[1]).max() > 1e-3


@pytest.mark.slow
def test_streaming_equals_offline():
    system = build(tiny(num_blocks=2, window=((3, 1), (2, 2)), euler_steps=3))
    params, keys, time = random_params(system), jax.random.split(jax.random.key(5), 2), 41
    conditions = conditions_of(system, time=time)
    offline = generate(system, params, conditions, keys)
    stream = StreamingSampler(system, params, keys, chunk=8)
    assert stream.delay == 9
    parts, arrived = [], []
    for start in range(0, 40, 8):
        parts.append(stream.feed({"tokens": conditions["tokens"][:, start:start + 8]}))
        arrived.append(parts[-1]["mel"].shape[1])
    with pytest.raises(UserError, match="streaming chunk.*at most 8 frames.*found: 9 frames"):
        stream.finish({"tokens": conditions["tokens"][:, 32:]})
    parts.append(stream.finish({"tokens": conditions["tokens"][:, 40:]}))
    assert arrived == [0, 7, 8, 8, 8]  # nine frames late, and no later
    for name in offline:
        online = np.concatenate([part[name] for part in parts], axis=1)
        np.testing.assert_allclose(online, offline[name], atol=2e-5)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("fusion", "motorway", "fusion"), ("d_model", 20, "d_model"),
    ("window", ((1, 2), (3, 4), (5, 6)), "system.window"), ("window", (-1, 2), "system.window"),
    ("guidance", 2.0, "guidance"), ("face_dim", 0, "face_dim")])
def test_bad_configs(field, value, message):
    config = tiny()
    with config.ignore_type():
        config[field] = value
    with pytest.raises(UserError, match=message):
        build(config)


def test_guidance_needs_examples_without_a_partner():
    config = dyadic(tiny())
    config.partner_dropout = 0.0
    with pytest.raises(UserError, match="guidance; expected: 1.0 where partner_dropout"):
        build(config)
