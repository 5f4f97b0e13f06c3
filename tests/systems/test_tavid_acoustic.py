"""The acoustic denoiser's promises: rows, conditions and their dropping, guidance, prompts,
independence, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.rules import named_leaves
from avjax.systems.api import abstract_params, build, example_batch
from avjax.systems.tavid.acoustic import config as presets
from avjax.systems.tavid.acoustic import sampler
from avjax.systems.tavid.acoustic.expand import expand, mel_frames
from avjax.systems.tavid.acoustic.system import from_rows, missing_span, to_rows
from avjax.training.optimizer import make_optimizer
from avjax.training.step import make_train_step
from configs import base, tavid_benchmark
from data_pipelines.loading.loader import make_loader
from data_pipelines.store.dataset import write_dataset
from data_pipelines.store.schema import Feature

SIZES = dict(num_units=12, mel_dim=6, voice_dim=4, d_model=16, num_layers=2, num_heads=2, d_ff=16,
             unit_dim=8, row_frames=24, position_kernel=3, position_groups=4, position_depth=1,
             window=8, steps=3)


def tiny(**overrides):
    c = presets.base()
    c.mel_recipe = None
    c.update(SIZES | overrides)
    return c


def random_params(system, seed=0):
    """Every parameter random: fresh ones have closed gates and zero outputs, through which nothing
    shows."""
    rng = np.random.default_rng(seed)
    shapes = abstract_params(system)
    return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def batch_of(system, batch=2, seed=0):
    rng, shapes = np.random.default_rng(seed), example_batch(system, batch=batch, time=1)
    data = {n: rng.integers(0, 12, s.shape, np.int32) if s.dtype == np.int32
            else rng.standard_normal(s.shape, np.float32)
            for n, s in shapes.items()}
    return data | {"mask": (np.arange(24) < np.array([[24], [17]])[:batch]).astype(np.float32)}


def given_of(system, seed=0):
    batch = batch_of(system, seed=seed)
    return batch, system.given(batch["units"], batch["voices"], batch["mask"])


# ---- data

def dialogue(rng, frames=60, speakers=2):
    """Units, and a mel that follows from them and the voice."""
    units = np.repeat(rng.integers(0, 12, (frames // 6, speakers)), 6, axis=0).astype(np.int32)
    voices = rng.standard_normal((speakers, 4)).astype(np.float32)
    table = np.random.default_rng(9).standard_normal((12, 6)).astype(np.float32)
    return {"units": units, "mel": table[expand(units)] + voices[None, :, :1], "voices": voices}


def test_rows_crop_all_speakers_alike_at_the_mel_rate():
    system = build(tiny())
    example = dialogue(np.random.default_rng(0))
    starts = set()
    for seed in range(6):
        row = system.rows.build([example], np.random.default_rng(seed))
        spec = {n: s.shape[1:] for n, s in example_batch(system, batch=1, time=1).items()}
        assert {n: x.shape for n, x in row.items()} == spec
        whole = expand(example["units"])
        matches = [s for s in range(len(whole) - 23)
                   if np.array_equal(example["mel"][s:s + 24], row["mel"])]
        assert np.array_equal(whole[matches[0]:matches[0] + 24], row["units"]) and row["mask"].all()
        starts.add(matches[0])
    assert len(starts) > 2
    short = {**example, "units": example["units"][:10], "mel": example["mel"][:mel_frames(10)]}
    row = system.rows.build([short], np.random.default_rng(0))
    assert row["mask"].sum() == mel_frames(10) == 17 and np.array_equal(row["mel"][16],
                                                                        row["mel"][23])
    with pytest.raises(UserError, match="outside the model's codebook.*0 to 11"):
        system.rows.build([{**example, "units": example["units"] + 8}], np.random.default_rng(0))
    with pytest.raises(UserError, match="do not belong together"):
        system.rows.build([{**example, "mel": example["mel"][:-1]}], np.random.default_rng(0))


def test_it_trains_from_a_dataset(tmp_path):
    """A miniature dataset through the store, the loader and the loop's step: the loss falls, and
    voices are used."""
    rng = np.random.default_rng(1)
    features = {"id": Feature((), "str", "name"),
                "units": Feature((None, 2), "int32", "units", rate=50.0),
                "mel": Feature((None, 2, 6), "float32", "mel", rate=22050 / 256),
                "voices": Feature((2, 4), "float32", "voice")}
    examples = [dialogue(rng, frames) | {"id": f"d{i}"} for i,
                frames in enumerate((60, 90, 48, 12))]
    dataset = write_dataset(tmp_path / "features", name="mini", description="mini",
                            features=features, splits={"train": examples}, recipes={},
                            progress=False)
    config = base.get_config()
    config.system = tiny(predict="data", prompt=False, partner=False, position_kernel=0,
                         drop_all=0.0, drop_units=0.0)
    config.optimizer.update(dict(learning_rate=1e-2, b2=0.95, clip_norm=1.0))
    system = build(config.system)
    params = jax.tree.map(lambda x: 0.5 * x, random_params(system))
    optimizer = make_optimizer(config.optimizer, 60, params)
    state = {"step": jnp.zeros((), jnp.int32), "params": params,
             "opt_state": jax.jit(optimizer.transform.init)(params)}
    step = jax.jit(make_train_step(system, optimizer, seed=0))
    losses = []
    with make_loader(dataset, "train", system, batch_size=4, segment=1, seed=0,
                     threads=0) as loader:
        for _ in range(60):
            batch = next(loader)
            batch.pop("example")
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5]), losses


# ---- network

def test_every_parameter_learns_and_voices_can_be_put_in():
    """Of the DiT; tests/systems/test_usdm_golden.py has the other block's gradient."""
    system = build(tiny(drop_voice=0.2))
    params, batch, key = random_params(system), batch_of(system), jax.random.key(4)
    grad = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    other = np.random.default_rng(5).standard_normal(batch["voices"].shape).astype(np.float32)
    (loss, metrics), grads = grad(params, batch, key, other)
    assert metrics.keys() == {"loss", "weight"} and 0 < float(metrics["weight"]) <= 2 * (24 + 17)
    assert not [name for name, g in named_leaves(grads) if not np.abs(g).max() > 0]
    (put, _), _ = grad(params, batch | {"voices": other}, key, other)
    (own, _), _ = grad(params, batch, key, batch["voices"])
    assert float(put) == float(loss) != float(own)


def test_what_is_dropped_is_not_seen():
    """The gradient of a row's velocity with respect to each condition, and that dropping it closes
    exactly that way."""
    system = build(tiny(window=2, num_layers=1, position_kernel=0))
    params, (batch, given) = random_params(system), given_of(system)
    x, t = batch["mel"].swapaxes(1, 2).reshape(4, 24, 6), np.full(4, 0.4, np.float32)
    given["prompt"] = jnp.asarray(x)
    velocity = jax.jit(system.velocity)
    full = velocity(params, x, t, given)
    changes = {"units": (given["units"] + 1) % 12, "partner": (given["partner"] + 1) % 12,
               "voice": given["voice"] + 1,
               "prompt": given["prompt"] + 1}
    for name, value in changes.items():
        assert np.abs(velocity(params, x, t, given | {name: value}) - full).max() > 1e-3, name
        less = system.without(given, **{name: True})
        changed = system.without(given | {name: value}, **{name: True})
        np.testing.assert_array_equal(velocity(params, x, t, less), velocity(params, x, t, changed))
        assert np.abs(velocity(params, x, t, less) - full).max() > 1e-3, name
        some = velocity(params, x, t,
                        system.without(given, **{name: np.array([True, False, False, False])}))
        np.testing.assert_allclose(some[1:], full[1:], atol=1e-6)
    # two frames to either side, and no padding: row 2 has 17 frames
    far = given | {"units": given["units"].at[:, 12:].set(3)}
    np.testing.assert_allclose(velocity(params, x, t, far)[:, :10], full[:, :10], atol=1e-6)
    padded = given | {"units": given["units"].at[2:, 17:].set(3)}
    out = velocity(params, x, t, padded)
    np.testing.assert_allclose(out, full, atol=1e-6)
    assert not np.asarray(out[2:, 17:]).any()
    # guidance: each weight on its own difference, and nothing computed for weight zero
    none = velocity(params, x, t, system.without(given, units=True, partner=True, voice=True,
                                                 prompt=True))
    units = velocity(params, x, t, system.without(given, voice=True, prompt=True))
    for g_units, g_voice in ((1.5, 2.5), (1.0, 1.0)):
        guided = build(tiny(window=2, num_layers=1, position_kernel=0, guidance_units=g_units,
                            guidance_voice=g_voice))
        expected = none + g_units * (units - none) + g_voice * (full - units)
        np.testing.assert_allclose(jax.jit(guided.guided)(params, x, t, given), expected,
                                   atol=1e-4)


def test_speakers_are_rows_of_their_own():
    system = build(tiny(num_speakers=3, voice_dim=0))
    units = np.arange(3 * 24).reshape(1, 3, 24).swapaxes(1, 2) % 12
    given = system.given(units, None, np.ones((1, 24)))
    assert "voices" not in {**system.batch_spec, **system.conditions_spec, **system.example_spec}
    np.testing.assert_array_equal(given["units"][1], units[0, :, 1])
    np.testing.assert_array_equal(given["partner"][1], units[0][:, [2, 0]])
    np.testing.assert_array_equal(from_rows(to_rows(units), 3), units)


def test_a_prompt_is_kept_and_heard():
    system = build(tiny(guidance_units=1.0, guidance_voice=1.0))
    params, keys = random_params(system), jax.random.split(jax.random.key(1), 2)
    rng = np.random.default_rng(2)
    units = rng.integers(0, 12, (2, 20, 2)).astype(np.int32)
    prompt = rng.standard_normal((2, 8, 2, 6)).astype(np.float32)
    conditions = {"units": units, "units_length": np.array([20, 14], np.int32),
                  "voices": rng.standard_normal((2, 2, 4)).astype(np.float32), "prompt": prompt,
                  "prompt_length": np.array([0, 8], np.int32)}
    generate = jax.jit(functools.partial(system.generate, task="generate"))
    both = generate(params, conditions, keys)
    assert {n: tuple(x.shape) for n, x in both.items()} == {"mel": (2, mel_frames(20), 2, 6),
                                                            "mel_length": (2,)}
    assert list(both["mel_length"]) == [mel_frames(20),
                                        mel_frames(14)] and not np.asarray(both["mel"][1,
                                                                                       24:]).any()
    # at t = 1 there is sigma of noise left
    np.testing.assert_allclose(both["mel"][1, :8], prompt[1], atol=2e-3)
    silent = generate(params, conditions | {"prompt_length": np.zeros(2, np.int32)}, keys)["mel"]
    np.testing.assert_allclose(silent[0], both["mel"][0], atol=1e-5)
    assert np.abs(silent[1, 8:24] - both["mel"][1, 8:24]).max() > 1e-3
    example = {"units": units[1, :14], "voices": conditions["voices"][1], "id": "x"}
    own, frames = system.conditions(example, "generate")
    assert frames == 24 and own[
        "prompt_length"] == 0 and own.keys() == system.conditions_spec.keys()


def test_solvers_solve():
    """dx/dt = -2 t x has x(1) = x(0) / e; Heun is the more exact for as many evaluations. Draws
    know their frame only."""
    for solver, error in (("euler", 0.05), ("heun", 0.01)):
        out = jax.jit(functools.partial(sampler.sample, lambda x, t: -2 * t * x,
                                          lambda i: jnp.ones(()), steps=19,
                                          solver=solver, sigma=0.0))()
        assert abs(out * np.e - 1) < error, (solver, out)
        assert len(sampler.evaluations(19, solver)["at"]) == 19
    key = jax.random.key(0)[None]
    long, short, other = jax.jit(lambda key: [sampler.noise(key, n, t, 2, 4) for n,
                                                t in ((3, 9), (3, 5), (4, 9))])(key)
    np.testing.assert_array_equal(long[:, :5], short)
    assert len(np.unique([long, other])) == 2 * long.size


def test_missing_spans():
    valid = (jnp.arange(50) < jnp.array([[50], [30]])).astype(jnp.float32)
    spans = jax.jit(jax.vmap(lambda key: missing_span(key, valid,
                                                        0.7)))(jax.random.split(jax.random.key(0),
                                                                                5))
    for span in np.asarray(spans):
        # one piece
        assert (np.abs(np.diff(np.pad(span, ((0, 0), (1, 1))), axis=1)).sum(1) == 2).all()
        assert (0.64 * np.array([50, 30]) <= span.sum(1)).all() and not span[1, 31:].any()


# ---- configuration

@pytest.mark.parametrize(("config", "millions"), [
    (presets.base(), 476.8), (presets.small(), 64.5), (presets.tiny(), 1.2),
    (presets.usdm(), 345.9)], ids=["base", "small", "tiny", "usdm"])
def test_parameters_of_the_presets(config, millions):
    """Their number; and the mixed-precision training step has the types it should."""
    config.compute_dtype, config.remat = "bfloat16", True
    system = build(config)
    shapes = abstract_params(system)
    assert round(sum(x.size for x in jax.tree.leaves(shapes)) / 1e6, 1) == millions
    if millions in (64.5, 345.9):
        return  # the others have the same parts
    batch = example_batch(system, batch=1, time=1)
    (loss, _), grads = jax.eval_shape(jax.value_and_grad(system.loss, has_aux=True), shapes, batch,
                                      jax.random.key(0))
    assert loss.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("block", "unet", "block"), ("solver", "rk4", "solver"), ("predict", "noise", "predict"),
    ("d_model", 20, "d_model"), ("steps", 0, "steps"), ("drop_units", 1.5, "drop_units"),
    ("position_kernel", 4, "position_kernel"), ("num_speakers", 1, "partner"),
    ("mask_least", 0.0, "mask_least"), ("guidance_voice", -1.0, "guidance_voice"),
    ("drop_voice", 0.0, "guidance_voice"), ("drop_prompt", 0.0, "guidance_voice")])
def test_bad_configs(field, value, message):
    with pytest.raises(UserError, match=f"config.system.{message}"):
        build(tiny(**{field: value}))


def test_nothing_is_guided_away_from_what_was_never_trained():
    never = dict(drop_all=0.0, drop_units=0.0, drop_voice=0.0, drop_prompt=0.0)
    build(tiny(**never, guidance_units=1.0, guidance_voice=1.0))
    with pytest.raises(UserError, match="config.system.guidance_units.*1 where"):
        build(tiny(**never, guidance_units=2.0, guidance_voice=2.0))


def test_the_published_block_has_its_own_limits():
    for field, value in (("num_layers", 3), ("prompt", False), ("window", 8), ("predict", "data")):
        with pytest.raises(UserError, match=f"config.system.{field}"):
            build(tiny(**{"block": "usdm", "window": 0} | {field: value}))


def test_one_speaker_has_no_partners():
    system = build(tavid_benchmark.get_config("voicebox").system)
    assert "partner" not in abstract_params(system)["inputs"]
