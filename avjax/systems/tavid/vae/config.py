"""The fields of a picture autoencoder and its presets (see avjax/fields.py)."""

from ml_collections import ConfigDict

from avjax.fields import Recipe, Section, field
from avjax.nn import config_fields


class Config(Section):
    name: str = config_fields.system_name("tavid.vae")
    channels: tuple[int, ...] = field((128, 256, 512, 512), "Of each level, finest first; each "
                                      "level but the last halves the size.", minimum=1)
    layers: int = field(2, "Residual blocks a level (one more in the decoder).", minimum=1)
    groups: int = field(32, "Groups of the norms.", minimum=1)
    latent_dim: int = field(4, "Channels of the latents.", minimum=1)
    mid: str = field("attention", "What is between encoder and latent, and latent and decoder.",
                     choices=("attention", "plain", "none"))
    shortcut: bool = field(False, "A linear map pixels <-> latent beside the networks (ours: a "
                           "short training starts from it).")
    patch: int = field(1, "Pixels a side that are folded into channels first (published: none).",
                       minimum=1)
    scaling: float = field(0.18215, "Latents are stored as mean * scaling.", above=0)
    size: int = field(512, "Pictures are size x size.", minimum=1)
    pictures_recipe: Recipe = field(None, "How the pictures must have been made; None = any.")
    # training: ours by choice
    pictures_per_row: int = field(4, "Pictures drawn at random from one example.", minimum=1)
    mse_weight: float = field(0.0, "Of the squared error, beside the mean absolute error.")
    edge_weight: float = field(1.0, "Of the absolute error of horizontal and vertical "
                               "differences.")
    kl_weight: float = field(1e-6, "Of the KL divergence, in nats a latent number.")
    moment_weight: float = field(0.0, "Of the term that holds each latent channel at mean 0 and "
                                 "deviation 1 / scaling over the batch.")
    compute_dtype: str = config_fields.COMPUTE_DTYPE

    @staticmethod
    def relations(c, need):
        need(len(c.channels) > 0 and all(n % c.groups == 0 for n in c.channels), "channels",
             f"multiples of groups = {c.groups}")
        pixels = c.patch * 2 ** (len(c.channels) - 1)
        need(c.size % pixels == 0, "size", f"a multiple of {pixels} (patch and levels)")


def published() -> ConfigDict:
    """sd-vae-ft-mse. Its training (MSE and LPIPS, 840 k steps) is not ours: import it, or train
    with the terms above, which have no perceptual or adversarial part (ours by choice: they need no
    other network)."""
    return Config.make()


def tiny() -> ConfigDict:
    """64 x 64 pictures <-> 16 x 16 x 4, for two CPU cores; all ours by choice."""
    return Config.make(
        channels=(64,),
        layers=1,
        groups=8,
        mid="none",
        shortcut=True,
        patch=4,
        size=64,
        scaling=1.0,
        pictures_per_row=2,
        kl_weight=1e-4,
        moment_weight=0.1,
    )


check = Config.check
base = published  # the name of before, which users' config files call
