"""Layers of LIA-X (Wang et al. 2025), most of them StyleGAN2's (Karras et al. 2020): pure functions
of arrays and of parameters {published name: array} as `weights.prepared` lays them out.

Kernels are (k, k, in, out) with their run-time scale 1 / sqrt(k k in) folded in.
Suffixes: B batch, H W size, C channels, S style.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from avjax.nn import winograd

SLOPE = 0.2  # of the leaky ReLU
GROUPS = 32
GROUP_EPS = 1e-5
DEMODULATION_EPS = 1e-8
TAPS = (1.0, 3.0, 3.0, 1.0)  # of the blur, along each axis
PRECISION = lax.Precision.HIGHEST  # sampling at a warped place amplifies rounding


def _on_cpu() -> bool:
    """Where products are bound by arithmetic, less of them pay for more sums and arrays."""
    return jax.default_backend() == "cpu"


def conv(x_BHWC, kernel, stride: int = 1, padding: int | None = None):
    """Correlation with a kernel; `padding` None keeps the size."""
    if (stride == 1 and padding is None and _on_cpu()
            and winograd.takes(x_BHWC.shape[:3], kernel.shape)):
        return winograd.convolve(x_BHWC, kernel)
    reach = kernel.shape[0] // 2 if padding is None else padding
    return lax.conv_general_dilated(x_BHWC, kernel, (stride, stride), [(reach, reach)] * 2,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                    precision=PRECISION)


def activate(x, bias):
    """Leaky ReLU that keeps the scale."""
    return jax.nn.leaky_relu(x + bias, SLOPE) * 2**0.5


def blur(x_BHWC, pad: int):
    """Binomial low-pass over `pad` zeros on every side: the size grows by 2 pad - 3."""
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (pad, pad)
        wide = jnp.pad(x_BHWC, widths)
        size = wide.shape[axis] - len(TAPS) + 1
        x_BHWC = sum(tap / sum(TAPS) * lax.slice_in_dim(wide, k, k + size, axis=axis)
                     for k, tap in enumerate(TAPS))
    return x_BHWC


def upsample(x_BHWC):
    """Twice the size: zeros between the pixels, then the blur with gain 4. Of its four taps two
    meet a pixel: 1/4 and 3/4."""
    for axis in (1, 2):
        size = x_BHWC.shape[axis]
        widths = [(0, 0)] * 4
        widths[axis] = (1, 1)
        wide = jnp.pad(x_BHWC, widths)
        before, after = (lax.slice_in_dim(wide, k, k + size, axis=axis) for k in (0, 2))
        pairs = jnp.stack([before + 3 * x_BHWC, 3 * x_BHWC + after], axis + 1) / 4
        shape = list(x_BHWC.shape)
        shape[axis] *= 2
        x_BHWC = pairs.reshape(shape)
    return x_BHWC


def conv_layer(p, name: str, x_BHWC, *, down: bool = False, up: bool = False):
    """Blurred resampling, convolution, and the activation where there is a bias."""
    at = int(down or up)  # the blur has a number of its own in the published names
    kernel = p[f"{name}.{at}.weight"]
    if up:
        x_BHWC = upsample(x_BHWC)
    if down:
        x_BHWC = conv(blur(x_BHWC, 1 + kernel.shape[0] // 2), kernel, 2, 0)
    else:
        x_BHWC = conv(x_BHWC, kernel)
    bias = p.get(f"{name}.{at + 1}.bias")
    return x_BHWC if bias is None else activate(x_BHWC, bias)


def residual(p, name: str, x_BHWC, *, down: bool = False):
    """(two convolutions + skip) / sqrt(2), at half the size with `down`."""
    out_BHWC = conv_layer(p, f"{name}.conv2", conv_layer(p, f"{name}.conv1", x_BHWC), down=down)
    if f"{name}.skip.{int(down)}.weight" in p:
        x_BHWC = conv_layer(p, f"{name}.skip", x_BHWC, down=down)
    return (out_BHWC + x_BHWC) / 2**0.5


def linear(p, name: str, x_BC):
    """Affine map."""
    return jnp.dot(x_BC, p[f"{name}.weight"], precision=PRECISION) + p[f"{name}.bias"]


def modulated(p, name: str, x_BHWC, style_BS, *, up: bool = False, demodulate: bool = True):
    """Convolution whose input channels the style scales. `demodulate` divides each output channel
    by the norm of its scaled kernel. `up` doubles the size: transposed convolution, then blur."""
    kernel = p[f"{name}.weight"]
    scale_BC = linear(p, f"{name}.modulation", style_BS)
    x_BHWC = x_BHWC * scale_BC[:, None, None]
    if up:
        x_BHWC = (transposed_and_blurred(x_BHWC, kernel) if _on_cpu()
                  else interleaved(conv(x_BHWC, blurred_twofold(kernel))))
    else:
        x_BHWC = conv(x_BHWC, kernel)
    if demodulate:
        energy = jnp.dot(scale_BC**2, (kernel**2).sum((0, 1)), precision=PRECISION)
        x_BHWC = x_BHWC * lax.rsqrt(energy + DEMODULATION_EPS)[:, None, None]
    return x_BHWC


def blurred_twofold(kernel):
    """Transposed convolution of stride 2 and blur with gain 4 as one plain convolution, whose
    outputs are the four pixels of each input's place: (3, 3, in, out) -> (3, 3, in, 4 out).

    A pixel at i adds w[k] to place 2 i + k, which the blur's tap b carries to j = 2 i + k - b + 1.
    Output j = 2 q + a therefore takes the pixel at q + d by the sum of w[k] f[k + 1 - a + 2 d].
    """
    phase, offset, tap = np.ogrid[:2, -1:2, :3]
    b = tap + 1 - phase + 2 * offset
    taps = np.where((b >= 0) & (b < len(TAPS)), np.take(TAPS, b, mode="clip"), 0) * 2 / sum(TAPS)
    out = jnp.einsum("adk,cel,klio->deiaco", taps.astype(np.float32), taps.astype(np.float32),
                     kernel, precision=PRECISION)
    return out.reshape(*kernel.shape[:3], -1)


def transposed_and_blurred(x_BHWC, kernel):
    """The same as `interleaved` makes of that, in two steps: a quarter of the multiplications, and
    more arrays.

    Place 2 i + k gets w[k] of pixel i: at even places two pixels meet, at odd ones there is one.
    """
    taps = (kernel[::-2], kernel[1:2])  # of the pixels before and at an even place; at an odd one
    rows = []
    for a in range(2):
        places = [lax.conv_general_dilated(
            x_BHWC, along[:, ::-2] if b == 0 else along[:, 1:2], (1, 1),
            [(1 - a, 1), (1 - b, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION) for b, along in ((0, taps[a]), (1, taps[a]))]
        rows.append(jnp.stack(places, 3))
    y_BHW = jnp.stack(rows, 2)
    batch, height, _, width, _, channels = y_BHW.shape
    y_BHWC = y_BHW.reshape(batch, 2 * height, 2 * width, channels)
    return 4 * blur(y_BHWC[:, :-1, :-1], 1)


def interleaved(x_BHWC):
    """(B, H, W, 4 C), the pixels of 2 x 2 places -> (B, 2 H, 2 W, C)."""
    batch, height, width, channels = x_BHWC.shape
    apart = x_BHWC.reshape(batch, height, width, 2, 2, channels // 4)
    return apart.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


def styled(p, name: str, x_BHWC, style_BS, *, up: bool = False):
    """Modulated convolution, then the activation; no noise is injected."""
    return activate(modulated(p, f"{name}.conv", x_BHWC, style_BS, up=up),
                    p[f"{name}.activate.bias"])


def group_norm(p, name: str, x_BHWC):
    """Over the size and each of GROUPS groups of channels."""
    grouped = x_BHWC.reshape(*x_BHWC.shape[:3], GROUPS, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    var = ((grouped - mean)**2).mean((1, 2, 4), keepdims=True)
    normal = ((grouped - mean) * lax.rsqrt(var + GROUP_EPS)).reshape(x_BHWC.shape)
    return normal * p[f"{name}.weight"] + p[f"{name}.bias"]


def flow_residual(p, name: str, x_BHWC, style_BS):
    """c + gamma conv2(norm(c)), where c = conv1(x): what is skipped is conv2 alone."""
    c_BHWC = styled(p, f"{name}.conv1", x_BHWC, style_BS)
    normal = group_norm(p, f"{name}.norm", c_BHWC)
    return c_BHWC + p[f"{name}.gamma"] * styled(p, f"{name}.conv2", normal, style_BS)


def to_rgb(p, name: str, x_BHWC, before=None):
    """Pixels, added to the enlarged ones of the level below."""
    out = conv_layer(p, f"{name}.conv", x_BHWC) + p[f"{name}.bias"]
    return out if before is None else out + upsample(before)


def to_flow(p, name: str, x_BHWC, style_BS, features_BHWC, before=None):
    """Features of the portrait moved to where the style wants them.

    Returns:
      what was moved, masked; that with x where the mask is shut; the raw map (B, H, W, 3) of shifts
      (x, y) and mask, for the next level.
    """
    raw = modulated(p, f"{name}.conv", x_BHWC, style_BS, demodulate=False) + p[f"{name}.bias"]
    raw = raw if before is None else raw + upsample(before)
    height, width = x_BHWC.shape[1:3]
    shift = jnp.tanh(raw[..., :2])
    x = (jnp.arange(width) + shift[..., 0] * (width - 1) / 2)
    y = (jnp.arange(height)[:, None] + shift[..., 1] * (height - 1) / 2)
    mask = jax.nn.sigmoid(raw[..., 2:])
    moved = jax.vmap(sample)(features_BHWC, x, y) * mask
    return moved, moved + (1 - mask) * x_BHWC, raw


def sample(map_HWC, x_HW, y_HW):
    """A map at places in pixels, bilinear, zero outside."""
    height, width = map_HWC.shape[:2]
    left, top = jnp.floor(x_HW), jnp.floor(y_HW)
    out = 0.0
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - jnp.abs(x_HW - column)) * (1 - jnp.abs(y_HW - row))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        at = (jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)).astype(int)
        found = map_HWC.reshape(height * width, -1)[at]
        out = out + found * jnp.where(inside, weight, 0.0)[..., None]
    return out
