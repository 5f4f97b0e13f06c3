"""The fields of the head-pose VAE and its presets (see avjax/fields.py)."""

from ml_collections import ConfigDict

from avjax.fields import Section, field
from avjax.nn import config_fields


class Config(Section):
    name: str = config_fields.system_name("head_vae")
    pose_dim: int = field(7, "Width of the pose: quaternion wxyz and translation.", minimum=1)
    latent_dim: int = field(8, "Width of the latent.", minimum=1)
    d_model: int = field(16, "Width of the layers.", minimum=1)
    num_heads: int = field(1, "Attention heads.", minimum=1)
    num_layers: int = field(1, "Layers on each side.", minimum=1)
    d_ff: int = field(2048, "Hidden width of the feed-forward layers.", minimum=1)
    dropout: float = field(0.1, "Of the layers' outputs in training.", minimum=0, below=1)
    kl_weight: float = field(1e-4, "Of the KL divergence, beside the L1 error.")
    frame_rate: float = field(30.0, "Frames a second.", above=0)


def published() -> ConfigDict:
    return Config.make()


def tiny() -> ConfigDict:
    return Config.make(d_ff=64)


released = published  # the name of before, which users' config files call
