"""MobileNetV3 as timm's "minimal" models have it (Howard et al. 2019, arXiv:1905.02244): kernels of
3 x 3 only, rectifiers throughout, no squeeze and excitation; TensorFlow's padding.

A network is what its arrays say: names and shapes of a file decide widths.
Suffixes: B batch, H height, W width, C channels, M widened channels.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.weights import names

EPS = 1e-3  # of its batch norms
NORM = ("weight", "bias", "running_mean", "running_var")
STEM = "conv_stem"


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks one behind the other.

    Attributes:
      blocks: how many.
      stride: of the first.
    """

    blocks: int
    stride: int


# the stages between the separable block 0 and the last convolution
SMALL = (2, (Stage(2, 2), Stage(3, 2), Stage(2, 1), Stage(3, 2)))
LARGE = (1, (Stage(2, 2), Stage(3, 2), Stage(4, 2), Stage(2, 1), Stage(3, 2)))
Kind = tuple[int, tuple[Stage, ...]]  # stride of block 0, stages


def layers(kind: Kind) -> Iterator[tuple[str, tuple[tuple[str, str], ...], int]]:
    """(block, (convolution, its norm) in order, stride) of every block; the stem is the first."""
    first, stages = kind
    yield "", ((STEM, "bn1"),), 2
    yield "blocks.0.0", (("conv_dw", "bn1"), ("conv_pw", "bn2")), first
    for number, stage in enumerate(stages, 1):
        for block in range(stage.blocks):
            yield (f"blocks.{number}.{block}",
                   (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
                   1 if block else stage.stride)
    yield f"blocks.{len(stages) + 1}.0", (("conv", "bn1"),), 1


def shapes(kind: Kind, state: Mapping[str, np.ndarray]) -> tuple[dict[str, names.Shape],
                                                                 int | None]:
    """({published name: shape}, channels that come out); widths are what the file's norms show."""
    out: dict[str, names.Shape] = {}
    width: int | None = 3
    for block, convolutions, _ in layers(kind):
        for convolution, norm in convolutions:
            conv, bn = (".".join(filter(None, (block, part))) for part in (convolution, norm))
            bias = state.get(f"{bn}.bias")
            made = None if bias is None else bias.size
            kernel = 3 if convolution in (STEM, "conv_dw") else 1
            out[f"{conv}.weight"] = (made, 1 if convolution == "conv_dw" else width, kernel, kernel)
            out |= {f"{bn}.{part}": (made,) for part in NORM}
            width = made
    return out, width


def folded(kind: Kind, state: Mapping[str, np.ndarray]) -> list[list[dict[str, np.ndarray]]]:
    """For every block its convolutions, {"kernel" (3, 3, C in or 1, C out) or (C in, C out),
    "bias" (C out,)} float32, norms folded in."""
    out = []
    for block, convolutions, _ in layers(kind):
        found = []
        for convolution, norm in convolutions:
            conv, bn = (".".join(filter(None, (block, part))) for part in (convolution, norm))
            gain, bias, mean, variance = (np.asarray(state[f"{bn}.{part}"], np.float64)
                                          for part in NORM)
            scale = gain / np.sqrt(variance + EPS)
            kernel = np.transpose(state[f"{conv}.weight"], (2, 3, 1, 0)) * scale
            kernel = kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel
            found.append({"kernel": kernel.astype(np.float32),
                          "bias": (bias - mean * scale).astype(np.float32)})
        out.append(found)
    return out


def maps(params: list, kind: Kind, x_BHWC: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """(B, H, W, 3) -> (block, (B, H, W, C)) of every block; that of the stem is ""."""
    for (block, convolutions, stride), given in zip(layers(kind), params, strict=True):
        x_BHWC = _block(given, [name for name, _ in convolutions], stride, x_BHWC)
        yield block, x_BHWC


def _block(params: list, convolutions: list[str], stride: int, x_BHWC: jax.Array) -> jax.Array:
    before_BHWC = x_BHWC
    for layer, name in zip(params, convolutions, strict=True):
        if name == STEM:
            x_BHWC = lax.conv_general_dilated(
                x_BHWC, layer["kernel"], (stride, stride), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC")) + layer["bias"]
        elif name == "conv_dw":
            x_BHWC = _each_channel(layer["kernel"], stride, x_BHWC) + layer["bias"]
        else:
            x_BHWC = x_BHWC @ layer["kernel"] + layer["bias"]
        last = layer is params[-1]
        if not last or name not in ("conv_pwl", "conv_pw"):  # projections stay linear
            x_BHWC = jax.nn.relu(x_BHWC)
    # where a block keeps the shape its input is added; a stem or a last convolution has no such
    same = stride == 1 and len(params) > 1 and before_BHWC.shape == x_BHWC.shape
    return before_BHWC + x_BHWC if same else x_BHWC


def _each_channel(kernel_331M: jax.Array, stride: int, x_BHWM: jax.Array) -> jax.Array:
    """A depthwise convolution, padded as TensorFlow's SAME, as a sum of nine products: XLA's own
    grouped convolutions are slow on CPUs."""
    height, width = (-(-size // stride) for size in x_BHWM.shape[1:3])
    pads = [(0, 0)]
    for size, made in zip(x_BHWM.shape[1:3], (height, width), strict=True):
        total = max((made - 1) * stride + 3 - size, 0)
        pads.append((total // 2, total - total // 2))
    x_BHWM = jnp.pad(x_BHWM, [*pads, (0, 0)])
    return sum(x_BHWM[:, i:i + (height - 1) * stride + 1:stride,
                      j:j + (width - 1) * stride + 1:stride] * kernel_331M[i, j, 0]
               for i in range(3) for j in range(3))
