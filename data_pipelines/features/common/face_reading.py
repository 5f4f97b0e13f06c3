"""Finds the face reader that a job of configs/face_reader.py has trained."""

from ml_collections import ConfigDict

from avjax.checkpoint import checkpoints
from avjax.codecs import face_reader
from avjax.errors import UserError
from avjax.systems import api

SYSTEM = "face_reader"


def load(path) -> face_reader.FaceReader:
    """The reader of a workdir or checkpoint folder. UserError for anything else."""
    meta = checkpoints.load_meta(path)
    config = meta.get("config", {}).get("system", {})
    if config.get("name") != SYSTEM:
        raise UserError("checkpoint of another model", where=str(path),
                        expected=f"system.name = {SYSTEM}", found=str(config.get("name")),
                        hint="give the workdir of a trained configs/face_reader.py")
    params = checkpoints.load_params(path, api.build(ConfigDict(config)))
    return face_reader.from_params(config, params, meta.get("recipes", {}).get("motion"))
