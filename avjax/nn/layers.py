"""The few layers everything is made of: a dense layer with a stated initialiser, exact GELU, layer norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SQRT_HALF = float(np.sqrt(0.5))


def uniform_fan_in(scale: float = 1.0 / 3.0):
    """Uniform with variance scale / fan_in, fan_in = the first dimension. 1/3 gives bounds of +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = (3.0 * scale / shape[0]) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nn.Module):
    """x @ kernel + bias over the last axis; parameters float32, product in `dtype`.

    `features` may be a tuple: the output then has those trailing axes, and so has the kernel (so that sharding rules can
    name heads). `rows` selects part of the input rows: `dense(x, rows=slice(0, n), bias=False)` is the share of the
    first n inputs.
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
        y = jax.lax.dot_general(x.astype(self.dtype), kernel, (((x.ndim - 1,), (0,)), ((), ())))
        if bias:
            y = y + self.bias.reshape(-1).astype(self.dtype)
        return y.reshape(*x.shape[:-1], *shape)


def gelu(x):
    """Exact GELU through erf. `jax.nn.gelu(approximate=False)` takes erfc, several times dearer on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * SQRT_HALF))


def normalize(x, eps: float):
    """Layer norm over the last axis without affine parameters, statistics in float32."""
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    centred = x32 - mean
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps)).astype(x.dtype)
