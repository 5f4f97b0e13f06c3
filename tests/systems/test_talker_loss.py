"""Talker-T2AV's objective: what it trains, its draws, its labels, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.sharding.mesh import batch_sharding, make_mesh, put_batch
from avjax.sharding.rules import param_shardings
from avjax.systems.api import build
from avjax.systems.talker import objective
from tests.systems.talker_golden import pack
from tests.systems.talker_tiny import draw, random_params, three, tiny, utterance


def assert_all_train(grads):
    assert all(np.abs(g).max() > 0
               for g in jax.tree.leaves(grads)), "a parameter that nothing trains"


@pytest.mark.slow
def test_everything_trains_and_remat_changes_nothing():
    results = []
    for remat in ("none", "full"):
        system = build(tiny(remat=remat, velocity_layers=2))
        batch = pack([three(system.config)], system.config)
        step = jax.jit(jax.value_and_grad(system.loss_at, has_aux=True))
        results.append(step(random_params(system), batch, draw(system.config, seed=2, rows=1)))
    assert set(results[0][0][1]) == {"loss", "speech", "motion", "stop", "stop_accuracy"}
    assert_all_train(results[0][1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_draws_have_the_stated_laws():
    c = tiny(repeats=4, patch=1)
    noise = jax.device_get(jax.jit(lambda key: objective.draw(key, c, 20,
                                                                200))(jax.random.key(1)))
    for name in ("speech", "motion"):
        one = noise[name]
        logit = np.log(one["t"] / (1 - one["t"]))
        np.testing.assert_allclose([logit.mean(), logit.std()], [c.time_mean, c.time_std],
                                   atol=0.02)
        np.testing.assert_allclose([one["mu"].mean(), one["context"].mean()], [0.9, 0.95],
                                   atol=0.01)
        np.testing.assert_allclose([one["z"].mean(), one["z"].std()], [0, 1], atol=0.02)
    assert np.abs(np.corrcoef(noise["speech"]["t"].ravel(),
                              noise["motion"]["t"].ravel())[0, 1]) < 0.02


def test_loss_is_zero_at_the_true_velocity():
    config = tiny()
    batch = pack([three(config)], config)

    noise = draw(config, rows=1)

    @jax.jit
    def at_the_truth(batch):
        out, hidden = [], jnp.zeros((1, config.row_tokens, config.d_model))
        target = objective.targets(batch, hidden, config)
        for name in ("speech", "motion"):
            x, t, *_ = objective.head_inputs(target["mu"], target[name], noise[name])
            velocity = noise[name]["z"] - target[name].x1_BJPC[:, :, None]
            # to t = 0: the data
            error = x - t[..., None, None] * velocity - target[name].x1_BJPC[:, :, None]
            losses = [objective.flow_loss(velocity + off, target[name], noise[name])
                      for off in (0, 2)]
            out.append((jnp.abs(error).max(), *losses))
        return out

    for back, exact, off in at_the_truth(batch):
        np.testing.assert_allclose([back, exact, off], [0, 0, 4], atol=1e-5)


def test_stop_labels_of_long_and_short_utterances():
    config = tiny(stop_max_patches=5, delay=0)
    lengths = (1, 3, 4, 6)  # patches
    batch = pack([[utterance(config, 1, n * config.patch, 0)] for n in lengths], config)

    @jax.jit
    def run(batch, logits):
        labels, weight = objective.stop_labels(batch, config)
        cut, _ = objective.stop_labels(batch, tiny(max_frames=4 * config.patch, delay=0))
        return labels, weight, cut, objective.stop_loss(logits, labels, weight)

    logits = np.linspace(-2, 2,
                         batch["patch_slot"].size).reshape(batch["patch_slot"].shape).astype(
                             np.float32)
    labels, weight, cut, (loss, accuracy) = jax.device_get(run(batch, logits))
    ignored = objective.IGNORED
    wanted = [[1], [ignored, ignored, 1], [0, ignored, ignored, 1], [0] * 6]
    for row, want in zip(labels, wanted, strict=True):
        np.testing.assert_array_equal(row, want + [ignored] * (len(row) - len(want)))
    np.testing.assert_allclose(weight, 0.3 * np.mean([0, 0, 1]))
    # clips as long as those that are cut may have no end
    assert [(row == 1).sum() for row in cut] == [1, 1, 0, 0]
    none = {name: np.tile(x[3:], (4,) + (1,) * (x.ndim - 1)) for name, x in batch.items()}
    np.testing.assert_allclose(run(none, logits)[1], 0.3)
    real, truth = labels != ignored, labels == 1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropy = -np.where(truth, float(weight) * np.log(p), np.log(1 - p))[real].mean()
    np.testing.assert_allclose(loss, entropy, rtol=1e-5)
    np.testing.assert_allclose(accuracy, ((logits > 0) == truth)[real].mean(), rtol=1e-6)


@pytest.mark.slow
def test_coupled_heads_train_alike_on_a_mesh_and_recomputed():
    """The rules on data 2 x fsdp 2 x tensor 2, gradients in the parameters' places; tests/sharding
    has separate heads."""
    system, other = (build(tiny(num_kv_heads=2, coupling="joint", num_layers=1, velocity_layers=2,
                                spelling_weight=0.5, regression_weight=0.5,
                                remat=remat))
                     for remat in ("none", "dots"))
    params, c = random_params(system), system.config
    batch = pack([three(c), [], [utterance(c, 2, 9, 9)], [utterance(c, 2, 5, 0)]], c)
    noise = draw(c, seed=2, rows=4)

    def step(system, params, batch):
        return jax.jit(jax.value_and_grad(lambda p,
                                            b: system.loss_at(p, b, noise)[0]))(params, batch)

    alone = step(system, params, batch)
    assert_all_train(alone[1])
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
    places = param_shardings(params, system.param_rules, mesh)
    spread = step(other, jax.device_put(params, places), put_batch(batch, batch_sharding(mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, spread)
    assert len(spread[0].sharding.device_set) == 8


def test_what_only_training_uses():
    """What hidden states spell is a distribution, and patches are a linear function of them; the
    language model and what it reads learn from both, the diffusion heads do not; the rest of the
    loss is as without."""
    system = build(tiny(spelling_weight=0.5, regression_weight=0.25))
    plain, params, config = build(tiny()), random_params(system), system.config
    batch = pack([three(config)], config)
    noise = draw(config, seed=2, rows=1)

    @jax.jit
    def run(params):
        def added(params):
            hidden = system.net.apply({"params": params}, batch, method="encode_row")
            target = objective.targets(batch, hidden, config)
            mu, every = target["mu"], jnp.arange(config.vocab)[None]
            spelled = system.net.apply({"params": params}, mu, every, method="spelled")
            patches = system.net.apply({"params": params}, mu, method="regressed")
            parts = (objective.spelling_loss(system.net, params, batch, mu),
                     objective.regression_loss(patches, target["speech"]))
            return 0.5 * parts[0] + 0.25 * parts[1], (spelled, mu, patches, target["speech"], parts)

        (sum_, made), grads = jax.value_and_grad(added, has_aux=True)(params)
        rest = {name: part for name, part in params.items() if name not in ("spelling",
                                                                            "regression")}
        return (sum_, made, grads, system.loss_at(params, batch, noise),
                plain.loss_at(rest, batch, noise))

    sum_, made, grads, (loss, metrics), (without, others) = jax.device_get(run(params))
    log_p, mu, patches, target, parts = made
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-5)
    layer = params["regression"]
    np.testing.assert_allclose(patches, np.tensordot(mu, layer["kernel"], 1) + layer["bias"],
                               rtol=1e-4, atol=1e-5)
    there = target.mask_BJ > 0
    np.testing.assert_allclose(parts[1], np.square(patches - target.x1_BJPC)[there].mean(),
                               rtol=1e-5)
    assert_all_train([grads[name] for name in ("backbone", "audio_encoder", "audio_projector",
                                               "spelling", "regression")])
    assert not any(np.any(g) for name in ("speech_head", "motion_head", "stop_out")
                   for g in jax.tree.leaves(grads[name]))
    np.testing.assert_allclose([metrics["spelling"], metrics["regression"]], parts, rtol=1e-6)
    np.testing.assert_allclose(loss, without + sum_, rtol=1e-6)
    for name in others.keys() - {"loss"}:
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-6)
    spelled = np.asarray(objective.labels_of(batch).spelled)
    assert [spelled[batch["segment"] == n].sum() for n in (0, 1, 2, 3)] == [0, 3, 2, 4]
