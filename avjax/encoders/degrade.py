"""Degraded portraits: blur, rotation, another light. For training rows and for tests of
robustness; numpy.

Pictures (H, W, C) uint8, or maps of floats; the dtype is kept. Borders are drawn out.
"""

import functools

import numpy as np
from scipy import ndimage


def blur(picture_HWC: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` pixels."""
    wide = ndimage.gaussian_filter(picture_HWC.astype(np.float32), (sigma, sigma, 0),
                                   mode="nearest")
    return _like(wide, picture_HWC)


def rotate(pictures_NHWC: np.ndarray, degrees: float) -> np.ndarray:
    """About the middle, bilinear; positive turns counter-clockwise as seen. Any leading axes, or
    none."""
    height, width = pictures_NHWC.shape[-3:-1]
    flat = pictures_NHWC.reshape(*pictures_NHWC.shape[:-3], height * width,
                                 pictures_NHWC.shape[-1]).astype(np.float32)
    at, weight = _corners(height, width, float(degrees))
    wide = sum(flat[..., at[k], :] * weight[k][:, None] for k in range(4))
    return _like(wide.reshape(pictures_NHWC.shape), pictures_NHWC)


@functools.lru_cache(maxsize=64)
def _corners(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The four old pixels around each new one and their weights, (4, height * width) each."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y.reshape(-1) - (height - 1) / 2, x.reshape(-1) - (width - 1) / 2
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    y, x = cosine * y + sine * x + (height - 1) / 2, -sine * y + cosine * x + (width - 1) / 2
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    down, right = y - top, x - left
    at = top * width + left
    weight = np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right),
                       down * right])
    return np.stack([at, at + 1, at + width, at + width + 1]), weight.astype(np.float32)


def tint(picture_HWC: np.ndarray, gain_C: np.ndarray, offset_C: np.ndarray) -> np.ndarray:
    """x * gain + offset for each channel; offset in shares of the full range of uint8."""
    return _like(picture_HWC * gain_C.astype(np.float32) + 255 * offset_C.astype(np.float32),
                 picture_HWC)


def degrade(picture_HWC: np.ndarray, rng: np.random.Generator, *, sigma: float, degrees: float,
            colour: float,
            share: float) -> np.ndarray:
    """One random degradation: a `share` of pictures is rotated by up to `degrees`, a `share`
    blurred by up to `sigma`, and all pictures (not maps) are tinted by up to `colour`."""
    if degrees and rng.random() < share:
        picture_HWC = rotate(picture_HWC, rng.uniform(-degrees, degrees))
    if sigma and rng.random() < share:
        picture_HWC = blur(picture_HWC, rng.uniform(0, sigma))
    if colour and picture_HWC.dtype == np.uint8:
        gain_C, offset_C = rng.uniform(-colour, colour, (2, picture_HWC.shape[-1]))
        picture_HWC = tint(picture_HWC, 1 + gain_C, offset_C)
    return picture_HWC


def _like(wide: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return np.clip(np.round(wide), 0,
                   255).astype(np.uint8) if picture.dtype == np.uint8 else wide.astype(
                       picture.dtype)
