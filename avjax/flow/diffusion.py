"""Discrete-time diffusion as Stable Diffusion and Hallo2 use it: betas, zero terminal SNR,
v-prediction, DDIM.

Integer times t = 0 (nearly clean) .. steps - 1 (noise). alpha_t below is the cumulative product,
x_t = sqrt(alpha_t) x0 + sqrt(1 - alpha_t) noise. Everything float32; schedules are numpy, computed
in float64.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.flow.path import expand

BETAS = ("scaled_linear", "linear")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """`alphas`: cumulative products of 1 - beta, (steps,) float32. The step after the last one ends
    at alpha = 1."""

    alphas: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.alphas)

    @property
    def snr(self) -> np.ndarray:
        """alpha / (1 - alpha) of every time; 0 at the last where the terminal SNR is zero."""
        return self.alphas / (1 - self.alphas)


@functools.lru_cache
def make_schedule(kind: str = "scaled_linear", steps: int = 1000, beta_start: float = 0.00085,
                  beta_end: float = 0.012,
                  zero_terminal_snr: bool = True) -> Schedule:
    """Hallo2 trains with "scaled_linear" (linear in the root of beta) and, a mismatch, samples with
    "linear"."""
    if kind not in BETAS:
        raise UserError("unknown noise schedule", where="schedule", expected=" | ".join(BETAS),
                        found=repr(kind))
    if kind == "linear":
        betas = np.linspace(beta_start, beta_end, steps)
    else:
        betas = np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
    alphas = np.cumprod(1 - betas)
    return Schedule((_rescaled(alphas) if zero_terminal_snr else alphas).astype(np.float32))


def _rescaled(alphas):
    """Shifts and scales sqrt(alpha) so that the last is 0 and the first stays (Lin et al. 2024,
    algorithm 1)."""
    root = np.sqrt(alphas)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def roots(schedule: Schedule, t_B, ndim: int):
    """sqrt(alpha) and sqrt(1 - alpha) of integer times, each (batch, 1, ..., 1) with `ndim`
    axes."""
    alpha = expand(jnp.asarray(schedule.alphas)[t_B], ndim)
    return jnp.sqrt(alpha), jnp.sqrt(1 - alpha)


def q_sample(schedule: Schedule, x0, noise, t_B):
    """x_t of data and noise."""
    signal, sigma = roots(schedule, t_B, x0.ndim)
    return signal * x0 + sigma * noise


def velocity_target(schedule: Schedule, x0, noise, t_B):
    """v = sqrt(alpha) noise - sqrt(1 - alpha) x0 (Salimans and Ho 2022)."""
    signal, sigma = roots(schedule, t_B, x0.ndim)
    return signal * noise - sigma * x0


def data_and_noise(schedule: Schedule, x_t, velocity, t_B):
    """x0 and noise by a predicted velocity."""
    signal, sigma = roots(schedule, t_B, x_t.ndim)
    return signal * x_t - sigma * velocity, sigma * x_t + signal * velocity


def offset_noise(key, shape, offset: float, axes: tuple[int, ...]):
    """Normal noise plus `offset` times one draw shared along `axes` (Hallo2: 0.05, one draw a clip
    and channel)."""
    keys = jax.random.split(key)
    shared = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return jax.random.normal(keys[0], shape) + offset * jax.random.normal(keys[1], shared)


def min_snr_weights(schedule: Schedule, t_B, gamma: float = 5.0):
    """min(snr + 1, gamma) / (snr + 1): Min-SNR (Hang et al. 2023) for velocities, in Hallo2's form;
    1 at zero SNR."""
    snr = jnp.asarray(schedule.snr)[t_B] + 1
    return jnp.minimum(snr, gamma) / snr


def trailing_timesteps(schedule: Schedule, steps: int) -> np.ndarray:
    """`steps` int32 times from the last one down: round(N - i N / steps) - 1 (Lin et al. 2024,
    "trailing")."""
    if not 1 <= steps <= schedule.steps:
        raise UserError("number of sampling steps", where="steps",
                        expected=f"1 to {schedule.steps}", found=str(steps))
    return (np.round(schedule.steps
                     - np.arange(steps) * (schedule.steps / steps)) - 1).astype(np.int32)


def ddim(predict, x_T, schedule: Schedule, steps: int, *, trace: bool = False):
    """DDIM with eta 0 and trailing times (Song et al. 2021, eq. 12), one `lax.scan`.

    `predict(x, t)` -> velocity; t is a scalar int32. The last step ends at alpha = 1, that is at x0
    itself. With `trace` also returns (states, predicted x0) after each step, leading axis `steps`.
    """
    times = trailing_timesteps(schedule, steps)
    ends = np.append(schedule.alphas[times[1:]], np.float32(1))

    def step(x, inputs):
        t, alpha_next = inputs
        x0, noise = data_and_noise(schedule, x, predict(x, t), t)
        x = jnp.sqrt(alpha_next) * x0 + jnp.sqrt(1 - alpha_next) * noise
        return x, (x, x0) if trace else None

    x, states = jax.lax.scan(step, x_T, (jnp.asarray(times), jnp.asarray(ends)))
    return (x, *states) if trace else x
