"""SyncNet (Chung and Zisserman 2016): do lips move with the sound? Sound and lips become points of
one space; LSE-D and LSE-C (Prajwal et al. 2020) are read off their distances at every shift.

Published as github.com/joonson/syncnet_python, `syncnet_v2.model`. 25 frames a second, five of them
a window; 16 kHz, 20 frames of MFCC (0.2 s) a window.
Suffixes: N samples, T frames of pictures, W windows, K frames of a window, M coefficients,
F frequency bins, E embedding, V shifts, C channels, H height, X width.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from scipy import fft

from avjax.nn import sliding
from avjax.sharding import rows
from avjax.weights import names
from avjax.weights.reader import read_state_dict
from eval.networks.placed import Placed

FPS, SAMPLE_RATE, SIZE = 25, 16000, 224
PICTURES, STEPS = 5, 20  # of a window
STEPS_A_PICTURE = 4
SHIFTS = 15  # frames to either side
COEFFICIENTS, BANDS, POINTS = 13, 26, 512
FRAME, HOP = 400, 160
PREEMPHASIS, LIFTER, EPS = 0.97, 22, np.finfo(float).eps
BLOCK = 8  # windows of pictures that a row holds
TOGETHER = 16  # rows, on an accelerator
WHAT = "these are not SyncNet's weights"
_BN_EPS = 1e-5
# (published convolution, kernel, stride, padding, then max pool: window, stride, padding)
AUDIO = (("netcnnaud.0", (3, 3), 1, 1, None),
         ("netcnnaud.4", (3, 3), 1, 1, ((3, 3), (1, 2), 0)),
         ("netcnnaud.8", (3, 3), 1, 1, None), ("netcnnaud.11", (3, 3), 1, 1, None),
         ("netcnnaud.14", (3, 3), 1, 1, ((3, 3), (2, 2), 0)), ("netcnnaud.18", (5, 4), 1, 0, None))
LIPS = (("netcnnlip.0", (5, 7, 7), 2, 0, ((3, 3), (2, 2), 0)),
        ("netcnnlip.4", (1, 5, 5), 2, 1, ((3, 3), (2, 2), 1)),
        ("netcnnlip.8", (1, 3, 3), 1, 1, None), ("netcnnlip.11", (1, 3, 3), 1, 1, None),
        ("netcnnlip.14", (1, 3, 3), 1, 1, ((3, 3), (2, 2), 0)),
        ("netcnnlip.18", (1, 6, 6), 1, 0, None))
HEADS = ("netfcaud", "netfclip")


# ---- weights

def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> {published layer: {"kernel", "bias"}} float32, batch norms folded
    into the layer before them. Raises Unlike (a UserError) with every array that is missing, left
    over or of another shape."""
    state = {name: np.asarray(x, np.float32) for name, x in state.items()
             if not name.endswith(".num_batches_tracked")}
    differ = names.compare({n: x.shape for n, x in state.items()}, _expected(state), WHAT,
                           where=where, hint="give the file as it is published, syncnet_v2.model")
    if differ.differs:
        raise differ
    params = {}
    for layer in _layers():
        kernel, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        norm = _norm_of(layer)
        if norm:
            scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _BN_EPS)
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            bias = (bias - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"]
        if kernel.ndim == 5 and kernel.shape[2] == 1:  # of a single picture
            kernel = kernel[:, :, 0]
        params[layer] = {"kernel": np.moveaxis(kernel, (1, 0), (-2, -1)), "bias": bias}
    return params


def _layers() -> list[str]:
    return [*(name for name, *_ in AUDIO + LIPS), *(f"{h}.{i}" for h in HEADS for i in (0, 3))]


def _norm_of(layer: str) -> str:
    """The published batch norm behind a layer, "" behind the last ones."""
    part, number = layer.split(".")
    return "" if part in HEADS and number == "3" else f"{part}.{int(number) + 1}"


def _expected(state) -> dict[str, names.Shape]:
    """{published name: shape}; widths that the file's biases show."""
    def width(layer):
        return state[f"{layer}.bias"].size if f"{layer}.bias" in state else None

    shapes: dict[str, names.Shape] = {}
    for tower, head, channels in ((AUDIO, "netfcaud", 1), (LIPS, "netfclip", 3)):
        before: int | None = channels
        for layer, kernel, *_ in tower:
            shapes[layer] = (width(layer), before, *kernel)
            before = width(layer)
        for layer in (f"{head}.0", f"{head}.3"):
            shapes[layer] = (width(layer), before)
            before = width(layer)
    out = {}
    for layer, shape in shapes.items():
        out |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
        if norm := _norm_of(layer):
            out |= {f"{norm}.{part}": shape[:1]
                    for part in ("weight", "bias", "running_mean", "running_var")}
    # both are points of one space
    out["netfclip.3.weight"] = (width("netfcaud.3"), out["netfclip.3.weight"][1])
    out["netfclip.3.bias"] = (width("netfcaud.3"),)
    return out


# ---- networks

def convolved(params: dict, x_BHXC, tower) -> Iterator[jax.Array]:
    """The maps behind every layer of a tower (convolution, rectifier, max pool); B are pictures in
    time for one that begins with a kernel over time, and come out as windows."""
    for layer, _, stride, pad, pool in tower:
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        if kernel.ndim == 5:
            x_BHXC = sliding.convolve(x_BHXC[None], kernel, (1, stride, stride), "VALID")[0]
        else:
            x_BHXC = lax.conv_general_dilated(x_BHXC, kernel, (stride, stride), [(pad, pad)] * 2,
                                              dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x_BHXC = jax.nn.relu(x_BHXC + bias)
        if pool:
            window, strides, pad = pool
            x_BHXC = sliding.largest(x_BHXC, window, strides, [(pad, pad)] * 2)
        yield x_BHXC


def _headed(params, x_BHXC, head: str):
    *_, C = x_BHXC.shape
    x = x_BHXC.reshape(-1, C) @ params[f"{head}.0"]["kernel"] + params[f"{head}.0"]["bias"]
    return jax.nn.relu(x) @ params[f"{head}.3"]["kernel"] + params[f"{head}.3"]["bias"]


def embed_sound(params: dict, mfcc_WMK):
    """(W, 13, 20) MFCC of windows -> (W, E)."""
    with jax.default_matmul_precision("float32"):
        *_, x = convolved(params, mfcc_WMK[..., None], AUDIO)
        return _headed(params, x, "netfcaud")


def embed_lips(params: dict, pictures_THXC):
    """(T, 224, 224, 3) pictures, BGR, 0 to 255 -> (T - 4, E)."""
    with jax.default_matmul_precision("float32"):
        *_, x = convolved(params, pictures_THXC.astype(jnp.float32), LIPS)
        return _headed(params, x, "netfclip")


_SOUND_OF_ROWS = jax.jit(lambda params, x_BMK: embed_sound(params, x_BMK))
_LIPS_OF_ROWS = jax.jit(jax.vmap(embed_lips, in_axes=(None, 0)))


# ---- sound

@functools.cache
def filterbank() -> np.ndarray:
    """(26, 257): triangles between whole bins, 0 to 8 kHz, evenly spaced on the mel scale."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    edges = np.floor((POINTS + 1) * edges / SAMPLE_RATE)
    bins_F = np.arange(POINTS // 2 + 1)
    out = np.zeros((BANDS, len(bins_F)))
    for band, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (low <= bins_F) & (bins_F < middle), (middle <= bins_F) & (bins_F < high)
        out[band, rising] = (bins_F[rising] - low) / (middle - low)
        out[band, falling] = (high - bins_F[falling]) / (high - middle)
    return out


def spectrum(audio_N: np.ndarray) -> np.ndarray:
    """(N,) int16 samples at 16 kHz -> (frames, 257) power, of 25 ms every 10 ms; the last frame is
    filled up with zeros."""
    x_N = np.asarray(audio_N, np.float64)
    x_N = np.append(x_N[:1], x_N[1:] - PREEMPHASIS * x_N[:-1])
    count = 1 + max(0, -(-(len(x_N) - FRAME) // HOP))
    x_N = np.pad(x_N, (0, max(0, (count - 1) * HOP + FRAME - len(x_N))))
    frames = np.lib.stride_tricks.sliding_window_view(x_N, FRAME)[::HOP][:count]
    return np.abs(np.fft.rfft(frames, POINTS)) ** 2 / POINTS


def mfcc(audio_N: np.ndarray) -> np.ndarray:
    """(N,) int16 samples at 16 kHz -> (frames, 13) float64 at 100 Hz, the first of them the log
    energy; as the package python_speech_features at its defaults."""
    power_F = spectrum(audio_N)
    energy, bands = power_F.sum(1), power_F @ filterbank().T
    energy, bands = (np.where(x == 0, EPS, x) for x in (energy, bands))
    out = fft.dct(np.log(bands), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    out *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    out[:, 0] = np.log(energy)
    return out


def count_windows(pictures: int, samples: int) -> int:
    """Windows that the published code looks at: it leaves out the last one."""
    return max(0, min(pictures, samples // (SAMPLE_RATE // FPS)) - PICTURES)


def sound_windows(mfcc_TM: np.ndarray, count: int) -> np.ndarray:
    """(frames, 13) -> (count, 13, 20): window i begins with picture i."""
    views = np.lib.stride_tricks.sliding_window_view(mfcc_TM, STEPS, axis=0)
    return views[::STEPS_A_PICTURE][:count]


# ---- distances

def distances(lips_WE: np.ndarray, sound_WE: np.ndarray, shifts: int = SHIFTS) -> np.ndarray:
    """(W, 2 `shifts` + 1): of lips i from sound i + v - `shifts`, which is 0 beyond both ends;
    1e-6 is added to every difference."""
    lips_WE, sound_WE = (np.asarray(x, np.float64) for x in (lips_WE, sound_WE))
    padded = np.pad(sound_WE, ((shifts, shifts), (0, 0)))
    return np.stack([np.linalg.norm(lips_WE - padded[v:v + len(lips_WE)] + 1e-6, axis=1)
                     for v in range(2 * shifts + 1)], axis=1)


def scores(distances_WV: np.ndarray) -> dict[str, float]:
    """LSE_D, the mean distance at the best shift; LSE_C, by how much the median of all shifts
    exceeds it; LSE_offset, in frames: 1 where the pictures come a frame after their sound."""
    mean_V = distances_WV.mean(0)
    best = int(mean_V.argmin())
    return {"LSE_D": float(mean_V[best]), "LSE_C": float(np.median(mean_V) - mean_V[best]),
            "LSE_offset": float(len(mean_V) // 2 - best)}


class SyncNet:
    """Of a file's arrays.

    Args:
      state: {published name: array}.
      where: of the reader's error.
      together: blocks of BLOCK windows that a device takes at once; no number depends on it.
      mesh: over whose data axes they are split; None = all devices of this process.
    """

    def __init__(self, state: dict[str, np.ndarray], where: str = "",
                 together: int | None = None, mesh: Mesh | None = None):
        self._rows = Placed(import_params(state, where), together or rows.at_once(TOGETHER), mesh)

    def lips(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Any number T of (224, 224, 3) uint8 pictures, BGR -> (T - 4, E)."""
        count = 0

        def blocks():
            nonlocal count
            held: list[np.ndarray] = []
            for picture in pictures:
                held.append(picture)
                count += 1
                if len(held) == BLOCK + PICTURES - 1:
                    yield np.stack(held)
                    held = held[BLOCK:]
            if len(held) >= PICTURES:
                yield rows.stacked([np.stack(held)], 1, BLOCK + PICTURES - 1)[0]

        found = self._rows(_LIPS_OF_ROWS, blocks())
        return np.concatenate(found)[:count - PICTURES + 1] if found else np.zeros((0, 0))

    def sound(self, windows_WMK: np.ndarray) -> np.ndarray:
        """(W, 13, 20) -> (W, E)."""
        return np.stack(self._rows(_SOUND_OF_ROWS, np.asarray(windows_WMK, np.float32), BLOCK))

    def __call__(self, pictures: Iterable[np.ndarray], count: int,
                 audio_N: np.ndarray) -> dict[str, float] | None:
        """`scores` of a clip; None where it is too short for a window.

        Args:
          pictures: (224, 224, 3) uint8, BGR, at 25 frames a second.
          count: of them.
          audio_N: int16 samples at 16 kHz; both begin together.
        """
        windows = count_windows(count, len(audio_N))
        if not windows:
            return None
        lips_WE = self.lips(pictures)[:windows]
        return scores(distances(lips_WE, self.sound(sound_windows(mfcc(audio_N), windows))))


def load(path) -> SyncNet:
    """Of a published file. UserError: unreadable, or of another network."""
    return SyncNet(read_state_dict(path), where=str(path))
