"""The head VAE: it learns, padding is invisible, dropout is a training matter only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.sharding.mesh import make_mesh
from avjax.systems.api import abstract_params, build, params_keys, params_of
from avjax.systems.head_vae import system as head_vae


def tiny():
    c = head_vae.released()
    c.d_ff = 32
    return c


@functools.cache
def fresh():
    """The tiny system and parameters of it."""
    system = build(tiny())
    return system, jax.jit(system.init)(jax.random.key(1))


def poses(batch=4, time=24):
    phase = jax.random.uniform(jax.random.key(0), (batch, 1, 7)) * 6
    return jnp.sin(jnp.arange(time)[None, :, None] * 0.3 + phase)


@pytest.mark.slow
def test_training_reconstructs():
    (system, params), batch = fresh(), {"pose_z": poses(), "mask": jnp.ones((4, 24))}
    optimizer = optax.adam(5e-3)

    def step(carry, key):
        params, state = carry
        (_, metrics), grads = jax.value_and_grad(system.loss, has_aux=True)(params, batch, key)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), metrics["reconstruction"]

    keys = jax.random.split(jax.random.key(2), 150)
    _, errors = jax.jit(lambda *a: jax.lax.scan(step, *a))((params, optimizer.init(params)), keys)
    assert float(errors[-10:].mean()) < 0.5 * float(errors[0])


@pytest.mark.slow
def test_dropout_only_with_a_key():
    (system, params), pose = fresh(), poses(2)
    variables = {"params": params}
    encode = jax.jit(lambda key=None: system.net.apply(variables, pose, None, key,
                                                       method="encode")[0])
    plain, again, dropped = encode(), encode(), encode(jax.random.key(3))
    np.testing.assert_array_equal(plain, again)
    assert np.abs(dropped - plain).max() > 1e-3


@pytest.mark.slow
def test_kl_of_a_unit_normal_is_zero():
    system, params = fresh()
    params = jax.tree.map(np.zeros_like, params)
    batch = {"pose_z": poses(), "mask": jnp.ones((4, 24))}
    metrics = jax.jit(system.loss)(params, batch, jax.random.key(0))[1]
    assert float(metrics["kl"]) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["reconstruction"]) == pytest.approx(np.abs(batch["pose_z"]).mean(),
                                                             rel=1e-5)


def test_new_parameters_are_what_init_draws_and_a_config_is_traced_once(monkeypatch):
    system, params = fresh()
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    with jax.set_mesh(mesh):  # traced within one, drawn within none
        shapes = abstract_params(system)
    monkeypatch.setattr(head_vae.System, "init", None)
    other = build(tiny())
    drawn = jax.jit(lambda keys: params_of(other, keys))(params_keys(other, jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, drawn, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes)
    other = tiny()
    other.d_ff = 16
    with pytest.raises(TypeError):  # of another config nothing is known
        abstract_params(build(other))
