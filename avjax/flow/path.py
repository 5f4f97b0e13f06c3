"""Straight paths of conditional flow matching (Lipman et al. 2023, eq. 22).

AV-Flow, TAVID's voices: from noise at t = 0 to data at t = 1 (`interpolate`). Talker: from data at
t = 0 to noise at t = 1, as released (`between`).
"""


def expand(t_B, ndim: int):
    """(batch,) -> (batch, 1, ..., 1) with `ndim` axes."""
    return t_B.reshape(t_B.shape + (1,) * (ndim - t_B.ndim))


def between(a, b, t):
    """(1 - t) a + t b; its velocity is b - a."""
    return (1 - t) * a + t * b


def interpolate(x0, x1, t_B, sigma: float):
    """x_t = (1 - (1 - sigma) t) x0 + t x1; its velocity is x1 - (1 - sigma) x0."""
    t = expand(t_B, x0.ndim)
    return (1 - (1 - sigma) * t) * x0 + t * x1


def data_from_velocity(velocity, x0, sigma: float):
    """The x1 that a predicted velocity points at, from the start x0 of the path."""
    return velocity + (1 - sigma) * x0
