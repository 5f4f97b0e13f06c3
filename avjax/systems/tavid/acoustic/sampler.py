"""From noise to mel: one scan over the network's evaluations, Euler or Heun, with frames that are
given held in place.

Suffixes: B batch, T time, S speakers, M mel bands, E evaluations of the network.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.flow.path import interpolate


def evaluations(steps: int, solver: str) -> dict[str, np.ndarray]:
    """Time of each evaluation, the time it leads to, and whether it is Heun's corrector, (E,) each.

    euler: `steps` equal intervals. heun, as USDM counts: (steps + 1) // 2 intervals, each a
      predictor and a corrector but
    for the last, which is a plain Euler step.
    """
    intervals = steps if solver == "euler" else (steps + 1) // 2
    edges = np.linspace(0.0, 1.0, intervals + 1).astype(np.float32)
    rows = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        rows.append((start, start, end, False))
        if solver == "heun" and end < 1:
            rows.append((end, start, end, True))
    at, start, end, corrects = (np.array(column) for column in zip(*rows, strict=True))
    return {"at": at, "step": end - start, "to": end, "corrects": corrects}


def sample(velocity, draw, *, steps: int, solver: str, sigma: float, temperature: float = 1.0,
           prompt=None, is_prompt=None):
    """x(1) (..., T, M) from noise.

    Args:
      velocity: (x, t scalar) -> like x.
      draw: number i -> unit normal like x. Draw 0 is the start; with a prompt, evaluation i takes
        draw i + 1.
      prompt, is_prompt: frames that are given, and 1 where they are, (..., T, M or 1). After every
        evaluation they are put on their own path at the time reached, from fresh noise (USDM).
    """
    x = temperature * draw(0)
    plan = evaluations(steps, solver)

    def evaluate(carry, inputs):
        # before, slope: where the interval began, and its predictor's velocity
        x, before, slope = carry
        number, at, step, to, corrects = inputs
        v = velocity(x, at)
        new = jnp.where(corrects, before + step / 2 * (slope + v), x + step * v)
        if prompt is not None:
            new = jnp.where(is_prompt > 0, interpolate(draw(number + 1), prompt, to, sigma), new)
        return (new, jnp.where(corrects, before, x), jnp.where(corrects, slope, v)), None

    numbers = jnp.arange(len(plan["at"]))
    return jax.lax.scan(evaluate, (x, x, x),
                        (numbers, *(jnp.asarray(v) for v in plan.values())))[0][0]


def noise(keys_B, number, frames: int, speakers: int, bands: int):
    """Draw `number` of every example, unit normal (B, T, S, M). Each frame is drawn from its own
    fold of the example's key: neighbours and padding change nothing."""
    def frame(key, t):
        return jax.random.normal(jax.random.fold_in(key, t), (speakers, bands), jnp.float32)

    def one(key):
        key = jax.random.fold_in(key, number)
        return jax.vmap(lambda t: frame(key, t))(jnp.arange(frames))

    return jax.vmap(one)(keys_B)
