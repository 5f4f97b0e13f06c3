"""The face reader: the motion code of a head from its picture, for evaluation.

Generated video has no motion code; lips, smile and head pose are read back from the pictures by a
small network that avjax/systems/face_reader trains on pictures whose code is known. Ours by choice.
It keeps the positions of its last map instead of averaging them: where a lip is matters.
Suffixes: N pictures, H W size, C channels, M motion.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import FrozenConfigDict

from avjax.errors import UserError
from avjax.nn.convolutions import Conv, GroupNorm, fold
from avjax.nn.layers import Dense, compute_dtype, gelu

KIND = "face-reader"
SIZES = ("size", "patch", "widths", "blocks", "squeeze", "hidden", "motion_dim")
GROUP = 16  # channels of a norm group
CHUNK = 128  # pictures a call
_OUT = 0.2  # of the variance that keeps a signal's size: residual branches start small


class ReaderNet(nn.Module):
    """uint8 pictures -> motion. Patches of pixels become channels, then residual blocks, each level
    at half the size."""

    config: FrozenConfigDict
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c, dtype = self.config, self.dtype
        self.inputs = Dense(c.widths[0], 3 * c.patch**2, dtype)
        levels = []
        for i, (width, count) in enumerate(zip(c.widths, c.blocks, strict=True)):
            halve = [Conv(width, c.widths[i - 1], 3, 2, dtype=dtype, init_scale=1.0)] if i else []
            levels.append(halve + [Block(width, dtype) for _ in range(count)])
        self.levels = levels
        self.norm = GroupNorm(c.widths[-1], max(1, c.widths[-1] // GROUP), silu=True)
        self.squeeze = Dense(c.squeeze, c.widths[-1], dtype)
        places = (c.size // (c.patch * 2 ** (len(c.widths) - 1))) ** 2
        self.hidden = Dense(c.hidden, c.squeeze * places, dtype)
        self.out = Dense(c.motion_dim, c.hidden)

    def __call__(self, pictures_NHWC):
        """(N, size, size, 3) uint8 -> (N, M) float32."""
        x = self.inputs(fold(pictures_NHWC.astype(jnp.float32) / 127.5 - 1, self.config.patch))
        for level in self.levels:
            for layer in level:
                x = layer(x)
        x = self.squeeze(self.norm(x))
        x_NC = gelu(self.hidden(x.reshape(len(x), -1)))
        return self.out(x_NC.astype(jnp.float32))


class Block(nn.Module):
    """x + conv(silu(conv(silu(norm(x)))))."""

    width: int
    dtype: jnp.dtype

    def setup(self):
        self.norm = GroupNorm(self.width, max(1, self.width // GROUP), silu=True)
        self.conv1 = Conv(self.width, self.width, dtype=self.dtype, init_scale=2.0)
        self.conv2 = Conv(self.width, self.width, dtype=self.dtype, init_scale=_OUT)

    def __call__(self, x_NHWC):
        return x_NHWC + self.conv2(nn.silu(self.conv1(self.norm(x_NHWC))))


@dataclasses.dataclass(frozen=True)
class FaceReader:
    """`config`: the sizes (SIZES) and "motion", the recipe of what is read; `params` of
    `ReaderNet`."""

    config: Mapping[str, Any]
    params: Any

    @property
    def recipe(self) -> dict:
        """How motion is read, without the arrays (the dataset adds their hash)."""
        return {"kind": KIND, "sizes": {k: _plain(self.config[k]) for k in SIZES},
                "motion": self.config.get("motion")}

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters by path, as a dataset stores them for `from_recipe`."""
        flat = traverse_util.flatten_dict(self.params, sep="/")
        return {name: np.asarray(value) for name, value in flat.items()}

    def read(self, pictures_NHWC: np.ndarray) -> np.ndarray:
        """(N, size, size, 3) uint8 -> (N, M) float32, in the units that it was trained in.
        UserError for other pictures."""
        pictures_NHWC = np.asarray(pictures_NHWC)
        size = self.config["size"]
        if pictures_NHWC.shape[1:] != (size, size, 3) or pictures_NHWC.dtype != np.uint8:
            raise UserError("pictures of another size than the face reader's",
                            expected=f"(pictures, {size}, {size}, 3) uint8",
                            found=f"{pictures_NHWC.shape} {pictures_NHWC.dtype}",
                            hint="train a reader on pictures of this size")
        call = _compiled(json.dumps({k: _plain(self.config[k]) for k in SIZES}))
        parts = [np.zeros((0, self.config["motion_dim"]), np.float32)]
        for first in range(0, len(pictures_NHWC), CHUNK):
            piece = pictures_NHWC[first:first + CHUNK]
            full = np.pad(piece, ((0, CHUNK - len(piece)), (0, 0), (0, 0), (0, 0)), mode="edge")
            parts.append(np.asarray(call(self.params, full))[:len(piece)])
        return np.concatenate(parts)


@functools.lru_cache
def _compiled(sizes: str):
    net = ReaderNet(FrozenConfigDict(json.loads(sizes)), compute_dtype("auto"))
    return jax.jit(lambda params, pictures: net.apply({"params": params}, pictures))


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def from_params(config: Mapping[str, Any], params, motion: dict | None = None) -> FaceReader:
    """The reader of a trained `face_reader`.

    Args:
      config: its config.system.
      params: its parameters.
      motion: the recipe of the motion that it was trained on.
    """
    return FaceReader({k: config[k] for k in SIZES} | {"motion": motion},
                      jax.tree.map(np.asarray, params))


def from_recipe(recipe: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
                where: str = "codecs/reader.npz") -> FaceReader:
    """The reader that a dataset or workdir stores. Raises UserError for another kind, or arrays of
    other sizes."""
    if recipe.get("kind") != KIND:
        raise UserError("unknown face reader", where=where, expected=f"kind {KIND}",
                        found=repr(recipe.get("kind")), hint="extract the features with a reader "
                                                             "that this version has")
    config = {**recipe["sizes"], "motion": recipe.get("motion")}
    net = ReaderNet(FrozenConfigDict(recipe["sizes"]))
    pictures = jnp.zeros((1, config["size"], config["size"], 3), jnp.uint8)
    shapes = traverse_util.flatten_dict(jax.eval_shape(net.init, jax.random.key(0),
                                                       pictures)["params"], sep="/")
    expected = {name: leaf.shape for name, leaf in shapes.items()}
    found = {name: np.shape(array) for name, array in arrays.items()}
    if expected != found:
        wrong = sorted(k for k in {*expected, *found} if expected.get(k) != found.get(k))
        raise UserError("arrays of another face reader", where=f"{where}, {wrong[0]}",
                        expected=str(expected.get(wrong[0])), found=str(found.get(wrong[0])),
                        hint="extract the features again")
    return FaceReader(config, traverse_util.unflatten_dict(dict(arrays), sep="/"))
