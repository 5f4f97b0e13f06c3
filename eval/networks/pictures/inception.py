"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567) as FID sees pictures (Heusel et al. 2017):
its last features, averaged over the picture, 2048 of them.

Published by github.com/mseitzer/pytorch-fid, `pt_inception-2015-12-05-6726825d.pth`: TensorFlow's
weights of 2015, whose pools differ from those of other Inceptions.
Suffixes: B batch, N pictures, H height, W width, C channels, D features.
"""

from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.sharding import rows
from avjax.weights import names
from avjax.weights.reader import read_state_dict
from eval.networks.pictures.convolutions import Branches, Chain, Conv, Pool, folded, run, shapes
from eval.networks.placed import Placed

SIZE = 299
EPS = 1e-3  # of its batch norms
FILE = "pt_inception-2015-12-05-6726825d.pth"
TOGETHER = 64  # pictures, on an accelerator
UNUSED = ("fc.weight", "fc.bias")  # its classifier
_HALVE = Pool("max", (3, 3), (2, 2), "VALID")
_MEAN = Pool("mean", (3, 3), (1, 1))
_MAX = Pool("max", (3, 3), (1, 1))


def _chain(block: str, *steps: tuple | Pool) -> Chain:
    """Of (name, height, width) and, where it halves the picture, "halve"."""
    return tuple(step if isinstance(step, Pool) else
                 Conv(f"{block}.{step[0]}", step[1:3]) if len(step) == 3 else
                 Conv(f"{block}.{step[0]}", step[1:3], 2, "VALID") for step in steps)


def _fives(block: str) -> Chain:
    return Branches((
        _chain(block, ("branch1x1", 1, 1)),
        _chain(block, ("branch5x5_1", 1, 1), ("branch5x5_2", 5, 5)),
        _chain(block, ("branch3x3dbl_1", 1, 1), ("branch3x3dbl_2", 3, 3),
               ("branch3x3dbl_3", 3, 3)),
        _chain(block, _MEAN, ("branch_pool", 1, 1)))),


def _sevens(block: str) -> Chain:
    return Branches((
        _chain(block, ("branch1x1", 1, 1)),
        _chain(block, ("branch7x7_1", 1, 1), ("branch7x7_2", 1, 7), ("branch7x7_3", 7, 1)),
        _chain(block, ("branch7x7dbl_1", 1, 1), ("branch7x7dbl_2", 7, 1), ("branch7x7dbl_3", 1, 7),
               ("branch7x7dbl_4", 7, 1), ("branch7x7dbl_5", 1, 7)),
        _chain(block, _MEAN, ("branch_pool", 1, 1)))),


def _spread(block: str, pooled: Pool) -> Chain:
    def both(name):
        return Branches((_chain(block, (f"{name}a", 1, 3)), _chain(block, (f"{name}b", 3, 1))))

    return Branches((
        _chain(block, ("branch1x1", 1, 1)),
        (*_chain(block, ("branch3x3_1", 1, 1)), both("branch3x3_2")),
        (*_chain(block, ("branch3x3dbl_1", 1, 1), ("branch3x3dbl_2", 3, 3)),
         both("branch3x3dbl_3")),
        _chain(block, pooled, ("branch_pool", 1, 1)))),


BLOCKS: dict[str, Chain] = {
    "Conv2d_1a_3x3": (Conv("Conv2d_1a_3x3", (3, 3), 2, "VALID"),),
    "Conv2d_2a_3x3": (Conv("Conv2d_2a_3x3", (3, 3), 1, "VALID"),),
    "Conv2d_2b_3x3": (Conv("Conv2d_2b_3x3", (3, 3)),),
    "block0": (_HALVE,),
    "Conv2d_3b_1x1": (Conv("Conv2d_3b_1x1", (1, 1)),),
    "Conv2d_4a_3x3": (Conv("Conv2d_4a_3x3", (3, 3), 1, "VALID"),),
    "block1": (_HALVE,),
    **{name: _fives(name) for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d")},
    "Mixed_6a": (Branches((
        _chain("Mixed_6a", ("branch3x3", 3, 3, "halve")),
        _chain("Mixed_6a", ("branch3x3dbl_1", 1, 1), ("branch3x3dbl_2", 3, 3),
               ("branch3x3dbl_3", 3, 3, "halve")), (_HALVE,))),),
    **{name: _sevens(name) for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")},
    "Mixed_7a": (Branches((
        _chain("Mixed_7a", ("branch3x3_1", 1, 1), ("branch3x3_2", 3, 3, "halve")),
        _chain("Mixed_7a", ("branch7x7x3_1", 1, 1), ("branch7x7x3_2", 1, 7),
               ("branch7x7x3_3", 7, 1), ("branch7x7x3_4", 3, 3, "halve")), (_HALVE,))),),
    "Mixed_7b": _spread("Mixed_7b", _MEAN),
    "Mixed_7c": _spread("Mixed_7c", _MAX),
}


def import_params(state: dict[str, np.ndarray], where: str = "") -> dict:
    """{published name: array} -> parameters of `maps`. Raises Unlike (a UserError) with every array
    that is missing, left over or of another shape."""
    state = {name: x for name, x in state.items()
             if name not in UNUSED and not name.endswith(".num_batches_tracked")}
    expected, _ = shapes(BLOCKS, state, "conv")
    names.check_arrays({n: np.shape(x) for n, x in state.items()}, expected,
                       "these are not the weights of FID's Inception-v3", where=where,
                       hint=f"give the file as it is published, {FILE}")
    return folded(state, "conv", EPS)


def resized(pictures_BHWC: jax.Array) -> jax.Array:
    """(B, H, W, 3) 0 to 255 -> (B, 299, 299, 3) in [-1, 1]: bilinear, half-pixel centres, no
    antialiasing."""
    x_BHWC = pictures_BHWC.astype(jnp.float32) / 255
    shape = (x_BHWC.shape[0], SIZE, SIZE, x_BHWC.shape[-1])
    return 2 * jax.image.resize(x_BHWC, shape, "bilinear", antialias=False) - 1


def maps(params: dict, x_BHWC: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """(B, 299, 299, 3) -> (block, (B, H, W, C)) of every one of BLOCKS."""
    for block, chain in BLOCKS.items():
        x_BHWC = run(params, chain, x_BHWC)
        yield block, x_BHWC


def features(params: dict, pictures_BHWC: jax.Array) -> jax.Array:
    """(B, H, W, 3) uint8 RGB -> (B, D)."""
    with jax.default_matmul_precision("float32"):
        *_, (_, x_BHWC) = maps(params, resized(pictures_BHWC))
        return x_BHWC.mean((1, 2))


_FEATURES = jax.jit(features)


class Inception:
    """Of a file's arrays.

    Args:
      state: {published name: array}.
      where: of the reader's error.
      together: pictures that a device takes at once; numbers do not depend on it.
      mesh: over whose data axes they are split; None = all devices of this process.
    """

    def __init__(self, state: dict[str, np.ndarray], where: str = "",
                 together: int | None = None, mesh: Mesh | None = None):
        self._rows = Placed(import_params(state, where), together or rows.at_once(TOGETHER), mesh)

    def __call__(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Any number N of (H, W, 3) uint8 RGB pictures of one size -> (N, D) float32; (0, 0) of
        none."""
        found = self._rows(_FEATURES, pictures)
        return np.stack(found) if found else np.zeros((0, 0), np.float32)


def load(path) -> Inception:
    """Of a published file. UserError: unreadable, or of another network."""
    return Inception(read_state_dict(path), where=str(path))
