"""Pictures of a face <-> 40 numbers a frame by LIA-X: Talker's motion codec. Pictures are read a
few at a time, over all devices of a mesh, and drawn one at a time, by one compiled program each, so
memory does not grow with a clip.

A motion is drawn on a portrait in the absolute form that Talker-T2AV's release uses: the portrait's
identity + the directions as far as the motion says.
Suffixes: T frames, B batch, H W size, C colours, M motion.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avjax.codecs.lia_x import network, weights
from avjax.codecs.published.bigvgan import arrays_hash
from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import replicated
from avjax.weights import reader

KIND = "lia-x"
SIZE = network.SIZE
_AT_ONCE = 8  # pictures that are read together, on an accelerator


@dataclasses.dataclass(frozen=True)
class Portrait:
    """What is kept of a picture to draw on: its own motion (40,), and on the device its identity
    and features."""

    motion_M: np.ndarray
    identity: jax.Array
    features: list[jax.Array]


@dataclasses.dataclass(frozen=True)
class LiaX:
    """`params` of network.py, as `weights.prepared` gives them."""

    params: Mapping[str, jax.Array]
    weights: str  # 16 hex digits of the parameters
    mesh: Mesh

    @classmethod
    def from_file(cls, path, mesh: Mesh | None = None) -> "LiaX":
        """Of a published file, of any format that avjax.weights reads. mesh: pictures are read on
        its devices; None = one device. UserError lists what of the file is missing, left over or of
        another shape."""
        params = weights.prepared(reader.read_state_dict(path), str(path))
        mesh = mesh or rows.one_device()
        return cls(jax.device_put(params, replicated(mesh)), arrays_hash(params), mesh)

    @property
    def recipe(self) -> dict:
        """How motion is made."""
        return {"kind": KIND, "weights": self.weights, "width": network.MOTION,
                "pixels": f"RGB / 127.5 - 1, {SIZE} x {SIZE}", "normalised": False}

    def motion(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Pictures (512, 512, 3) uint8, one after the other -> (T, 40), not normalised; none
        depends on the others."""
        made = rows.stream(functools.partial(_motion, self.params), map(_checked, pictures),
                           self.mesh, rows.at_once(_AT_ONCE))
        return np.asarray(list(made), np.float32).reshape(-1, network.MOTION)

    def portrait(self, picture_HWC: np.ndarray) -> Portrait:
        """(512, 512, 3) uint8 -> what `draw` draws on."""
        identity, motion_BM, features = _encode(self.params, _checked(picture_HWC))
        return Portrait(np.asarray(motion_BM[0]), identity, features)

    def draw(self, portrait: Portrait, motion_TM: np.ndarray) -> Iterator[np.ndarray]:
        """Yields a picture (512, 512, 3) uint8 for each row of motion (T, 40), not normalised."""
        for motion_M in np.asarray(motion_TM, np.float32):
            yield np.asarray(_draw(self.params, portrait.identity, portrait.features, motion_M))


def _checked(picture_HWC: np.ndarray) -> np.ndarray:
    if np.shape(picture_HWC) != (SIZE, SIZE, 3) or picture_HWC.dtype != np.uint8:
        raise UserError("not a picture for LIA-X", expected=f"({SIZE}, {SIZE}, 3) uint8",
                        found=f"{np.shape(picture_HWC)} {picture_HWC.dtype}",
                        hint="resize it first")
    return picture_HWC


@jax.jit
def _encode(params, picture_HWC):
    return network.encode(params, picture_HWC[None].astype(jnp.float32) / 127.5 - 1)


@jax.jit
def _motion(params, picture_BHWC):
    return network.encode(params, picture_BHWC.astype(jnp.float32) / 127.5 - 1)[1]


@jax.jit
def _draw(params, identity_BS, features, motion_M):
    style_BS = identity_BS + network.direct(params, motion_M[None])
    picture_HWC = network.render(params, style_BS, features)[0]
    return ((jnp.clip(picture_HWC, -1, 1) + 1) / 2 * 255).astype(jnp.uint8)  # cut off, as published


@functools.lru_cache(maxsize=1)
def loaded(path: str, mesh: Mesh | None = None) -> LiaX:
    """`from_file`, once a path."""
    return LiaX.from_file(path, mesh)
