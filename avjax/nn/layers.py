"""The layers all networks share: dense layer, exact GELU, layer and RMS norm, SwiGLU.

The backward passes of `matmul`, `gelu`, the norms and `swiglu` are written out. XLA's CPU backend
otherwise copies transposed operands for weight gradients (through a slow strided loop) and keeps
every intermediate of GELU and the norm in memory; together that was a tenth of a training step.

There, products also run over one flat axis of rows. On accelerators they do not (see `in_place`),
nor where the mesh splits time or width: a flat axis cannot be sharded as (batch, time) or
(3, heads, width) were, so the partitioner would gather the array first.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from avjax.sharding.activations import UNCONSTRAINED, num_shards, shard

PRODUCT = "product"  # the name of a dense layer's product to checkpoint policies
SQRT_HALF = float(np.sqrt(0.5))
INV_SQRT_2PI = float(1 / np.sqrt(2 * np.pi))


def uniform_fan_in(scale: float = 1.0 / 3.0):
    """Uniform with variance scale / fan_in, fan_in = the first dimension. 1/3 gives bounds of
    +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = (3.0 * scale / shape[0]) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def parameter(module: nn.Module, name: str, init, shape: tuple[int, ...]) -> jax.Array:
    """`module.param`, but comparing shapes by itself where there is a value already: flax traces
    `init` for the shape, which takes a fifth of the time to trace a network."""
    if not module.has_variable("params", name):
        return module.param(name, init, shape)
    value = module.get_variable("params", name)
    if value.shape != tuple(shape):
        raise ScopeParamShapeError(name, module.scope.path_text, value.shape, shape)
    return value


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x, kernel, axes: int = 1):
    """x (..., in) @ kernel (in, out...) -> (..., out...); `in` may be several `axes` of both."""
    if in_place(kernel.dtype):
        last, first = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
        return lax.dot_general(x, kernel, ((last, first), ((), ())))
    lead, out = x.shape[:x.ndim - axes], kernel.shape[axes:]
    inputs = math.prod(kernel.shape[:axes])
    return lax.dot_general(x.reshape(-1, inputs), kernel.reshape(inputs, -1),
                           (((1,), (0,)), ((), ()))).reshape(*lead, *out)


def axes_kept() -> bool:
    """True if the mesh splits an axis that a flat product would merge with another."""
    return num_shards("time") > 1 or num_shards("width") > 1


def matrix_units(dtype) -> bool:
    """True for the arithmetic of accelerators, 16 bits, whose arrays lie in tiles of their last two
    axes: short axes there, as of gate and value or of queries, keys and values, cost copies."""
    return jnp.dtype(dtype).itemsize <= 2


def in_place(dtype) -> bool:
    """True if products keep the axes of their operands: a flat axis of rows, or of heads and their
    width, is a copy wherever the operand lies in memory in another order."""
    return matrix_units(dtype) or axes_kept()


def _matmul_fwd(x, kernel, axes):
    return matmul(x, kernel, axes), (x, kernel)


def _matmul_bwd(axes, saved, dy):
    x, kernel = saved
    lead, out = x.ndim - axes, kernel.ndim - axes
    if in_place(kernel.dtype):
        outer, of_dy, of_kernel = (tuple(range(a, b)) for a, b in (
            (0, lead), (lead, lead + out), (axes, axes + out)))
        dx = lax.dot_general(dy, kernel, ((of_dy, of_kernel), ((), ())))
        return dx, lax.dot_general(x, dy, ((outer, outer), ((), ())))
    inputs = math.prod(kernel.shape[:axes])
    flat_x = x.reshape(-1, inputs)
    flat_dy = dy.reshape(-1, kernel.size // inputs)
    dx = lax.dot_general(flat_dy, kernel.reshape(inputs, -1), (((1,), (1,)), ((), ())))
    # (in, out) at once: nothing to transpose
    dkernel = lax.dot_general(flat_x, flat_dy, (((0,), (0,)), ((), ())))
    return dx.reshape(x.shape), dkernel.reshape(kernel.shape)


matmul.defvjp(_matmul_fwd, _matmul_bwd)


def compute_dtype(name: str):
    """The dtype of config.compute_dtype: "auto" is float32 on CPU and bfloat16 elsewhere."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


class Dense(nn.Module):
    """x @ kernel + bias over the last axis; parameters float32, product in `dtype`.

    `features` may be a tuple: the output then has those trailing axes, and so has the kernel (so
    that sharding rules can name heads). `rows` selects part of the input rows: `dense(x,
    rows=slice(0, n), bias=False)` is the share of the first n inputs; `columns` selects along the
    first axis of a tuple's outputs. `heads`: x (..., heads, width) has its inputs in two axes.
    `use_bias=False`: there is no bias.
    """

    features: int | tuple[int, ...]
    in_features: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None
    use_bias: bool = True

    def setup(self):
        shape = self.features if isinstance(self.features, tuple) else (self.features,)
        fan_in, scale = self.in_features, self.init_scale

        def bias_init(key, bias_shape, dtype=jnp.float32):
            bound = (3.0 * scale / fan_in) ** 0.5
            return jax.random.uniform(key, bias_shape, dtype, -bound, bound)

        self.kernel = parameter(self, "kernel", self.kernel_init or uniform_fan_in(scale),
                                (fan_in, *shape))
        if self.use_bias:
            self.bias = parameter(self, "bias", self.bias_init or bias_init, shape)

    def __call__(self, x, rows: slice = slice(None), bias: bool = True,
                 columns: int | slice = slice(None), heads: int = 0,  # noqa: B008
                 keep: bool = True):
        kernel = self.kernel[rows, columns].astype(self.dtype)
        if heads:
            kernel = kernel.reshape(heads, -1, *kernel.shape[1:])
        y = matmul(x.astype(self.dtype), kernel, 2 if heads else 1)
        y = checkpoint_name(y, PRODUCT) if keep else y
        return y + self.bias[columns].astype(self.dtype) if bias and self.use_bias else y


@jax.custom_vjp
def gelu(x):
    """Exact GELU through erf. `jax.nn.gelu(approximate=False)` takes erfc, several times slower on
    a CPU."""
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
    """LN(x) (1 + gamma) + beta over the last axis; statistics in float32. beta and gamma: (batch or
    1, 1, D)."""
    mean, scale = _statistics(x_BTD, eps)
    return ((x_BTD - mean) * scale * (1 + gamma) + beta).astype(x_BTD.dtype)


def _adaptive_norm_fwd(x_BTD, beta, gamma, eps):
    mean, scale = _statistics(x_BTD, eps)
    y = ((x_BTD - mean) * scale * (1 + gamma) + beta).astype(x_BTD.dtype)
    return y, (x_BTD, mean, scale, beta, gamma)


def _adaptive_norm_bwd(saved, dy):
    x, mean, scale, beta, gamma = saved
    normal = (x - mean) * scale
    dy = dy.astype(jnp.float32)
    axes = (0, 1) if gamma.shape[0] == 1 else (1,)
    dgamma = jnp.sum(dy * normal, axis=axes, keepdims=True).astype(gamma.dtype)
    dbeta = jnp.sum(dy, axis=axes, keepdims=True).astype(beta.dtype)
    d = dy * (1 + gamma)
    inner = d - jnp.mean(d, -1, keepdims=True) - normal * jnp.mean(d * normal, -1, keepdims=True)
    return (scale * inner).astype(x.dtype), dbeta, dgamma, None


adaptive_norm.defvjp(_adaptive_norm_fwd, _adaptive_norm_bwd)


class LayerNorm(nn.Module):
    """`adaptive_norm` with learned scale and bias: (batch, time, width)."""

    width: int
    eps: float = 1e-5

    def setup(self):
        self.scale = parameter(self, "scale", nn.initializers.ones, (self.width,))
        self.bias = parameter(self, "bias", nn.initializers.zeros, (self.width,))

    def __call__(self, x_BTD):
        return adaptive_norm(x_BTD, self.bias[None, None], self.scale[None, None] - 1, self.eps)


@jax.custom_vjp
def rms_norm(x, scale, eps: float = 1e-6):
    """x / rms(x) * scale over the last axis; statistics in float32 (Zhang and Sennrich 2019)."""
    return _rms_norm_fwd(x, scale, eps)[0]


def _rms_norm_fwd(x, scale, eps):
    wide = x.astype(jnp.float32)
    inverse = lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    inverse = checkpoint_name(inverse, PRODUCT)  # small, and spares the backward pass a reduction
    return (wide * inverse * scale).astype(x.dtype), (x, inverse, scale)


def _rms_norm_bwd(saved, dy):
    x, inverse, scale = saved
    normal = x.astype(jnp.float32) * inverse
    dy = dy.astype(jnp.float32)
    product = dy * normal if in_place(x.dtype) else (dy * normal).reshape(-1, x.shape[-1])
    dscale = jnp.sum(product, axis=tuple(range(product.ndim - 1))).astype(scale.dtype)
    d = dy * scale
    dx = inverse * (d - normal * jnp.mean(d * normal, -1, keepdims=True))
    return dx.astype(x.dtype), dscale, None


rms_norm.defvjp(_rms_norm_fwd, _rms_norm_bwd)


class RMSNorm(nn.Module):
    """RMS norm over the last axis with one learned scale a channel."""

    width: int
    eps: float = 1e-6

    def setup(self):
        self.scale = parameter(self, "scale", nn.initializers.ones, (self.width,))

    def __call__(self, x):
        return rms_norm(x, self.scale, self.eps)


def halves(pair):
    """Gate and value of an array (..., 2, F), or of a tuple of both."""
    return pair if isinstance(pair, tuple) else (pair[..., 0, :], pair[..., 1, :])


@jax.custom_vjp
def swiglu(pair):
    """Gate and value, see `halves` -> silu(gate) * value, (..., F) (Shazeer 2020)."""
    gate, value = halves(pair)
    return gate * jax.nn.sigmoid(gate) * value


def _swiglu_fwd(pair):
    return swiglu(pair), pair


def _swiglu_bwd(pair, dy):
    gate, value = halves(pair)
    sigmoid = jax.nn.sigmoid(gate)
    dgate, dvalue = dy * value * sigmoid * (1 + gate * (1 - sigmoid)), dy * gate * sigmoid
    return ((dgate, dvalue) if isinstance(pair, tuple) else jnp.stack([dgate, dvalue], axis=-2),)


swiglu.defvjp(_swiglu_fwd, _swiglu_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated_matmul(gate, pair, kernel):
    """gate(pair) @ kernel, (..., F) by (F, out), for accelerators. Its backward pass makes
    gate(pair) and the gradients of the pair once, in one pass over them; left to itself XLA makes
    them again, from both of the pair, for each of the five products that read them."""
    return matmul(gate(pair), kernel)


def _gated_matmul_fwd(gate, pair, kernel):
    return gated_matmul(gate, pair, kernel), (pair, kernel)


def _gated_matmul_bwd(gate, saved, dy):
    pair, kernel = saved
    dhidden = lax.dot_general(dy, kernel, (((dy.ndim - 1,), (1,)), ((), ())))
    hidden, pull = jax.vjp(gate, pair)
    hidden, dpair = lax.optimization_barrier((hidden, pull(dhidden)[0]))
    lead = tuple(range(dy.ndim - 1))
    return dpair, lax.dot_general(hidden, dy, ((lead, lead), ((), ())))


gated_matmul.defvjp(_gated_matmul_fwd, _gated_matmul_bwd)


class SwiGLU(nn.Module):
    """x -> (silu(x @ gate) * (x @ value)) @ out, without biases; gate and value are one
    product, but for `matrix_units`."""

    width: int
    hidden: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    # the kernels' rule splits `width` over tensor, as `hidden` (8 D / 3) divides by little
    by_width: bool = False
    gate = staticmethod(swiglu)

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale, use_bias=False)
        self.inputs = Dense((2, self.hidden), self.width, **kw)
        self.outputs = Dense(self.width, self.hidden, **kw)

    def __call__(self, x):
        def split(pair):  # hidden units over tensor, never as the kernels are stored
            return shard(pair, *[UNCONSTRAINED] * (x.ndim - 1), None, "width")

        if num_shards("width") == 1:
            if matrix_units(self.dtype):
                pair = tuple(self.inputs(x, columns=i) for i in range(2))
                return gated_matmul(self.gate, pair, self.outputs.kernel.astype(self.dtype))
            if x.size // x.shape[-1] > self.width:
                pair = tuple(self.inputs(x, columns=i) for i in range(2))
            else:
                pair = split(self.inputs(x))
            return self.outputs(self.gate(pair))
        # However they are stored, the hidden units are split for use, padded with zeros.
        inputs = self.inputs.kernel.astype(self.dtype)
        outputs = self.outputs.kernel.astype(self.dtype)
        if self.by_width:  # first gathered over fsdp alone: one exchange at a time
            inputs, outputs = shard(inputs, "width"), shard(outputs, None, "width")
        missing = -self.hidden % num_shards("width")
        inputs = shard(jnp.pad(inputs, ((0, 0), (0, 0), (0, missing))), None, None, "width")
        outputs = shard(jnp.pad(outputs, ((0, missing), (0, 0))), "width")
        pair = split(checkpoint_name(matmul(x.astype(self.dtype), inputs), PRODUCT))
        return checkpoint_name(matmul(self.gate(pair), outputs), PRODUCT)
