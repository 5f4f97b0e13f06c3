"""Every field of a picture autoencoder with its presets: `base` has the published sizes, `tiny` is
for 64 x 64 pictures."""

from ml_collections import ConfigDict

from avjax.errors import UserError

MIDS = ("attention", "plain", "none")


def base() -> ConfigDict:
    """sd-vae-ft-mse. Its training (MSE and LPIPS, 840 k steps) is not ours: import it, or train
    with the terms below, which have no perceptual or adversarial part (ours by choice: they need no
    other network)."""
    c = ConfigDict()
    c.name = "tavid.vae"
    c.channels = (128, 256, 512, 512)  # of each level, finest first; each level but the last halves
    c.layers = 2  # residual blocks a level (one more in the decoder)
    c.groups = 32
    c.latent_dim = 4
    # attention | plain | none: what is between encoder and latent, and latent and decoder
    c.mid = "attention"
    # a linear map pixels <-> latent beside the networks (ours: a short training starts from it)
    c.shortcut = False
    c.patch = 1  # pixels a side that are folded into channels first (published: none)
    c.scaling = 0.18215  # latents are stored as mean * scaling
    c.size = 512  # pictures are size x size
    c.pictures_recipe = None
    # training: ours by choice
    c.pictures_per_row = 4  # drawn at random from one example
    c.mse_weight = 0.0  # beside the mean absolute error
    c.edge_weight = 1.0  # of the absolute error of horizontal and vertical differences
    c.kl_weight = 1e-6  # nats a latent number
    # holds each latent channel at mean 0, deviation 1 / scaling over the batch
    c.moment_weight = 0.0
    c.compute_dtype = "auto"
    return c


def tiny() -> ConfigDict:
    """64 x 64 pictures <-> 16 x 16 x 4, for two CPU cores; all ours by choice."""
    c = base()
    c.channels, c.layers, c.groups, c.mid, c.shortcut, c.patch = (64,), 1, 8, "none", True, 4
    c.size, c.scaling = 64, 1.0
    c.pictures_per_row, c.kl_weight, c.moment_weight = 2, 1e-4, 0.1
    return c


def check(config) -> None:
    """UserError for sizes that cannot make a network."""
    def need(good: bool, name: str, expected: str):
        if not good:
            raise UserError("VAE configuration", where=f"config.system.{name}", expected=expected,
                            found=repr(config[name]))

    for name in ("layers", "groups", "latent_dim", "patch", "pictures_per_row"):
        need(config[name] >= 1, name, ">= 1")
    need(config.mid in MIDS, "mid", " | ".join(MIDS))
    need(config.scaling > 0, "scaling", "> 0")
    need(len(config.channels) > 0 and all(n % config.groups == 0 for n in config.channels),
         "channels",
         f"multiples of groups = {config.groups}")
    pixels = config.patch * 2 ** (len(config.channels) - 1)
    need(config.size >= pixels and config.size % pixels == 0, "size",
         f"a multiple of {pixels} (patch and levels)")
