"""A small temporal VAE over head pose: 7 z-scored pose channels at 30 Hz <-> a latent of 8.

AV-Flow's head stream is the mean of this encoder, so its training target does not depend on a draw.
Suffixes: B batch, T time, P pose width, Z latent width, D model width.
"""

import flax.linen as nn
import jax
from ml_collections import FrozenConfigDict

from avjax.nn.layers import Dense
from avjax.nn.transformer import PostNormEncoderLayer


class HeadVAENet(nn.Module):
    """Encoder to a latent's mean and log variance, and decoder; attention over all frames."""

    config: FrozenConfigDict

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
