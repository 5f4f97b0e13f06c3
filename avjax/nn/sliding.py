"""Windows that slide over pictures in time: convolution and the largest value, as CPUs are fast at.

XLA's convolutions over time and space run on a CPU at 12 to 60 GFLOP/s a core where products of
matrices reach 80 to 90. Here a strip of output rows is unfolded at a time, so that it stays in the
cache: each picture once, then the pictures of each window in time side by side, and one product
makes the strip. Values are those of the plain sum, up to the order of its terms.

Suffixes: B batch, T time, H height, W width, C channels in, O channels out, K taps in time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

STRIP = 512  # outputs of a channel that are made together; measured: 256 to 1024 are as fast


def convolve(x_BTHWC, kernel_KHWCO, strides: tuple[int, int, int], padding: str = "SAME"):
    """(B, T, H, W, C) -> (B, T', H', W', O): correlation; padding (VALID or SAME) as lax has it. On
    accelerators by XLA's own convolution."""
    window = kernel_KHWCO.shape[:3]
    if jax.default_backend() != "cpu" or max(window) == 1:
        return lax.conv_general_dilated(x_BTHWC, kernel_KHWCO, strides, padding,
                                        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))
    pads = lax.padtype_to_pads(x_BTHWC.shape[1:4], window, strides, padding)
    return _by_strips(jnp.pad(x_BTHWC, ((0, 0), *pads, (0, 0))), kernel_KHWCO, strides)


def _by_strips(x_BTHWC, kernel_KHWCO, strides):
    """Without padding."""
    *window, C, O = kernel_KHWCO.shape
    taps, high, wide = window
    B, *size, _ = x_BTHWC.shape
    T, H, W = ((n - k) // s + 1 for n, k, s in zip(size, window, strides, strict=True))
    strips = -(-H // max(1, round(STRIP / (B * T * W))))
    rows = -(-H // strips)
    down = strides[1]
    # the last strip may reach beyond the picture; what it makes there is cut off
    lacking = max(0, down * (strips * rows - 1) + high - size[1])
    x_BTHWC = jnp.pad(x_BTHWC, ((0, 0), (0, 0), (0, lacking), (0, 0), (0, 0)))

    def every(x, axis, first, count):
        step = strides[axis - 1]
        return lax.slice_in_dim(x, first, first + step * (count - 1) + 1, step, axis)

    def strip(first):
        x = lax.dynamic_slice_in_dim(x_BTHWC, down * first, down * (rows - 1) + high, 2)
        x = jnp.concatenate([every(every(x, 2, i, rows), 3, j, W)
                             for i in range(high) for j in range(wide)], axis=-1)
        # the barriers keep what is unfolded from being computed anew by each reader
        x = lax.optimization_barrier(x)
        x = jnp.concatenate([every(x, 1, k, T) for k in range(taps)], axis=-1)
        x = lax.optimization_barrier(x.reshape(-1, np.prod(window) * C))
        return (x @ kernel_KHWCO.reshape(-1, O)).reshape(B, T, rows, W, O)

    made = lax.map(strip, jnp.arange(0, strips * rows, rows))
    return jnp.moveaxis(made, 0, 2).reshape(B, T, -1, W, O)[:, :, :H]


def largest(x_BC, window: tuple[int, ...], strides: tuple[int, ...], padding="VALID"):
    """(B, ..., C) -> (B, ..., C): the largest value of each window, an axis after the other: 3 + 3
    + 3 comparisons where 27 are made at once, and a tenth of the time.

    padding: VALID, SAME, or (before, after) of each of the axes between; counts for nothing.
    """
    def along(axis, entry, others):
        return [entry if i == axis else others for i in range(x_BC.ndim)]

    for i, (size, stride) in enumerate(zip(window, strides, strict=True)):
        if size > 1 or stride > 1:
            pads = padding if isinstance(padding, str) else along(i + 1, padding[i], (0, 0))
            x_BC = lax.reduce_window(x_BC, -jnp.inf, lax.max, along(i + 1, size, 1),
                                     along(i + 1, stride, 1), pads)
    return x_BC
