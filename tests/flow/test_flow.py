"""The path, the solver and guidance on cases with known answers."""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.flow.guidance import drop_condition, guide
from avjax.flow.path import data_from_velocity, interpolate
from avjax.flow.solvers import euler


def test_path_ends_and_velocity():
    x0, x1 = jnp.ones((2, 3, 4)), 5 * jnp.ones((2, 3, 4))
    np.testing.assert_allclose(interpolate(x0, x1, jnp.zeros(2), 0.01), x0)
    np.testing.assert_allclose(interpolate(x0, x1, jnp.ones(2), 0.01), 0.01 * x0 + x1)
    slope = jax.jvp(lambda t: interpolate(x0, x1, t, 0.01), (jnp.full(2, 0.3),), (jnp.ones(2),))[1]
    np.testing.assert_allclose(data_from_velocity(slope, x0, 0.01), x1, rtol=1e-6)


def test_euler_is_exact_on_a_straight_path_and_first_order_otherwise():
    x0, x1 = jnp.array([1.0, -2.0]), jnp.array([4.0, 0.5])
    np.testing.assert_allclose(euler(lambda x, t, _: x1 - x0, x0, 3), x1, rtol=1e-6)
    errors = [abs(float(euler(lambda x, t, _: x, jnp.float32(1.0), n)) - np.e) for n in (16, 32, 64)]
    assert 1.8 < errors[0] / errors[1] < 2.2 and 1.8 < errors[1] / errors[2] < 2.2


def test_euler_hands_each_step_its_own_extra():
    out = euler(lambda x, t, extra: extra + 0 * t, jnp.float32(0), 4, jnp.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(out, 2.5)


def test_guidance():
    np.testing.assert_allclose(guide(jnp.float32(3), jnp.float32(1), 1.0), 3)
    np.testing.assert_allclose(guide(jnp.float32(3), jnp.float32(1), 1.5), 4)
    dropped, kept = drop_condition(jax.random.key(0), jnp.ones((1000, 2, 1)), 0.25)
    assert 0.7 < float(kept.mean()) < 0.8
    np.testing.assert_allclose(dropped[:, :, 0], np.repeat(kept[:, None], 2, 1))
