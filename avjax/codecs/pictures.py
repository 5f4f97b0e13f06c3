"""Pictures <-> the latent maps that video is generated in: the slot of TAVID's and Hallo2's VAE.

A codec is the sizes of an `AutoencoderKL`, its parameters and the number that latents are scaled
by. It is made from a published state dict, from the parameters that a `tavid.vae` job has trained,
or from what a dataset keeps of either.
Suffixes: N pictures, H W size, h w latent size, Z latent channels.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import FrozenConfigDict

from avjax.codecs.autoencoder_kl import AutoencoderKL, factor
from avjax.codecs.published import sd_vae
from avjax.errors import UserError
from avjax.nn.layers import compute_dtype

KIND = "sd-vae"
SIZES = ("channels", "layers", "groups", "latent_dim", "mid", "shortcut", "patch")
PUBLISHED = dict(groups=32, scaling=0.18215)  # not in a published state dict
CHUNK_PIXELS = 2**19  # pixels a call: 128 pictures of 64 x 64, two of 512 x 512


@dataclasses.dataclass(frozen=True)
class PictureCodec:
    """`config`: the sizes (SIZES) and "scaling"; `params` of `AutoencoderKL`."""

    config: Mapping[str, Any]
    params: Any

    @property
    def recipe(self) -> dict:
        """How latents are made, without the arrays (the dataset adds their hash)."""
        return {"kind": KIND, "sizes": {k: _plain(self.config[k]) for k in SIZES},
                "scaling": float(self.config["scaling"]),
                "pixels": "RGB / 127.5 - 1", "latent": "mean * scaling"}

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters by path, as a dataset stores them for `from_recipe`."""
        return {k: np.asarray(v) for k,
                v in traverse_util.flatten_dict(self.params, sep="/").items()}

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(h, w, Z) of pictures of a size. UserError unless both are multiples of the factor."""
        f = factor(self.config)
        if height % f or width % f or not height or not width:
            raise UserError("picture size does not fit the VAE",
                            expected=f"multiples of {f} pixels", found=f"{height} x {width}",
                            hint="extract pictures of another size")
        return height // f, width // f, self.config["latent_dim"]

    def encode(self, pictures_NHWC: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, h, w, Z) float32: the mean, scaled."""
        if np.ndim(pictures_NHWC) != 4 or np.shape(pictures_NHWC)[-1] != 3 or np.asarray(
            pictures_NHWC).dtype != np.uint8:
            raise UserError("not pictures", expected="(pictures, height, width, 3) uint8",
                            found=f"{np.shape(pictures_NHWC)} {np.asarray(pictures_NHWC).dtype}")
        height, width = pictures_NHWC.shape[1:3]
        shape = self.latent_shape(height, width)
        return self._run("encode", pictures_NHWC, height * width, np.zeros((0, *shape), np.float32))

    def decode(self, latents_NhwZ: np.ndarray) -> np.ndarray:
        """(N, h, w, Z) scaled latents -> (N, H, W, 3) uint8."""
        if np.ndim(latents_NhwZ) != 4 or np.shape(latents_NhwZ)[-1] != self.config["latent_dim"]:
            raise UserError("not latents of this VAE",
                            expected=f"(frames, height, width, {self.config['latent_dim']})",
                            found=str(np.shape(latents_NhwZ)),
                            hint="use the VAE that the latents were made with")
        height, width = (n * factor(self.config) for n in np.shape(latents_NhwZ)[1:3])
        latents_NhwZ = np.asarray(latents_NhwZ, np.float32)
        return self._run("decode", latents_NhwZ, height * width,
                         np.zeros((0, height, width, 3), np.uint8))

    def _run(self, method: str, x: np.ndarray, pixels: int, nothing: np.ndarray) -> np.ndarray:
        """In chunks of one size (the last one filled up), so that one program serves all
        lengths."""
        chunk = int(np.clip(CHUNK_PIXELS // pixels, 1,
                            max(8, 2 ** (max(len(x) - 1, 0)).bit_length())))
        call = _compiled(self._key, method)
        parts = []
        for first in range(0, len(x), chunk):
            piece = x[first:first + chunk]
            full = np.pad(piece, [(0, chunk - len(piece))] + [(0, 0)] * (x.ndim - 1), mode="edge")
            parts.append(np.asarray(call(self.params, full))[:len(piece)])
        return np.concatenate(parts) if parts else nothing

    @property
    def _key(self) -> str:
        return json.dumps({k: _plain(self.config[k]) for k in (*SIZES, "scaling")})


@functools.lru_cache
def _compiled(key: str, method: str):
    c = FrozenConfigDict(json.loads(key))
    net = AutoencoderKL(c, compute_dtype("auto"))

    def encode(params, pictures):
        signal = pictures.astype(jnp.float32) / 127.5 - 1
        return net.apply({"params": params}, signal, method="encode")[0] * c.scaling

    def decode(params, latents):
        signal = net.apply({"params": params}, latents / c.scaling, method="decode")
        return jnp.round(jnp.clip((signal + 1) * 127.5, 0, 255)).astype(jnp.uint8)

    return jax.jit({"encode": encode, "decode": decode}[method])


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def from_params(config: Mapping[str, Any], params) -> PictureCodec:
    """The codec of a trained `tavid.vae`: its config.system and its parameters."""
    return PictureCodec({k: config[k] for k in (*SIZES, "scaling")},
                        jax.tree.map(np.asarray, params))


def from_state_dict(state: Mapping[str, np.ndarray], *, groups: int = PUBLISHED["groups"],
                    scaling: float = PUBLISHED["scaling"]) -> PictureCodec:
    """The codec of a published AutoencoderKL; see avjax.codecs.published.sd_vae."""
    config = FrozenConfigDict(sd_vae.vae_sizes(state) | {"groups": groups, "scaling": scaling})
    return from_params(config, sd_vae.import_vae(state, config))


def from_recipe(recipe: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
                where: str = "codecs/vae.npz") -> PictureCodec:
    """The codec that a dataset or workdir stores. Raises UserError for another kind, or arrays of
    other sizes."""
    if recipe.get("kind") != KIND:
        raise UserError("unknown picture codec", where=where, expected=f"kind {KIND}",
                        found=repr(recipe.get("kind")), hint="extract the features with a codec "
                                                             "that this version has")
    codec = PictureCodec({**recipe["sizes"], "scaling": recipe["scaling"]},
                         traverse_util.unflatten_dict(dict(arrays), sep="/"))
    net = AutoencoderKL(FrozenConfigDict(codec.config))
    pixels = jnp.zeros((1, 2 * factor(codec.config), 2 * factor(codec.config), 3))
    expected = {k: v.shape for k, v in traverse_util.flatten_dict(
        jax.eval_shape(net.init, jax.random.key(0), pixels)["params"], sep="/").items()}
    found = {k: np.shape(v) for k, v in arrays.items()}
    if expected != found:
        wrong = sorted(k for k in {*expected, *found} if expected.get(k) != found.get(k))
        raise UserError("arrays of another VAE", where=f"{where}, {wrong[0]}",
                        expected=str(expected.get(wrong[0])), found=str(found.get(wrong[0])),
                        hint="extract the features again")
    return codec
