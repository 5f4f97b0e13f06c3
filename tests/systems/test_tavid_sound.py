"""Hallo2's way through the visual System: sound and masks in rows, in the loss and in a video."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding import by_device
from avjax.sharding.mesh import make_mesh, replicated
from avjax.systems.api import build
from avjax.systems.tavid.visual import blocks, regions, sampler
from avjax.systems.tavid.visual import config as visual
from avjax.systems.tavid.visual.parts import windows
from tests.systems.tavid_sound_tiny import example, random_params, tiny


@pytest.mark.parametrize("stage", visual.STAGES)
def test_rows_hold_the_sound_around_each_frame(stage):
    config = tiny(stage=stage)
    system, given = build(config), example(config)
    given["audio"][:] = np.arange(7)[:, None, None]
    given["latents"][:] = np.arange(7)[:, None, None, None, None]
    for seed in range(6):
        row = system.rows.build([given], np.random.default_rng(seed))
        assert row.keys() == system.batch_spec.keys()
        for name, spec in system.batch_spec.items():
            assert np.shape(row[name]) == spec.shape[1:] and row[name].dtype == spec.dtype, name
        np.testing.assert_array_equal(row["regions"], given["regions"][0])
        np.testing.assert_array_equal(row["face_mask"], given["face_mask"][0])
        if stage == "appearance":
            continue
        frames = row["latents"][:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(row["audio"][..., 0], windows(np.arange(7.0))[frames])
    if stage != "appearance":
        with pytest.raises(UserError, match="audio and latents do not fit.*6 of audio, 7 frames"):
            system.rows.build([given | {"audio": given["audio"][:6]}], np.random.default_rng(0))


def test_levels_of_the_regions_are_means_of_cells():
    maps = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
    fine, coarse = regions.levels(maps, ("lip", "full"), 2, 2)
    assert fine.shape == (2, 1, 16, 2) and coarse.shape == (2, 1, 4, 2)
    np.testing.assert_allclose(fine[1, 0, 0], maps[1, :2, :2, [2, 0]].mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(coarse[0, 0, 3], maps[0, 4:, 4:, [2, 0]].mean((1, 2)), rtol=1e-6)


@functools.lru_cache
def made():
    """(config, parameters, compiled generate and loss, a batch of two, conditions of one)."""
    # attention in the middle only; of the levels, tests/systems/test_hallo2_golden.py has it
    config = tiny(clip=4, **{"unet.channels": (10,), "unet.attention_levels": (False,)})
    system = build(config)
    params = random_params(config)
    rows = [system.rows.build([example(config, seed=i)], np.random.default_rng(i))
            for i in range(2)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    conditions, frames = system.conditions(example(config))
    assert frames == 7
    conditions = {name: np.asarray(x)[None] for name, x in conditions.items()}
    return config, params, jax.jit(system.generate), jax.jit(jax.grad(
        system.loss, argnums=1, has_aux=True, allow_int=True)), batch, conditions


def test_the_loss_feels_sound_regions_and_mask():
    _, params, _, grad, batch, _ = made()
    given = {name: jnp.asarray(x, jnp.float32) for name, x in batch.items()}
    seen = {name: 0.0 for name in ("audio", "regions", "face_mask", "face", "reference", "motion")}
    for seed in range(3):  # some conditions are dropped in some of them
        of_batch, metrics = grad(params, given, jax.random.key(seed))
        assert np.isfinite(metrics["loss"])
        seen = {name: max(x, float(jnp.abs(of_batch[name]).max())) for name, x in seen.items()}
    assert all(value > 0 for value in seen.values()), seen


def test_a_video_follows_its_sound_frame_by_frame():
    config, params, generate, _, _, conditions = made()
    keys = jax.random.split(jax.random.key(0), 1)
    out = generate(params, conditions, keys)
    assert out["latents"].shape == (1, 7, 1, 4, 4, 4) and out["latents_length"][0] == 7
    # frames beyond the sound are no part of the windows: padding changes nothing
    padded = conditions | {"audio": np.concatenate([conditions["audio"],
                                                    np.full_like(conditions["audio"][:, :2], 9)],
                                                   axis=1)}
    longer = generate(params, padded, keys)["latents"]
    np.testing.assert_allclose(longer[:, :7], out["latents"], rtol=1e-3, atol=1e-3)
    # another end of the sound leaves the first clip, which cannot hear it, as it was
    other = conditions | {"audio": conditions["audio"].copy()}
    other["audio"][:, 6] += 1
    changed = np.abs(generate(params, other, keys)["latents"] - out["latents"])[0].max((1, 2, 3, 4))
    assert changed[:3].max() < 1e-6 and changed[6] > 1e-4
    for name in ("regions", "face_mask"):
        other = generate(params, conditions | {name: 1 - conditions[name]}, keys)["latents"]
        assert np.abs(other - out["latents"]).max() > 1e-4, name


def test_no_sound_has_tokens_of_zeros():
    config, params, *_, conditions = made()
    tokens = sampler.sound_tokens(build(config), params, jnp.asarray(conditions["audio"]),
                                  jnp.asarray(conditions["audio_length"]))
    assert tokens[True].shape == (1, 7, 6, 24) and not tokens[False].any()


@pytest.mark.parametrize(("change", "message"), [
    ({"masks": False}, "masks.*True where there are several"),
    ({"unet.regions": ("full", "nose")}, "unet.regions.*some of full, face, lip"),
    ({"unet.regions": ()}, "unet.regions"),
])
def test_bad_regions_are_told(change, message):
    with pytest.raises(UserError, match=message):
        build(tiny(**change))


def test_nothing_hidden_or_silent_is_computed_on_a_cpu(monkeypatch):
    """What the prediction without conditions leaves out there changes nothing."""
    config = tiny()
    system, params = build(config), random_params(config)
    given, _ = system.conditions(example(config))
    one = {name: np.asarray(x)[None] for name, x in given.items()}
    keys = jax.random.split(jax.random.key(1), 1)

    def made():
        return jax.jit(lambda: system.generate(params, one, keys)["latents"])()

    ours = made()
    monkeypatch.setattr(sampler, "platform", lambda: "tpu")
    np.testing.assert_allclose(ours, made(), atol=1e-5)


def drawn(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize(("layer", "arrays", "static"), [
    (blocks.SpatialTransformer(8, 2, 2, 6, np.float32),
     (drawn(12, 2, 3, 8), drawn(3, 2, 6), drawn(3, 6, 8), None), (False, 1)),
    (blocks.SpatialTransformer(8, 2, 2, 6, np.float32),
     (drawn(12, 2, 3, 8), drawn(12, 2, 6), drawn(3, 6, 8), np.array([1, 0, 1])), (True, 0)),
    (blocks.MotionTransformer(8, 6, 2, 2, 5, ("full", "lip"), np.float32),
     (drawn(12, 2, 3, 8), drawn(12, 3, 5) * (np.arange(12) < 8)[:, None, None],
      drawn(12, 6, 2), drawn(12, 2)), (4,)),
    (blocks.TemporalTransformer(8, 2, 2, 6, np.float32),
     (drawn(12, 2, 3, 8), 4, drawn(3, 2, 2, 3, 8)), ()),
], ids=["spatial, one clip blind", "spatial, tiled", "motion, some mute", "temporal"])
def test_a_few_pictures_in_turn_are_all_at_once(layer, arrays, static, monkeypatch):
    """Values and gradients of transformers whose pictures, or pixels, are taken after each other,
    as large ones are on a CPU."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), *arrays, *static))
    params = jax.tree.map(lambda x: 0.5 * drawn(*x.shape), shapes)

    def loss(params, x):
        out = layer.apply(params, x, *arrays[1:], *static)
        return jnp.sum(jnp.sin(out[0] if isinstance(out, tuple) else out))

    def run(few):
        monkeypatch.setattr(blocks, "LARGE", 1 if few else 2**20)
        monkeypatch.setattr(blocks, "CACHED", 100)
        jax.clear_caches()  # of what `nn.jit` has traced
        made = jax.make_jaxpr(loss)(params, arrays[0])
        assert ("scan[" in str(made)) == few
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, arrays[0])

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
                 run(True), run(False))


def test_a_feed_forward_layer_by_rows_is_the_layer():
    layer = blocks.FeedForward(8, np.float32)
    x = np.random.default_rng(0).standard_normal((8, blocks.CACHED_ROWS, 8), np.float32)
    variables = layer.init(jax.random.key(0), x[:1])

    def run(method):
        def loss(variables, x):
            return jnp.sum(jnp.sin(layer.apply(variables, x, method=method)))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(variables, x)

    assert "scan" in str(jax.make_jaxpr(lambda x: layer.apply(variables, x))(x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
                 run("__call__"), run("product"))


def test_cpu_devices_share_examples_and_frames():
    """Videos of two examples on two devices each are those of one device."""
    config, params, generate, _, _, conditions = made()
    other = {name: np.flip(x, 1) if name == "audio" else x for name, x in conditions.items()}
    keys = jax.random.split(jax.random.key(2), 2)
    alone = [generate(params, given, keys[i:i + 1])["latents"]
             for i, given in enumerate((conditions, other))]
    both = jax.tree.map(lambda *x: np.concatenate(x), conditions, other)
    mesh = make_mesh({"data": 2, "seq": 2}, jax.devices()[:4])
    with jax.set_mesh(mesh):
        split = jax.jit(build(config).generate)(jax.device_put(params, replicated(mesh)), both,
                                                keys)["latents"]
    assert len({str(x.index) for x in split.addressable_shards}) == 2  # of the examples
    np.testing.assert_allclose(split, np.concatenate(alone), rtol=1e-5, atol=1e-5)


def test_a_temporal_transformer_whose_frames_are_split_by_hand(monkeypatch):
    """Values and gradients are one device's, and so is the loop over a few pixels."""
    monkeypatch.setattr(blocks, "LARGE", 1)
    monkeypatch.setattr(blocks, "CACHED", 100)
    jax.clear_caches()  # of what `nn.jit` has traced
    layer = blocks.TemporalTransformer(8, 2, 2, 6, np.float32)
    x, before, wanted = drawn(2, 4, 2, 3, 8), drawn(2, 2, 2, 3, 8), drawn(2, 4, 2, 3, 8)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x.reshape(8, 2, 3, 8), 4, before))
    params = jax.tree.map(lambda x: 0.5 * drawn(*x.shape), shapes)

    def loss(params, rows):
        def devices(params, rows):
            x, before = rows
            mine = by_device.own(x, 1)
            made = layer.apply(params, mine.reshape(-1, 2, 3, 8), mine.shape[1], before)
            return by_device.gathered(made.reshape(mine.shape), 1, 4)

        split = by_device.pays(x.shape[1])
        made = by_device.by_device(devices, params, rows) if split else devices(params, rows)
        return jnp.sum(wanted * made), made

    def run(**sizes):
        mesh = make_mesh(sizes, jax.devices()[:len(sizes) ** 2])
        with jax.set_mesh(mesh):
            given = jax.device_put((params, (x, before)), replicated(mesh))
            traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)).trace(*given)
            return str(traced.jaxpr), traced.lower().compile()(*given)

    (text, alone), (split_text, split) = run(data=1), run(data=2, seq=2)
    assert split_text.count("scan[") == text.count("scan[") > 0
    assert "all_to_all" in split_text and "all_to_all" not in text
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), split, alone)
