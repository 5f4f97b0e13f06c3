"""The head VAE as a System; its network is avjax/codecs/head_vae.py.

Suffixes: B batch, T time, P pose width, Z latent width.
"""

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from avjax.codecs.head_vae import HeadVAENet
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.head_vae.config import released  # noqa: F401 (users' config files)


class System(api.System):
    """See avjax.systems.api.System. Attention runs over all frames of a clip; the mask hides
    padding."""

    # about 140 thousand parameters: replicating them is cheaper than gathering them
    param_rules = (
        (r".*/kernel", ()),
        (r".*/bias", ()),
        (r".*/scale", ()),
    )

    makes = {"generate": ("pose_z",)}

    def __init__(self, config):
        self.config = c = FrozenConfigDict(config)
        self.net = HeadVAENet(c)
        pose = Spec(("batch", "time", c.pose_dim), "float32",
                    "quaternion wxyz and translation, z-scored", "",
                    c.frame_rate)
        mask = Spec(("batch", "time"), "float32", "1 = real frame, 0 = padding", "", c.frame_rate)
        self.batch_spec = {"pose_z": pose, "mask": mask}
        self.example_spec = {"pose_z": pose}
        self.conditions_spec = dict(self.batch_spec)
        self.streams_spec = {"pose_z": pose}

    def init(self, key):
        return self.net.init(key, jnp.zeros((1, 2, self.config.pose_dim)))["params"]

    def encode(self, params, pose_BTP, mask_BT=None):
        """Z-scored pose (batch, time, 7) -> latent mean (batch, time, 8)."""
        return self.net.apply({"params": params}, pose_BTP, mask_BT, method="encode")[0]

    def decode(self, params, z_BTZ, mask_BT=None):
        """Latent (batch, time, 8) -> z-scored pose (batch, time, 7)."""
        return self.net.apply({"params": params}, z_BTZ, mask_BT, method="decode")

    def loss(self, params, batch, key):
        """L1 reconstruction from a drawn latent, plus kl_weight * KL per frame (sum over the
        latent's channels)."""
        keys = jax.random.split(key, 3)
        pose = batch["pose_z"].astype(jnp.float32)
        mask = batch["mask"]
        variables = {"params": params}
        mean, log_variance = self.net.apply(variables, pose, mask, keys[0], method="encode")
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(keys[1], mean.shape)
        decoded = self.net.apply(variables, z, mask, keys[2], method="decode")
        frames = jnp.maximum(jnp.sum(mask), 1.0)
        l1 = jnp.sum(jnp.mean(jnp.abs(decoded - pose), axis=-1) * mask) / frames
        kl_BT = -0.5 * jnp.sum(1 + log_variance - mean**2 - jnp.exp(log_variance), axis=-1)
        kl = jnp.sum(kl_BT * mask) / frames
        loss = l1 + self.config.kl_weight * kl
        return loss, {"loss": loss, "reconstruction": l1, "kl": kl}

    def conditions(self, example, task=""):
        """The pose itself."""
        return {"pose_z": example["pose_z"]}, len(example["pose_z"])

    def generate(self, params, conditions, keys, task=""):
        """Reconstruction of a pose track through the latent mean; nothing random, so `keys` is not
        read."""
        del keys
        mask = conditions["mask"]
        pose = self.decode(params, self.encode(params, conditions["pose_z"], mask), mask)
        return {"pose_z": pose * mask[..., None]}
