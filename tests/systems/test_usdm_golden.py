"""The acoustic denoiser with block "usdm" against recordings of the published unit Voicebox; sizes
come from the file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.tavid.acoustic import sampler
from avjax.systems.tavid.acoustic import usdm as usdm_net
from avjax.systems.tavid.acoustic.config import USDM_MEL, usdm
from avjax.systems.tavid.acoustic.expand import expand, mel_frames
from avjax.systems.tavid.acoustic.published import import_usdm, usdm_sizes
from avjax.systems.tavid.acoustic.system import System
from avjax.systems.tavid.acoustic.usdm import alibi
from tests.golden_files import cases, matching, relative_error, under
from tests.golden_files import config as recorded_config

FILES = cases("usdm_voicebox")
TOLERANCE = 1e-4


def frame_major(x):
    return np.moveaxis(x, -2, -1)


def prepare(arrays, fresh=False, **overrides):
    """(system, parameters) of a file; `fresh`: with fresh parameters where the file has none."""
    state = under(arrays, "sd/")
    c = usdm()
    c.update(usdm_sizes(state))
    c.num_heads = recorded_config(arrays)["num_attention_heads"]
    c.update(overrides)
    system, params = System(c), import_usdm(state, c)

    def added(keys):  # the rest is not computed
        params = api.params_of(system, keys)
        return params["voice"], params["inputs"]["partner"]

    if fresh:
        params["voice"], params["inputs"]["partner"] = jax.jit(added)(
            api.params_keys(system, jax.random.key(0)))
    return system, params


def conditions(units, prompt, lengths=None):
    """What a row is given, as AcousticNet takes it."""
    B, T = units.shape
    lengths = np.full(B, T) if lengths is None else lengths
    return {"units": units, "partner": np.zeros((B, T, 0), np.int32), "prompt": prompt,
            "voice": np.zeros((B, 0), np.float32), "known": np.ones(B, np.float32),
            "valid": (np.arange(T) < lengths[:, None]).astype(np.float32)}


@pytest.mark.parametrize("arrays", FILES)
def test_expansion(arrays):
    for case in matching(arrays, r"(expand\d*)/units"):
        rec = under(arrays, f"{case}/")
        np.testing.assert_array_equal(expand(rec["units"]), rec["frames"])
        np.testing.assert_array_equal(jax.jit(expand)(rec["units"]), rec["frames"])
        assert mel_frames(len(rec["units"])) == len(rec["frames"]) and 256 * len(
            rec["frames"]) == rec["n_samples"]
        # several speakers, and room for more frames than there are units
        both = np.stack([rec["units"], rec["units"][::-1]], axis=1)
        np.testing.assert_array_equal(expand(both[None], axis=1)[0, :, 0], rec["frames"])
        longer = expand(rec["units"], frames=len(rec["frames"]) + 3)
        np.testing.assert_array_equal(longer[-2:], rec["units"][-1])


@pytest.mark.parametrize("arrays", FILES)
def test_velocity(arrays):
    system, params = prepare(arrays)
    rec = under(arrays, "forward/")
    given = conditions(rec["units"], frame_major(rec["cond"]), rec["lengths"])
    out = jax.jit(system.velocity)(params, frame_major(rec["y"]), rec["t"][:, 0, 0], given)
    assert relative_error(out, frame_major(rec["velocity"])) < TOLERANCE
    fresh = api.abstract_params(system)
    assert jax.tree.map(lambda a: a.shape, fresh) == jax.tree.map(lambda a: a.shape, params)
    for name in matching(arrays, r"(alibi_slopes\d*)"):
        slopes = arrays[name]
        bias = np.asarray(jax.jit(alibi, static_argnums=(0, 1))(len(slopes), 5))
        np.testing.assert_allclose(-bias[:, 4, 3], slopes, rtol=1e-6)
        assert not bias[:, :, 0].any() and np.allclose(bias[:, 0, 4], -4 * slopes)


@pytest.mark.parametrize("arrays", FILES)
def test_loss_and_gradient_also_with_a_voice_and_partners(arrays):
    """The published loss and gradient, by a system that has two conditions more: they begin without
    effect, and learn."""
    _, published = prepare(arrays)
    system, params = prepare(arrays, fresh=True, voice_dim=6, partner=True)
    assert jax.tree.structure(published) != jax.tree.structure(params)
    rec, units, lengths = under(arrays, "loss/"), arrays["forward/units"], arrays["forward/lengths"]
    x1, given_BT = frame_major(rec["x1"]), rec["mask"][:, 0]
    given = conditions(units, x1 * given_BT[..., None], lengths)
    given |= {"voice": np.ones((len(units), 6), np.float32), "partner": units[..., None]}

    def loss(params):
        return system.loss_at(params, frame_major(rec["z"]), x1, rec["t"][:, 0, 0], given,
                              1 - given_BT)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, rec["value"], rtol=TOLERANCE)
    ours = {"project": grads["voice"].pop("project"), "partner": grads["inputs"].pop("partner")}
    assert all(np.abs(layer["kernel"]).max() > 0 for layer in ours.values())
    assert not np.abs(grads.pop("voice")["nobody"]).max()  # everybody has a voice here
    # the recording's gradient is that of the weight norm's magnitudes and directions
    total = sum(float(np.square(g).sum()) for g in jax.tree.leaves(grads))
    for i in range(system.config.position_depth):
        folded = np.asarray(grads["positions"][f"convs_{i}"]["kernel"]).transpose(2, 1, 0)
        name = f"sd/estimator.pos_conv_embeds.{i}.conv.parametrizations.weight.original"
        magnitude, direction = arrays[name + "0"], arrays[name + "1"]
        norm = np.sqrt(np.sum(direction**2, (0, 1), keepdims=True))
        unit = direction / norm
        along = np.sum(folded * unit, (0, 1), keepdims=True)
        total += np.sum(along**2) + np.sum((magnitude / norm
                                            * (folded - along * unit)) ** 2) - np.sum(folded**2)
    np.testing.assert_allclose(np.sqrt(total), rec["grad_norm"], rtol=TOLERANCE)


@pytest.mark.parametrize("arrays", FILES)
def test_roll_outs(arrays):
    """Both solvers, with and without a prompt and guidance, on the recorded noise; through the
    system's own guidance."""
    rollout = under(arrays, "rollout/")
    prompt, units = frame_major(rollout["cond"]), rollout["units"]
    is_prompt = (np.arange(units.shape[1]) < rollout["prompt_length"][0])[None, :, None]
    compiled = {}
    for name in matching(arrays, r"(\w+)/n_timesteps"):
        rec = under(arrays, f"{name}/")
        solver, steps, scale = name.split("_")[0], int(rec["n_timesteps"]), float(
            rec["gradient_scale"])
        plan = sampler.evaluations(steps, solver)
        np.testing.assert_allclose(plan["at"], rec["eval_times"], atol=1e-6)
        system, params = prepare(arrays, guidance_units=1 + scale, guidance_voice=1 + scale)

        def run(given, prompt, is_prompt, noise, system=system, params=params, steps=steps,
                solver=solver):
            def velocity(x, t):
                return system.guided(params, x, jnp.full((1,), t), given)

            return sampler.sample(velocity, lambda i: noise[i], steps=steps, solver=solver,
                                  sigma=system.config.sigma,
                                  prompt=prompt, is_prompt=is_prompt)

        # nothing given is the same as no prompt: one compilation serves both
        with_prompt = len(rec["noise"]) > 1
        noise = np.zeros((len(plan["at"]) + 1, *prompt.shape), np.float32)
        noise[:len(rec["noise"])] = frame_major(rec["noise"])
        given = conditions(units, with_prompt * prompt)
        out = compiled.setdefault((solver, len(noise), scale),
                                  jax.jit(run))(given, prompt, with_prompt * is_prompt, noise)
        assert relative_error(out, frame_major(rec["out"])) < TOLERANCE, name


@pytest.mark.parametrize("arrays", FILES)
def test_mel_recipe(arrays):
    rec = under(arrays, "mel/")
    log_mel = mel.log_mel(rec["wav"], USDM_MEL)
    assert relative_error(log_mel.T, rec["log_mel"][0]) < TOLERANCE
    assert relative_error(mel.normalise(log_mel, USDM_MEL).T, rec["normalised"][0]) < TOLERANCE


@pytest.mark.parametrize("arrays", FILES)
def test_other_weights_are_refused(arrays):
    with pytest.raises(UserError, match="not the weights of USDM"):
        usdm_sizes({"encoder.weight": np.zeros(3)})
    with pytest.raises(UserError, match="left over"):
        prepare(arrays | {"sd/estimator.more.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="another network than the DiT.*block; expected: usdm"):
        prepare(arrays, block="dit")


@pytest.mark.parametrize("arrays", FILES)
def test_head_after_head_is_the_recorded_network(arrays, monkeypatch):
    """Of more frames than the recordings have: what a CPU runs for real lengths."""
    system, params = prepare(arrays)
    rng, T = np.random.default_rng(0), 130
    units = rng.integers(0, system.config.num_units, (1, T, 1), np.int32)
    valid = (np.arange(T) < 101).astype(np.float32)[None]
    x = rng.standard_normal((1, T, system.config.mel_dim), np.float32)

    def run():
        def velocity(params, x):
            given = system.given(jnp.asarray(units), None, jnp.asarray(valid))
            return system.velocity(params, x, jnp.full((1,), 0.3), given)

        return jax.jit(velocity)(params, x)

    assert usdm_net.keeps_in_cache(x, T)
    ours = run()
    monkeypatch.setattr(usdm_net, "keeps_in_cache", lambda *_: False)
    assert relative_error(ours, run()) < 1e-5
