"""The Motion Mapper: who sees whom and how far, equal sizes of its modes, padding, rows, and that
it listens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.errors import UserError
from avjax.nn.attention import Band, attention
from avjax.systems.api import build, new_params
from avjax.systems.tavid.mapper import config as configs
from avjax.systems.tavid.mapper.net import MotionMapper, TokenWindows, each_speaker_first

KINDS = [("joint", True), ("joint", False), ("dual", True), ("dual", False), ("concat", True)]


def small(mode="joint", share=True, **more):
    c = configs.tiny()
    c.update(dict(mode=mode, share_weights=share, num_units=20, unit_dim=8, d_model=16, num_heads=2,
                  num_blocks=2, band=3,
                  tokens=2, token_dim=4, target_dim=3, segment=24) | more)
    return c


def units(batch=2, frames=20, streams=2, seed=0):
    return np.random.default_rng(seed).integers(0, 20,
                                                (batch, 2 * frames, streams)).astype(np.int32)


@functools.lru_cache
def mapper(mode, share, streams=2):
    """(units, length) -> tokens, with random parameters, compiled once."""
    net, rng = MotionMapper(small(mode, share, streams=streams)), np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(1), units(streams=streams))
    params = jax.tree.map(lambda s: rng.normal(0, s.shape[0] ** -0.5 if len(s.shape) > 1 else 0.5,
                                               s.shape)
                          .astype(np.float32), shapes)
    return jax.jit(functools.partial(net.apply, params))


def test_interleaved_streams_are_attended_on_one_clock():
    T, S, H, K = 70, 3, 2, 4
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, H, T * S, K))
    valid = jnp.repeat(jnp.arange(T)[None] < jnp.array([[70], [41]]), S, axis=1)

    @jax.jit
    def every(q, k, v):
        def run(kernel, valid):
            def scalar(q, k, v):
                out = attention(q, k, v, mask=Band(4, 2), streams=S, valid=valid, kernel=kernel)
                out = out if valid is None else jnp.where(valid[:, None, :, None], out, 0.0)
                return jnp.sum(jnp.sin(out)), out
            (_, out), grads = jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True)(q, k, v)
            return out, grads
        return [(run("dense", w), run("banded", w)) for w in (None, valid)]

    for one, other in jax.device_get(every(q, k, v)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, other)
    plain = np.asarray(every(q, k, v)[0][0][0])
    t, s = 30, 1  # by hand: every stream's keys of the frames 26 .. 32
    keys = np.arange((t - 4) * S, (t + 3) * S)
    logits = np.einsum("bhk,bhsk->bhs", q[:, :, t * S + s], k[:, :, keys]) * K**-0.5
    wanted = np.einsum("bhs,bhsk->bhk", jax.nn.softmax(logits), v[:, :, keys])
    np.testing.assert_allclose(plain[:, :, t * S + s], wanted, atol=1e-5)


def test_modes_have_equal_parameters():
    for preset in (configs.base, configs.tiny):
        counts = {}
        for mode in configs.MODES:
            c = preset()
            c.mode = mode
            counts[mode] = sum(x.size
                               for x in jax.tree.leaves(jax.eval_shape(build(c).init,
                                                                       jax.random.key(0))))
        rows = (c.num_units + 1) * c.unit_dim
        assert max(counts.values()) - min(counts.values()) < 0.01 * (counts["joint"] - rows), counts
    assert 25e6 < sum(x.size
                      for x in jax.tree.leaves(jax.eval_shape(build(configs.base()).init,
                                                              jax.random.key(0)))) - (
        10_001 * 1280) < 31e6


@pytest.mark.parametrize("mode, share", KINDS)
def test_a_token_sees_both_streams_within_the_band_and_no_padding(mode, share):
    """All cases are rows of one batch, padded alike: one compilation a mode."""
    x, before, frame = units(1)[0], units(1, frames=3, seed=1)[0], 5
    touched = [x.copy(), x.copy()]
    for stream in (0, 1):
        touched[stream][2 * frame, stream] = (x[2 * frame, stream] + 1) % 20
    cases = [x, x, *touched, np.concatenate([before, x]), x[:, ::-1]]
    batch = np.stack([np.pad(c, ((0, 48 - len(c)), (0, 0)), constant_values=i) for i,
                      c in enumerate(cases)])
    base, again, one, other, later, turned = np.asarray(mapper(mode,
                                                               share)(batch,
                                                                      np.array([len(c)
                                                                                for c in cases])))
    np.testing.assert_allclose(base[:20], again[:20], atol=1e-6)  # another padding
    # unit 10 reaches frames 4 (its last tap) and 5 of the stem; each attention then reaches 3
    # further (the last ones faintly)
    reach = 3 * 2 * (2 if mode == "dual" else 1)
    for changed in (one, other):
        moved = np.flatnonzero(np.abs(changed - base)[:20].max((1, 2)) > 1e-6)
        assert max(4 - reach,
                   0) <= moved[0] and 5 + 6 <= moved[-1] <= 5 + reach and frame in moved, moved
    # 3 frames later
    np.testing.assert_allclose(later[3 + reach + 1:23], base[reach + 1:20], atol=1e-5)
    assert np.abs(turned - base)[:20].max() > 1e-2


def test_partners_have_no_order_and_units_outside_are_not_given():
    x = units(1, streams=3)[0]
    gone, negative = x.copy(), x.copy()
    gone[6:12, 1], negative[6:12, 1] = 20, -1
    for mode in ("joint", "dual"):
        base, swapped, gone_, negative_ = mapper(mode, True,
                                                 3)(np.stack([x, x[:, [0, 2, 1]], gone, negative]))
        np.testing.assert_allclose(base, swapped, atol=1e-5)
        np.testing.assert_array_equal(gone_, negative_)
        assert np.abs(gone_ - base).max() > 1e-3
    net, rolled = MotionMapper(small()), np.asarray(each_speaker_first(x[None]))
    np.testing.assert_array_equal(rolled, [x, x[:, [1, 2, 0]], x[:, [2, 0, 1]]])
    with pytest.raises(UserError, match="Motion Mapper"):
        jax.eval_shape(net.init, jax.random.key(0), x[None])


def test_windows_repeat_the_ends():
    net = TokenWindows(small(margin=2))
    tokens = jnp.arange(24.0).reshape(1, 6, 1, 4)
    shapes = jax.eval_shape(net.init, jax.random.key(0), tokens)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    out = np.asarray(jax.jit(net.apply)(params, tokens, jnp.array([5])))[..., 0] / 4
    np.testing.assert_array_equal(out[0, :5], [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 4],
                                               [1, 2, 3, 4, 4],
                                               [2, 3, 4, 4, 4]])


def test_centroids_start_the_rows_and_must_fit(tmp_path):
    path = tmp_path / "centroids.npy"
    given = np.random.default_rng(0).normal(3, 2, (20, 8)).astype(np.float32)
    np.save(path, given)
    rows = (jax.jit(lambda key: build(small(centroids=str(path))).init(key)["mapper"]["stem"][
        "rows"])(jax.random.key(0)))
    np.testing.assert_allclose(rows[:20], (given - given.mean()) / given.std(), atol=1e-5)
    for wrong in (dict(num_units=19), dict(unit_dim=9)):
        with pytest.raises(UserError, match="another codebook"):
            jax.eval_shape(build(small(centroids=str(path), **wrong)).init, jax.random.key(0))
    for wrong in (dict(mode="mmdit"), dict(mode="concat", share_weights=False), dict(d_model=18),
                  dict(mode="dual", mlp_ratio=2.0)):
        with pytest.raises(UserError, match="config.system"):
            build(small(**wrong))


def dialogue(rng, frames):
    """Puppet of a puppet: a listener's second target is what its partner said three frames ago."""
    said = np.repeat(rng.integers(0, 4, (frames // 5 + 1, 2)), 10,
                     axis=0)[:2 * frames].astype(np.int32)
    own, heard = said[::2] / 2.0 - 0.75, np.roll(said[::2], 3, axis=0)[:, ::-1] / 2.0 - 0.75
    return {"id": "a", "units": said,
            "motion": np.stack([own, heard, 0 * own], -1).astype(np.float32)}


def test_rows_are_crops_on_one_clock():
    system, rng = build(small()), np.random.default_rng(0)
    for frames in (60, 9):
        example = dialogue(rng, frames)
        example["motion"][..., 2] = np.arange(frames)[:, None]
        row = system.rows.build([example], rng)
        for name, spec in system.batch_spec.items():
            assert row[name].shape == spec.shape[1:] and row[name].dtype == spec.dtype, name
        real = int(row["mask"].sum())
        first = int(row["motion"][0, 0, 2])
        assert real == min(24, frames)
        np.testing.assert_array_equal(row["units"][:2 * real],
                                      example["units"][2 * first:2 * (first + real)])
    for spoil, words in ((lambda e: e | {"units": e["units"] + 20}, "codebook"),
                         (lambda e: e | {"units": e["units"][:, :1]}, "number of speakers"),
                         (lambda e: e | {"units": e["units"][:-2]}, "do not fit together")):
        with pytest.raises(UserError, match=words):
            system.rows.build([spoil(example)], rng)


@pytest.mark.slow
def test_it_learns_to_listen_and_generates_what_it_learnt():
    system, rng = build(small(d_model=32, band=6)), np.random.default_rng(0)
    rows = [[system.rows.build([dialogue(rng, 60)], rng) for _ in range(8)] for _ in range(70)]
    batches = {n: jnp.stack([jnp.stack([r[n] for r in row]) for row in rows]) for n in rows[0][0]}
    optimizer, params = optax.adam(4e-3), new_params(system, 1)

    @jax.jit
    def train(params):
        def step(carry, batch):
            (_, metrics), grads = jax.value_and_grad(system.loss,
                                                     has_aux=True)(carry[0], batch,
                                                                   jax.random.key(0))
            updates, state = optimizer.update(grads, carry[1])
            return (optax.apply_updates(carry[0], updates), state), metrics["l1"]
        (params, _), errors = jax.lax.scan(step, (params, optimizer.init(params)), batches)
        return params, errors

    params, errors = train(params)
    example = dialogue(np.random.default_rng(5), 48)
    conditions, frames = system.conditions(example, "generate")
    conditions = {n: jnp.asarray(v)[None] for n, v in conditions.items()}
    made = jax.device_get(jax.jit(system.generate)(params, conditions,
                                                     jax.random.split(jax.random.key(0), 1)))
    assert frames == 48 == made["motion_length"][0]
    error = np.abs(made["motion"][0] - example["motion"])[6:].mean((0, 1))
    assert error[0] < 0.2 and error[1] < 0.3, (error, errors[::10])  # 0.5 without listening
