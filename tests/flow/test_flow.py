"""The path, the solver and guidance on cases with known answers."""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.flow.guidance import drop_condition, guide, guide_zero_star, zero_init_steps
from avjax.flow.path import data_from_velocity, interpolate
from avjax.flow.solvers import euler, euler_between, swayed_times


def test_path_ends_and_velocity():
    x0, x1 = jnp.ones((2, 3, 4)), 5 * jnp.ones((2, 3, 4))
    np.testing.assert_allclose(interpolate(x0, x1, jnp.zeros(2), 0.01), x0)
    np.testing.assert_allclose(interpolate(x0, x1, jnp.ones(2), 0.01), 0.01 * x0 + x1)
    slope = jax.jvp(lambda t: interpolate(x0, x1, t, 0.01), (jnp.full(2, 0.3),), (jnp.ones(2),))[1]
    np.testing.assert_allclose(data_from_velocity(slope, x0, 0.01), x1, rtol=1e-6)


def test_euler_is_exact_on_a_straight_path_and_first_order_otherwise():
    x0, x1 = jnp.array([1.0, -2.0]), jnp.array([4.0, 0.5])
    np.testing.assert_allclose(euler(lambda x, t, _: x1 - x0, x0, 3), x1, rtol=1e-6)
    errors = [abs(float(euler(lambda x, t, _: x, jnp.float32(1.0), n)) - np.e)
              for n in (16, 32, 64)]
    assert 1.8 < errors[0] / errors[1] < 2.2 and 1.8 < errors[1] / errors[2] < 2.2


def test_euler_hands_each_step_its_own_extra():
    out = euler(lambda x, t, extra: extra + 0 * t, jnp.float32(0), 4,
                jnp.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(out, 2.5)


def test_guidance():
    np.testing.assert_allclose(guide(jnp.float32(3), jnp.float32(1), 1.0), 3)
    np.testing.assert_allclose(guide(jnp.float32(3), jnp.float32(1), 1.5), 4)
    dropped, kept = drop_condition(jax.random.key(0), jnp.ones((1000, 2, 1)), 0.25)
    assert 0.7 < float(kept.mean()) < 0.8
    np.testing.assert_allclose(dropped[:, :, 0], np.repeat(kept[:, None], 2, 1))


def test_zero_star_guidance_scales_the_negative_branch_an_example_at_a_time():
    plus = jnp.array([[[2.0, 0.0]], [[0.0, 3.0]], [[1.0, 1.0]]])
    minus = jnp.array([[[4.0, 0.0]], [[5.0, 0.0]], [[0.0, 0.0]]])  # along, across, nothing
    ours = guide_zero_star(plus, minus, 2.0)
    np.testing.assert_allclose(ours, [[[2.0, 0.0]], [[0.0, 6.0]], [[2.0, 2.0]]], rtol=1e-5,
                               atol=1e-5)
    np.testing.assert_allclose(guide_zero_star(plus, minus, 1.0), plus, rtol=1e-5, atol=1e-5)
    assert [zero_init_steps(n) for n in (2, 10, 24, 49, 99)] == [1, 1, 1, 2, 4]


def test_swayed_times():
    t = np.linspace(1, 0, 11)
    np.testing.assert_allclose(swayed_times(10, 0.0), t, atol=1e-6)
    swayed = np.asarray(swayed_times(10, 1.0))
    np.testing.assert_allclose(swayed, 2 * t + np.cos(np.pi / 2 * t) - 1, atol=1e-6)
    assert swayed[0] == 1 and abs(swayed[-1]) < 1e-6 and (np.diff(swayed) < 0).all()
    assert swayed[0] - swayed[1] < swayed[-2] - swayed[-1]  # small steps where it is noisy


def test_euler_between_goes_either_way_over_trees():
    end = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    z = jax.tree.map(lambda x: -x + 0.5, end)
    slope = jax.tree.map(lambda z, x: z - x, z, end)
    for times, start, stop in ((swayed_times(5, 1.0), z, end),
                               (swayed_times(5, 1.0)[::-1], end, z)):
        out = euler_between(lambda x, t, _: slope, start, times)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), out, stop)
    times = jnp.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(euler_between(lambda x, t, extra: t * extra, jnp.float32(0), times,
                                             jnp.array([5.0, 7.0])), 14.0)
