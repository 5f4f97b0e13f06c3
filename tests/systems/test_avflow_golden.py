"""AV-Flow and its head VAE against recorded numbers of the published implementation."""


import jax
import numpy as np
import optax
import pytest

from avjax.systems import api
from avjax.systems.avflow import published as weights
from avjax.systems.avflow.config import released
from avjax.systems.avflow.system import System
from avjax.systems.head_vae import published as head_vae_weights
from avjax.systems.head_vae import system as head_vae
from tests.golden_files import cases, relative_error, under

CASES = [pytest.param(*case.values, mode, id=f"{case.id}-{mode}", marks=case.marks)
         for case in cases("avflow", key=("monadic/", "dyadic/")) for mode in ("monadic", "dyadic")]
TOLERANCE = 1e-4


def prepare(arrays, mode):
    """System, parameters, conditions and the recording, all sizes taken from the file."""
    rec = under(arrays, f"{mode}/")
    state = under(rec, "sd/")
    sizes = weights.avflow_sizes(state)
    config = released()
    for name in ("d_model", "d_ff", "num_blocks", "mel_dim"):
        config[name] = sizes[name]
    config.num_heads = int(rec["heads"])
    config.window = tuple(tuple(int(n) for n in pair) for pair in rec["window_per_layer"])
    config.head_dim = (len(arrays["head_vae/sd/fc_mu.bias"]) if "head_vae/sd/fc_mu.bias" in arrays
                       else 8)
    config.face_dim = sizes["visual_dim"] - config.head_dim
    config.token_dim = rec["self_tokens"].shape[-1]
    config.loss_weights.mel = 3.0
    conditions = {"tokens": rec["self_tokens"]}
    if mode == "dyadic":
        names = (("partner_tokens", "partner_token_dim", "other_tokens"),
                 ("partner_expression", "partner_expression_dim", "other_expr"),
                 ("partner_head", "partner_head_dim", "other_head"))
        for ours, width, theirs in names:
            conditions[ours] = rec[theirs]
            config[width] = rec[theirs].shape[-1]
    conditions["mask"] = np.ones(rec["x0"].shape[:2], np.float32)
    system = System(config)
    return system, weights.import_avflow(state, config), conditions, rec, state


@pytest.mark.parametrize(("arrays", "mode"), CASES)
def test_velocity(arrays, mode):
    system, params, conditions, rec, _ = prepare(arrays, mode)
    out = jax.jit(system.velocity)(params, rec["x0"], rec["t"], system.condition(conditions),
                                   conditions["mask"])
    assert relative_error(out, rec["velocity"]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("arrays", "mode"), CASES)
def test_euler_sample(arrays, mode):
    system, params, conditions, rec, _ = prepare(arrays, mode)
    out = jax.jit(lambda p: system.sample(p, rec["x0"], conditions, steps=16))(params)
    assert relative_error(out, rec["euler16"]) < TOLERANCE


@pytest.mark.parametrize(("arrays", "mode"), CASES)
def test_losses_and_gradients(arrays, mode):
    system, params, conditions, rec, _ = prepare(arrays, mode)

    def loss(p):
        return system.loss_at(p, rec["x0"], rec["x1"], rec["t"], system.condition(conditions),
                              conditions["mask"])

    (value, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    ours = [terms[name] for name in ("face", "head", "mel")]
    np.testing.assert_allclose(ours, rec["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(value, rec["loss"], rtol=TOLERANCE)
    np.testing.assert_allclose(jax.jit(optax.tree.norm)(grads), rec["grad_norm"], rtol=TOLERANCE)
    assert relative_error(np.asarray(grads["layers"]["fusion"]["kernel"])[0].T,
                          rec["grad_fusion0_w"]) < TOLERANCE


@pytest.mark.parametrize(("arrays", "mode"), CASES)
def test_export_gives_the_published_bytes_back(arrays, mode):
    system, params, _, _, state = prepare(arrays, mode)
    exported = weights.export_avflow(params, system.config)
    assert set(exported) == set(state)
    for name, value in state.items():
        assert exported[name].dtype == value.dtype and exported[
            name].tobytes() == value.tobytes(), name
    fresh = api.abstract_params(system)
    assert jax.tree.map(lambda a: a.shape, fresh) == jax.tree.map(lambda a: a.shape, params)


@pytest.mark.parametrize("arrays", cases("avflow", key="head_vae/"))
def test_head_vae(arrays):
    rec = under(arrays, "head_vae/")
    state = under(rec, "sd/")
    config = head_vae.released()
    config.d_model, config.pose_dim = state["encoder.0.weight"].shape
    config.latent_dim = state["fc_mu.weight"].shape[0]
    config.d_ff = state["encoder.1.layers.0.linear1.weight"].shape[0]
    system = head_vae.System(config)
    params = head_vae_weights.import_head_vae(state, config)

    @jax.jit
    def run(params, x, z):
        encoded = system.net.apply({"params": params}, x, method="encode")
        return *encoded, system.decode(params, z), system.encode(params, x)

    ours = run(params, rec["x"], rec["mu"])
    for value, name in zip(ours, ("mu", "logvar", "decoded", "mu"), strict=True):
        assert relative_error(value, rec[name]) < TOLERANCE, name
    exported = head_vae_weights.export_head_vae(params, config)
    assert set(exported) == set(state)
    assert all(exported[name].tobytes() == value.tobytes() for name, value in state.items())
