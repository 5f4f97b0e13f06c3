"""AV-Flow's text to tokens against recordings of the published code: alignment, one training step
with its gradients, sampling, weights. Sizes come from the files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.sharding.rules import named_leaves
from avjax.systems import api
from avjax.systems.avflow.text import alignment, objective, sampler
from avjax.systems.avflow.text.config import published
from avjax.systems.avflow.text.published import PUBLISHED, names
from avjax.systems.avflow.text.system import System
from tests.golden_files import cases, matching, relative_error, under
from tests.golden_files import config as recorded_config

TOLERANCE = 1e-4


def time_major(x):
    return np.swapaxes(x, -2, -1)


def prepare(arrays):
    """(system, parameters, state dict) of a file."""
    state = dict(under(arrays, "sd/"))
    c, recorded = published(), recorded_config(arrays)
    c.encoder.heads, c.unet.heads = recorded["n_heads"], recorded["num_heads"]
    c.update(PUBLISHED.sizes(state, c))
    return System(c), PUBLISHED.read(state, c), state


@pytest.mark.parametrize("arrays", cases("mas", "mas/"))
def test_the_search_finds_the_recorded_path(arrays):
    search = jax.jit(alignment.search)
    for case in matching(arrays, r"mas/(\w+)/value"):
        rec = under(arrays, f"mas/{case}/")
        score_BYX, (symbols_B, frames_B) = time_major(rec["value"]), rec["lengths"].T
        symbol_BY = np.asarray(search(score_BYX, symbols_B, frames_B))
        real_BY = np.arange(score_BYX.shape[1]) < frames_B[:, None]
        path = alignment.one_hot(symbol_BY, score_BYX.shape[2], real_BY)
        np.testing.assert_array_equal(time_major(np.asarray(path)), rec["path"], err_msg=case)
        np.testing.assert_array_equal(np.asarray(path).sum(1), rec["durations"], err_msg=case)


@pytest.mark.parametrize("arrays", cases("mas", "step/"))
def test_losses_and_gradients_of_a_step(arrays):
    system, params, _ = prepare(arrays)
    rec = under(arrays, "step/")
    noise = time_major(rec["noise"])
    batch = {"symbols": rec["x"], "symbols_length": rec["x_lengths"],
             "tokens": time_major(rec["y"]), "tokens_length": rec["y_lengths"]}

    def loss(params):
        parts, inner = objective.losses(system.net, params, system.config, batch, rec["t"], noise)
        return sum(parts.values()), (parts, inner)

    (_, (parts, inner)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(parts["duration"], rec["dur_loss"], rtol=TOLERANCE)
    np.testing.assert_allclose(parts["prior"], rec["prior_loss"], rtol=TOLERANCE)
    np.testing.assert_allclose(parts["flow"], rec["diff_loss_valid_frames_only"], rtol=TOLERANCE)
    # the published loss counts the padded frames' target too, which has no gradient
    real = np.arange(noise.shape[1]) < rec["y_lengths"][:, None]
    surplus = np.square((1 - system.config.sigma) * noise[~real]).sum() / (
        real.sum() * noise.shape[-1])
    np.testing.assert_allclose(parts["flow"] + surplus, rec["diff_loss"], rtol=TOLERANCE)
    path = alignment.one_hot(inner["symbol"], rec["x"].shape[1], real)
    np.testing.assert_array_equal(time_major(np.asarray(path)), rec["attn"])
    for name, ours in (("mu_y", "mean"), ("mu_x", "mean_of_symbols"), ("velocity", "velocity")):
        assert relative_error(inner[ours], time_major(rec[name])) < TOLERANCE, name
    assert relative_error(inner["log_durations"], rec["logw"][:, 0]) < TOLERANCE
    score = alignment.log_prior(inner["mean_of_symbols"], batch["tokens"])
    assert relative_error(score, time_major(rec["log_prior"])) < TOLERANCE

    theirs = PUBLISHED.write(jax.device_get(grads), system.config)
    for name, norm in zip(rec["grad_names"], rec["grad_norms"], strict=True):
        np.testing.assert_allclose(np.linalg.norm(theirs[name]), norm, rtol=1e-3,
                                   atol=1e-5 * rec["grad_global_norm"], err_msg=name)
    for name in matching(rec, r"grad/(.*weight|.*gamma)"):
        assert relative_error(theirs[name], rec[f"grad/{name}"]) < TOLERANCE, name
    rows = theirs["encoder.emb.weight"][rec["grad/encoder.emb.weight_row_ids"]]
    assert relative_error(rows, rec["grad/encoder.emb.weight_rows"]) < TOLERANCE


@pytest.mark.parametrize("arrays", cases("avflow_text", "tokens"))
def test_symbols_to_tokens(arrays):
    system, params, _ = prepare(arrays)
    c, noise = system.config, time_major(arrays["noise_unit"])

    def run(params):
        conditions = {"symbols": arrays["x"], "symbols_length": arrays["x_lengths"]}
        mean, durations, frames = system.encode(params, conditions)
        tokens = sampler.decode(system.net, params, c, mean, durations, frames, jnp.asarray(noise),
                                padding="batch")
        return mean, durations, frames, tokens

    mean, durations, frames, tokens = jax.jit(run)(params)
    assert relative_error(mean, time_major(arrays["mu_x"])) < TOLERANCE
    real = np.arange(durations.shape[1]) < arrays["x_lengths"][:, None]
    np.testing.assert_array_equal(durations, np.ceil(np.exp(arrays["logw"][:, 0])) * real)
    expected = arrays["tokens"]
    assert expected.shape[1] == frames.max()
    for row, count in enumerate(np.asarray(frames)):
        assert relative_error(tokens[row, :count], expected[row, :count]) < TOLERANCE


@pytest.mark.parametrize("arrays", cases("avflow_text", "sd/") + cases("mas", "sd/"))
def test_weights_go_both_ways_bit_for_bit(arrays):
    system, params, state = prepare(arrays)
    fresh = api.abstract_params(system)
    assert {n: x.shape for n, x in named_leaves(fresh)} == {
        n: x.shape for n, x in named_leaves(params)}
    back = PUBLISHED.write(params, system.config)
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], np.asarray(value, np.float32), err_msg=name)
    assert len(names(system.config)) == len({ours for _, ours, *_ in names(system.config)})
