"""Finds the VAE that pictures are encoded with: a trained `tavid.vae`, or a published Stable
Diffusion VAE."""

from pathlib import Path

from ml_collections import ConfigDict

from avjax.checkpoint import checkpoints
from avjax.codecs import pictures
from avjax.errors import UserError
from avjax.systems import api
from avjax.weights import reader

SYSTEM = "tavid.vae"


def load(path) -> pictures.PictureCodec:
    """The codec of a workdir or checkpoint folder of a `tavid.vae`, or of a published weights file.
    UserError for anything else."""
    if Path(path).is_file():
        return pictures.from_state_dict(reader.read_state_dict(path))
    config = checkpoints.load_meta(path).get("config", {}).get("system", {})
    if config.get("name") != SYSTEM:
        raise UserError("checkpoint of another model", where=str(path),
                        expected=f"system.name = {SYSTEM}", found=str(config.get("name")),
                        hint="give the VAE's workdir, or a published VAE's file")
    params = checkpoints.load_params(path, api.build(ConfigDict(config)))
    return pictures.from_params(config, params)
