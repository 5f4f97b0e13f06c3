"""Small networks that a job of ours has trained and extraction uses: the head VAE, the face reader,
the picture VAE.

Each has its network, and what is kept of it in a dataset, in avjax/codecs; its System in
avjax/systems; and is found here by its workdir or checkpoint folder.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from avjax.codecs import face_reader, pictures
from avjax.errors import UserError
from avjax.systems import api
from avjax.weights import reader

HINTS = {"avflow.text": "give the workdir of a trained configs/avflow_text.py",
         "face_reader": "give the workdir of a trained configs/face_reader.py",
         "head_vae": "give the head VAE's workdir, or use --head=linear",
         "tavid.vae": "give the VAE's workdir, or a published VAE's file"}


class Trained(NamedTuple):
    """A system's config, its parameters (the average where there is one), and the recipes of the
    data that it was trained on."""

    config: dict
    params: Any
    recipes: dict


def load(path, system: str) -> Trained:
    """The newest checkpoint of a workdir or checkpoint folder. Raises UserError where there is none
    or it is of another system."""
    from avjax.checkpoint import loading  # which imports Orbax: a second for who needs no network

    meta = loading.load_meta(path)
    config = meta.get("config", {}).get("system", {})
    if config.get("name") != system:
        raise UserError("checkpoint of another model", where=str(path),
                        expected=f"system.name = {system}", found=str(config.get("name")),
                        hint=HINTS[system])
    params = loading.load_params(path, api.build(ConfigDict(config)))
    return Trained(config, params, meta.get("recipes", {}))


def load_face_reader(path) -> face_reader.FaceReader:
    """The face reader of a workdir or checkpoint folder."""
    config, params, recipes = load(path, "face_reader")
    return face_reader.from_params(config, params, recipes.get("motion"))


def load_picture_codec(path) -> pictures.PictureCodec:
    """The codec of a workdir or checkpoint folder of a `tavid.vae`, or of a published Stable
    Diffusion VAE's file."""
    if Path(path).is_file():
        return pictures.from_state_dict(reader.read_state_dict(path))
    config, params, _ = load(path, "tavid.vae")
    return pictures.from_params(config, params)
