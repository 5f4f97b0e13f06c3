"""I3D, Inception inflated to three dimensions (Carreira and Zisserman 2017, arXiv:1705.07750), as
FVD sees clips (Unterthiner et al. 2018, arXiv:1812.01717): its 400 logits of Kinetics.

Published by github.com/songweige/TATS, `i3d_pretrained_400.pt`, with eps 1e-5 in batch norms
(TensorFlow's original has 1e-3, which moves logits by 5%).
Suffixes: B batch, T frames of a clip, H height, W width, C channels, K clips.
"""

import itertools
import math
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from avjax.sharding import rows
from avjax.weights import names
from avjax.weights.reader import read_state_dict
from eval.networks.pictures.convolutions import (
    Branches,
    Chain,
    Conv,
    Pool,
    convolved,
    folded,
    run,
    shapes,
)
from eval.networks.placed import Placed

SIZE, FRAMES = 224, 16
EPS = 1e-5  # of its batch norms
FILE = "i3d_pretrained_400.pt"
TOGETHER = 8  # clips, on an accelerator
LAST = Conv("logits", (1, 1, 1))


def _mixed(block: str) -> Chain:
    def conv(name, size):
        return Conv(f"{block}.{name}", (size,) * 3)

    return Branches((
        (conv("b0", 1),), (conv("b1a", 1), conv("b1b", 3)), (conv("b2a", 1), conv("b2b", 3)),
        (Pool("max", (3, 3, 3), (1, 1, 1)), conv("b3b", 1)))),


BLOCKS: dict[str, Chain] = {
    "Conv3d_1a_7x7": (Conv("Conv3d_1a_7x7", (7, 7, 7), 2),),
    "MaxPool3d_2a_3x3": (Pool("max", (1, 3, 3), (1, 2, 2)),),
    "Conv3d_2b_1x1": (Conv("Conv3d_2b_1x1", (1, 1, 1)),),
    "Conv3d_2c_3x3": (Conv("Conv3d_2c_3x3", (3, 3, 3)),),
    "MaxPool3d_3a_3x3": (Pool("max", (1, 3, 3), (1, 2, 2)),),
    **{name: _mixed(name) for name in ("Mixed_3b", "Mixed_3c")},
    "MaxPool3d_4a_3x3": (Pool("max", (3, 3, 3), (2, 2, 2)),),
    **{name: _mixed(name) for name in ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e",
                                       "Mixed_4f")},
    "MaxPool3d_5a_2x2": (Pool("max", (2, 2, 2), (2, 2, 2)),),
    **{name: _mixed(name) for name in ("Mixed_5b", "Mixed_5c")},
}


def expected(state: dict[str, np.ndarray]) -> dict[str, names.Shape]:
    """{published name: shape} for the widths that a file shows."""
    out, width = shapes(BLOCKS, state, "conv3d")
    bias = state.get("logits.conv3d.bias")
    classes = None if bias is None else bias.size
    return out | {"logits.conv3d.weight": (classes, width, *LAST.kernel),
                  "logits.conv3d.bias": (classes,)}


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> parameters of `maps` and `logits`. Raises Unlike (a UserError)
    with every array that is missing, left over or of another shape."""
    state = {name: x for name, x in state.items() if not name.endswith(".num_batches_tracked")}
    names.check_arrays({n: np.shape(x) for n, x in state.items()}, expected(state),
                       "these are not the weights of FVD's I3D", where=where,
                       hint=f"give the file as it is published, {FILE}")
    kernel = np.moveaxis(np.asarray(state["logits.conv3d.weight"], np.float32), (0, 1), (-1, -2))
    return folded(state, "conv3d", EPS) | {
        LAST.name: {"kernel": kernel, "bias": np.asarray(state["logits.conv3d.bias"], np.float32)}}


def resized(clips_BTHWC: jax.Array, crop: bool = False) -> jax.Array:
    """(B, T, H, W, 3) 0 to 255 -> (B, T, 224, 224, 3) in [-1, 1]: bilinear, half-pixel centres, no
    antialiasing. The aspect ratio is not kept, as by cd-fvd and TATS; with `crop` the shorter side
    becomes 224 and the middle is taken, as by common_metrics_on_video_quality."""
    *front, H, W, C = clips_BTHWC.shape
    scale = SIZE / min(H, W)
    size = [SIZE if n == min(H, W) or not crop else math.ceil(n * scale) for n in (H, W)]
    x = clips_BTHWC.astype(jnp.float32).reshape(-1, H, W, C)
    x = jax.image.resize(x, (len(x), *size, C), "bilinear", antialias=False)
    top, left = ((n - SIZE) // 2 for n in size)
    x = x[:, top:top + SIZE, left:left + SIZE]
    return 2 * x.reshape(*front, SIZE, SIZE, C) / 255 - 1


def maps(params: dict, x_BTHWC: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """(B, T, 224, 224, 3) -> (block, (B, T, H, W, C)) of every one of BLOCKS."""
    for block, chain in BLOCKS.items():
        x_BTHWC = run(params, chain, x_BTHWC)
        yield block, x_BTHWC


def logits(params: dict, x_BTHWC: jax.Array) -> jax.Array:
    """The last of `maps` -> (B, classes)."""
    window = (2, *x_BTHWC.shape[2:4])
    mean_BTHWC = lax.reduce_window(x_BTHWC, 0.0, lax.add, (1, *window, 1), (1,) * 5,
                                   "VALID") / math.prod(window)
    return convolved(params[LAST.name], mean_BTHWC, LAST).mean((1, 2, 3))


def seen(params: dict, clips_BTHWC: jax.Array) -> jax.Array:
    """(B, T, H, W, 3) uint8 RGB -> (B, 2, classes): resized, and cropped."""
    def network(crop):
        *_, (_, x) = maps(params, resized(clips_BTHWC, crop))
        return logits(params, x)

    with jax.default_matmul_precision("float32"):
        whole = network(False)
        square = clips_BTHWC.shape[2] == clips_BTHWC.shape[3]
        return jnp.stack([whole, whole if square else network(True)], axis=1)


_SEEN = jax.jit(seen)


class I3D:
    """Of a file's arrays.

    Args:
      state: {published name: array}.
      where: of the reader's error.
      together: clips that a device takes at once; numbers do not depend on it.
      mesh: over whose data axes they are split; None = all devices of this process.
    """

    def __init__(self, state: dict[str, np.ndarray], where: str = "",
                 together: int | None = None, mesh: Mesh | None = None):
        self._rows = Placed(import_params(state, where), together or rows.at_once(TOGETHER), mesh)

    def __call__(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """(H, W, 3) uint8 RGB pictures of one size -> (K, 2, classes) float32 of every 16 that
        follow one another, resized and cropped; what is left at the end is left out. (0, 2, 0) of
        fewer than 16."""
        def clips():
            left = iter(pictures)
            while len(clip := list(itertools.islice(left, FRAMES))) == FRAMES:
                yield np.stack(clip)

        found = self._rows(_SEEN, clips())
        return np.stack(found) if found else np.zeros((0, 2, 0), np.float32)


def load(path) -> I3D:
    """Of a published file. UserError: unreadable, or of another network."""
    return I3D(read_state_dict(path), where=str(path))
