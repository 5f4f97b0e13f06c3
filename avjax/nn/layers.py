"""The few layers everything is made of: a dense layer with a stated initialiser, exact GELU, layer norm.

The backward passes of `matmul`, `gelu` and `adaptive_norm` are written out. XLA's CPU backend otherwise copies
transposed operands for weight gradients (through a slow strided loop) and keeps every intermediate of GELU and the norm
in memory; together that was a tenth of a training step.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SQRT_HALF = float(np.sqrt(0.5))
INV_SQRT_2PI = float(1 / np.sqrt(2 * np.pi))


def uniform_fan_in(scale: float = 1.0 / 3.0):
    """Uniform with variance scale / fan_in, fan_in = the first dimension. 1/3 gives bounds of +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = (3.0 * scale / shape[0]) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@jax.custom_vjp
def matmul(x, kernel):
    """x (..., in) @ kernel (in, out), as one product over all leading axes."""
    flat = x.reshape(-1, x.shape[-1])
    return lax.dot_general(flat, kernel, (((1,), (0,)), ((), ()))).reshape(*x.shape[:-1], kernel.shape[1])


def _matmul_fwd(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _matmul_bwd(saved, dy):
    x, kernel = saved
    flat_x, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx = lax.dot_general(flat_dy, kernel, (((1,), (1,)), ((), ())))
    dkernel = lax.dot_general(flat_x, flat_dy, (((0,), (0,)), ((), ())))  # (in, out) at once: nothing to transpose
    return dx.reshape(x.shape), dkernel


matmul.defvjp(_matmul_fwd, _matmul_bwd)


class Dense(nn.Module):
    """x @ kernel + bias over the last axis; parameters float32, product in `dtype`.

    `features` may be a tuple: the output then has those trailing axes, and so has the kernel (so that sharding rules
    can name heads). `rows` selects part of the input rows: `dense(x, rows=slice(0, n), bias=False)` is the share of
    the first n inputs.
    """

    features: int | tuple[int, ...]
    in_features: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    def setup(self):
        shape = self.features if isinstance(self.features, tuple) else (self.features,)
        fan_in, scale = self.in_features, self.init_scale

        def bias_init(key, bias_shape, dtype=jnp.float32):
            bound = (3.0 * scale / fan_in) ** 0.5
            return jax.random.uniform(key, bias_shape, dtype, -bound, bound)

        self.kernel = self.param("kernel", self.kernel_init or uniform_fan_in(scale), (fan_in, *shape))
        self.bias = self.param("bias", self.bias_init or bias_init, shape)

    def __call__(self, x, rows: slice = slice(None), bias: bool = True):  # noqa: B008
        shape = self.bias.shape
        kernel = self.kernel[rows].reshape(-1, int(np.prod(shape))).astype(self.dtype)
        y = matmul(x.astype(self.dtype), kernel)
        if bias:
            y = y + self.bias.reshape(-1).astype(self.dtype)
        return y.reshape(*x.shape[:-1], *shape)


@jax.custom_vjp
def gelu(x):
    """Exact GELU through erf. `jax.nn.gelu(approximate=False)` takes erfc, several times dearer on a CPU."""
    return 0.5 * x * (1.0 + lax.erf(x * SQRT_HALF))


def _gelu_fwd(x):
    return gelu(x), x


def _gelu_bwd(x, dy):
    cdf = 0.5 * (1.0 + lax.erf(x * SQRT_HALF))
    return (dy * (cdf + x * INV_SQRT_2PI * jnp.exp(-0.5 * x * x)),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)


def _statistics(x, eps):
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    return mean, lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)


@jax.custom_vjp
def adaptive_norm(x_BTD, beta, gamma, eps: float = 1e-6):
    """LN(x) (1 + gamma) + beta over the last axis, without affine parameters of its own; statistics in float32.
    beta and gamma: (batch or 1, 1, D)."""
    mean, scale = _statistics(x_BTD, eps)
    return ((x_BTD - mean) * scale * (1 + gamma) + beta).astype(x_BTD.dtype)


def _adaptive_norm_fwd(x_BTD, beta, gamma, eps):
    mean, scale = _statistics(x_BTD, eps)
    y = ((x_BTD - mean) * scale * (1 + gamma) + beta).astype(x_BTD.dtype)
    return y, (x_BTD, mean, scale, beta, gamma)


def _adaptive_norm_bwd(saved, dy):
    x, mean, scale, beta, gamma = saved
    normal = (x - mean) * scale
    axes = (0, 1) if gamma.shape[0] == 1 else (1,)
    dgamma = jnp.sum(dy * normal, axis=axes, keepdims=True).astype(gamma.dtype)
    dbeta = jnp.sum(dy.astype(jnp.float32), axis=axes, keepdims=True).astype(beta.dtype)
    d = dy * (1 + gamma)
    inner = d - jnp.mean(d, -1, keepdims=True) - normal * jnp.mean(d * normal, -1, keepdims=True)
    return (scale * inner).astype(x.dtype), dbeta, dgamma, None


adaptive_norm.defvjp(_adaptive_norm_fwd, _adaptive_norm_bwd)
