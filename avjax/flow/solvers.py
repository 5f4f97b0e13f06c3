"""Fixed-step solvers, each one `lax.scan`: compiled once, whatever the number of steps."""

import jax
import jax.numpy as jnp


def uniform_times(steps: int):
    """Start times of `steps` equal Euler steps from 0 to 1, and the step's length."""
    return jnp.arange(steps, dtype=jnp.float32) / steps, 1.0 / steps


def euler(velocity, x0, steps: int, per_step=None):
    """x(1) from x(0) by equal Euler steps.

    `velocity(x, t, extra)`: t is a scalar; `extra` is this step's slice of `per_step` (a pytree
    with leading axis `steps`, or None), for values that depend on time alone and are computed for
    all steps beforehand.
    """
    times, dt = uniform_times(steps)

    def step(x, inputs):
        t, extra = inputs
        return x + dt * velocity(x, t, extra), None

    return jax.lax.scan(step, x0, (times, per_step))[0]


def swayed_times(steps: int, sway: float):
    """`steps` + 1 times from 1 (noise) down to 0 (data): t + sway (cos(pi t / 2) - 1 + t) of
    equally spaced t. Positive `sway` gives noisy times more of the steps (F5-TTS's sway sampling,
    with time running the other way)."""
    t = jnp.linspace(1.0, 0.0, steps + 1, dtype=jnp.float32)
    return t + sway * (jnp.cos(jnp.pi / 2 * t) - 1 + t)


def euler_between(velocity, x0, times, per_step=None):
    """x(times[-1]) from x(times[0]) = `x0`, a pytree, by Euler steps between consecutive times, in
    either direction.

    `velocity(x, t, extra)` as for `euler`; `per_step` has leading axis len(times) - 1.
    """
    def step(x, inputs):
        t, dt, extra = inputs
        return jax.tree.map(lambda x, v: x + dt * v, x, velocity(x, t, extra)), None

    return jax.lax.scan(step, x0, (times[:-1], jnp.diff(times), per_step))[0]
