"""How the picture autoencoder is published: as Stable Diffusion's, under the names of diffusers'
AutoencoderKL (avjax/codecs/published/sd_vae.py)."""

from avjax.codecs.published.sd_vae import export_vae, import_vae, vae_sizes
from avjax.errors import UserError
from avjax.weights.published import Published


def read(state, config):
    """Published names -> our parameters. UserError: a config of another network."""
    _check(config)
    return import_vae(state, config)


def write(params, config):
    """Our parameters -> published names. UserError: a network that diffusers has not."""
    _check(config)
    return export_vae(params, config)


def _check(config) -> None:
    if config.patch != 1 or config.shortcut or config.mid != "attention":
        raise UserError("Stable Diffusion's VAE is another network", where="config.system",
                        expected="patch 1, mid attention, no shortcut",
                        found=f"patch {config.patch}, mid {config.mid}, shortcut "
                              f"{config.shortcut}", hint="use configs/tavid.py:vae, or the Orbax "
                              "checkpoint as it is")


PUBLISHED = Published(
    experiment="tavid:vae",
    read=read,
    write=write,
    sizes=lambda state, config: vae_sizes(state),
)
