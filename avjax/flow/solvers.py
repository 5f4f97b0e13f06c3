"""Fixed-step solvers, each one `lax.scan`: compiled once, whatever the number of steps."""

import jax
import jax.numpy as jnp


def uniform_times(steps: int):
    """Start times of `steps` equal Euler steps from 0 to 1, and the step's length."""
    return jnp.arange(steps, dtype=jnp.float32) / steps, 1.0 / steps


def euler(velocity, x0, steps: int, per_step=None):
    """x(1) from x(0) by equal Euler steps.

    `velocity(x, t, extra)`: t is a scalar, `extra` the slice of `per_step` (a pytree with leading axis `steps`) that
    belongs to this step, or None: what depends on time alone can be computed for all steps beforehand.
    """
    times, dt = uniform_times(steps)

    def step(x, inputs):
        t, extra = inputs
        return x + dt * velocity(x, t, extra), None

    return jax.lax.scan(step, x0, (times, per_step))[0]
