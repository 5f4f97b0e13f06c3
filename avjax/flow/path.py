"""The straight path from noise to data of conditional flow matching (Lipman et al. 2023, eq.
22)."""


def expand(t_B, ndim: int):
    """(batch,) -> (batch, 1, ..., 1) with `ndim` axes."""
    return t_B.reshape(t_B.shape + (1,) * (ndim - t_B.ndim))


def interpolate(x0, x1, t_B, sigma: float):
    """x_t = (1 - (1 - sigma) t) x0 + t x1; its velocity is x1 - (1 - sigma) x0."""
    t = expand(t_B, x0.ndim)
    return (1 - (1 - sigma) * t) * x0 + t * x1


def data_from_velocity(velocity, x0, sigma: float):
    """The x1 that a predicted velocity points at, given where the path started."""
    return velocity + (1 - sigma) * x0
