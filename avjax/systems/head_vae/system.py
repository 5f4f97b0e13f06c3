"""A small temporal VAE over head pose: 7 z-scored pose channels at 30 Hz <-> a latent of 8.

AV-Flow's head stream is the mean of this encoder, so its training target does not depend on a draw.
Suffixes: B batch, T time, P pose width, Z latent width, D model width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from avjax.nn.layers import Dense
from avjax.nn.transformer import PostNormEncoderLayer
from avjax.systems import api
from avjax.systems.api import Spec


def released() -> ConfigDict:
    """The published sizes. `num_layers` layers on each side."""
    return ConfigDict(dict(name="head_vae", pose_dim=7, latent_dim=8, d_model=16, num_heads=1,
                           num_layers=1, d_ff=2048,
                           dropout=0.1, kl_weight=1e-4, frame_rate=30.0))


class HeadVAENet(nn.Module):
    config: object  # a frozen system config

    def setup(self):
        c = self.config
        layers = [PostNormEncoderLayer(c.d_model, c.num_heads, c.d_ff, c.dropout)
                  for _ in range(2 * c.num_layers)]
        self.encoder_in = Dense(c.d_model, c.pose_dim)
        self.encoder = layers[:c.num_layers]
        self.mean = Dense(c.latent_dim, c.d_model)
        self.log_variance = Dense(c.latent_dim, c.d_model)
        self.decoder_in = Dense(c.d_model, c.latent_dim)
        self.decoder = layers[c.num_layers:]
        self.decoder_out = Dense(c.pose_dim, c.d_model)

    def encode(self, pose_BTP, mask_BT=None, key=None):
        """-> mean and log variance, (batch, time, Z) each. `key` switches dropout on."""
        x_BTD = self._layers(self.encoder, self.encoder_in(pose_BTP), mask_BT, key)
        return self.mean(x_BTD), self.log_variance(x_BTD)

    def decode(self, z_BTZ, mask_BT=None, key=None):
        return self.decoder_out(self._layers(self.decoder, self.decoder_in(z_BTZ), mask_BT, key))

    def _layers(self, layers, x_BTD, mask_BT, key):
        for i, layer in enumerate(layers):
            x_BTD = layer(x_BTD, mask_BT, None if key is None else jax.random.fold_in(key, i))
        return x_BTD

    def __call__(self, pose_BTP):
        return self.decode(self.encode(pose_BTP)[0])


class System(api.System):
    """See avjax.systems.api.System. Attention runs over the whole clip given, padding hidden by the
    mask."""

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
        pose, mask = batch["pose_z"].astype(jnp.float32), batch["mask"]
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
