"""Networks that are chains of convolutions, pools and branches, every convolution with a batch norm
and a rectifier behind it: how Inception (2-D) and I3D (3-D) are declared, read and run.

Suffixes: B batch, C channels; `...` the axes that windows slide over.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.nn import sliding
from avjax.weights import names

NORM = ("weight", "bias", "running_mean", "running_var")


@dataclasses.dataclass(frozen=True)
class Conv:
    """One convolution without bias.

    Attributes:
      name: published.
      kernel: an entry an axis.
      stride: of every axis.
      padding: VALID or SAME; where SAME is uneven, the larger part is at the end.
    """

    name: str
    kernel: tuple[int, ...]
    stride: int = 1
    padding: str = "SAME"


@dataclasses.dataclass(frozen=True)
class Pool:
    """Largest or mean of each window; padding (as Conv's) counts for neither."""

    kind: str
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str = "SAME"


@dataclasses.dataclass(frozen=True)
class Branches:
    """Chains of one input, whose outputs are concatenated on channels."""

    chains: tuple["Chain", ...]


Chain = tuple[Conv | Pool | Branches, ...]


def _walk(chain: Chain, x, conv: Callable, pool: Callable, join: Callable):
    for step in chain:
        if isinstance(step, Branches):
            x = join([_walk(inner, x, conv, pool, join) for inner in step.chains])
        else:
            x = (conv if isinstance(step, Conv) else pool)(step, x)
    return x


def shapes(blocks: Mapping[str, Chain], state: Mapping[str, np.ndarray],
           unit: str) -> tuple[dict[str, names.Shape], int | None]:
    """({published name: shape}, channels that come out); widths are what the file's norms show.

    Args:
      blocks: the chains, one behind the other, of pictures of 3 channels.
      state: {published name: array}.
      unit: what the published code calls the convolution of a layer.
    """
    out: dict[str, names.Shape] = {}

    def conv(step, before):
        bias = state.get(f"{step.name}.bn.bias")
        width = None if bias is None else bias.size
        out[f"{step.name}.{unit}.weight"] = (width, before, *step.kernel)
        out.update({f"{step.name}.bn.{part}": (width,) for part in NORM})
        return width

    def join(widths):
        return None if None in widths else sum(widths)

    width: int | None = 3
    for chain in blocks.values():
        width = _walk(chain, width, conv, lambda step, x: x, join)
    return out, width


def folded(state: Mapping[str, np.ndarray], unit: str,
           eps: float) -> dict[str, dict[str, np.ndarray]]:
    """{layer: {"kernel" (..., C in, C out), "bias" (C out,)}} float32, norms folded in; of all
    layers that have one."""
    params = {}
    for layer in [name.removesuffix(".bn.bias") for name in state if name.endswith(".bn.bias")]:
        gain, bias, mean, variance = (np.asarray(state[f"{layer}.bn.{part}"], np.float64)
                                      for part in NORM)
        scale = gain / np.sqrt(variance + eps)
        kernel = np.moveaxis(state[f"{layer}.{unit}.weight"], (0, 1), (-1, -2)) * scale
        params[layer] = {"kernel": kernel.astype(np.float32),
                         "bias": (bias - mean * scale).astype(np.float32)}
    return params


def run(params: Mapping[str, Any], chain: Chain, x_BC: jax.Array) -> jax.Array:
    """(B, ..., C) -> (B, ..., C)."""
    return _walk(chain, x_BC, lambda step, x: jax.nn.relu(convolved(params[step.name], x, step)),
                 _pooled, lambda parts: jnp.concatenate(parts, axis=-1))


def convolved(layer: Mapping[str, Any], x_BC: jax.Array, step: Conv) -> jax.Array:
    """(B, ..., C) -> (B, ..., C), with its bias."""
    strides = (step.stride,) * len(step.kernel)
    if len(strides) == 3:
        return sliding.convolve(x_BC, layer["kernel"], strides, step.padding) + layer["bias"]
    return lax.conv_general_dilated(x_BC, layer["kernel"], strides, step.padding,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC")) + layer["bias"]


def _pooled(step: Pool, x_BC):
    if step.kind == "max":
        return sliding.largest(x_BC, step.window, step.stride, step.padding)
    window, stride = (1, *step.window, 1), (1, *step.stride, 1)
    total = lax.reduce_window(x_BC, 0.0, lax.add, window, stride, step.padding)
    return total / lax.reduce_window(jnp.ones_like(x_BC[:1, ..., :1]), 0.0, lax.add, window,
                                     stride, step.padding)
