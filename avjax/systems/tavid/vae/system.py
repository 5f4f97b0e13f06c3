"""The picture autoencoder as a System: pictures of talking heads in, the same pictures out, latents
between.

Suffixes: B batch, P pictures a row, T time, N = B P pictures, H W size, h w latent size, Z latent
channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.codecs.autoencoder_kl import AutoencoderKL
from avjax.errors import UserError
from avjax.fields import plain
from avjax.nn.layers import compute_dtype
from avjax.systems import api
from avjax.systems.api import Rows, Spec
from avjax.systems.tavid.vae.config import check


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("pictures",)}

    # fully sharded over fsdp, tensor parallel over output channels; the first and last layers are
    # small and narrow
    param_rules = (
        (r"(en|de)coder/.*(resnets_\d+/conv[12]|resize)/kernel", (None, None, "fsdp", "tensor")),
        (r"(en|de)coder/(in|out)puts/kernel", ()),
        (r".*/(skip|attention/(q|k|v|out))/kernel", ("fsdp", "tensor")),
        (r"(moments|latent|shortcut_(in|out))/kernel", ()),
        (r".*/(bias|scale)", ()),
    )

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = AutoencoderKL(c, compute_dtype(c.compute_dtype))
        pictures = Spec(("batch", "time", c.size, c.size, 3), "uint8", "pictures of one head",
                        "RGB", recipe=plain(c.pictures_recipe))
        self.example_spec = {"pictures": pictures}
        row = ("batch", c.pictures_per_row, *pictures.shape[2:])
        self.batch_spec = {"pictures": dataclasses.replace(pictures, shape=row)}
        mask = Spec(("batch", "time"), "float32", "1 = real picture, 0 = padding")
        self.conditions_spec = {"pictures": pictures, "mask": mask}
        self.streams_spec = {"pictures": pictures}
        self.rows = PictureRows(c.pictures_per_row)

    def init(self, key):
        """Fresh float32 parameters."""
        return self.net.init(key, jnp.zeros((1, self.config.size, self.config.size, 3)))["params"]

    def loss(self, params, batch, key):
        """Absolute error of the pictures and of their edges from a drawn latent, plus the terms
        that shape the latent."""
        c = self.config
        pictures = batch["pictures"]
        x = to_signal(pictures.reshape(-1, *pictures.shape[2:]))
        mean, log_variance = self.net.apply({"params": params}, x, method="encode")
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        error = self.net.apply({"params": params}, z, method="decode") - x
        l1 = jnp.mean(jnp.abs(error))
        mse = jnp.mean(error**2)
        edges = edge_error(error)
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        channel_mean = jnp.mean(mean, axis=(0, 1, 2)) * c.scaling
        channel_std = jnp.std(mean * c.scaling, axis=(0, 1, 2))
        moments = jnp.mean(channel_mean**2 + (channel_std - 1) ** 2)
        loss = (l1 + c.mse_weight * mse + c.edge_weight * edges + c.kl_weight * kl + c.moment_weight
                * moments)
        metrics = {"loss": loss, "l1": l1, "edges": edges, "kl": kl,
                   "psnr": 10 * jnp.log10(4 / mse), "latent_std": jnp.mean(channel_std),
                   "posterior_std": jnp.mean(jnp.exp(0.5 * log_variance)) * c.scaling}
        return loss, metrics

    def conditions(self, example, task=""):
        """The pictures themselves."""
        return {"pictures": example["pictures"]}, len(example["pictures"])

    def generate(self, params, conditions, keys, task=""):
        """Reconstruction through the latent mean; nothing random, so `keys` is not read."""
        del keys
        pictures = conditions["pictures"]
        x = to_signal(pictures.reshape(-1, *pictures.shape[2:]))
        decoded = self.net.apply({"params": params}, x).reshape(pictures.shape)
        real = conditions["mask"][..., None, None, None] > 0
        return {"pictures": jnp.where(real, to_pixels(decoded), 0)}


@dataclasses.dataclass(frozen=True)
class PictureRows(Rows):
    """A row is some pictures of one example, so that little is read for each of them: one from each
    of as many equal stretches of time as the row has pictures."""

    pictures: int

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`."""
        (example,) = examples
        count = len(example["pictures"])
        if not count:
            raise UserError("an example without pictures",
                            where=f"example {example.get('id', '')!r}", expected=">= 1",
                            found="0", hint="extract the dataset again")
        at = (np.arange(self.pictures) + rng.random(self.pictures)) / self.pictures * count
        return {"pictures": example["pictures"][np.minimum(at.astype(int), count - 1)]}


def to_signal(pictures):
    """uint8 -> float32 in [-1, 1]."""
    return pictures.astype(jnp.float32) / 127.5 - 1


def to_pixels(x):
    """[-1, 1] -> uint8, clipped and rounded."""
    return jnp.round(jnp.clip((x + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def edge_error(error_NHWC):
    """Mean absolute error of neighbouring pixels' differences, both directions: blurred edges cost
    more than by L1."""
    down = error_NHWC[:, 1:] - error_NHWC[:, :-1]
    right = error_NHWC[:, :, 1:] - error_NHWC[:, :, :-1]
    return 0.5 * (jnp.mean(jnp.abs(down)) + jnp.mean(jnp.abs(right)))
