"""The head VAE that AV-Flow's release brings with a corpus (FOLDER/head_vae/iter-*.pt), as a codec
of the clips.

avjax extract --head=vae then needs no --head_vae.
"""

import json

import jax
import numpy as np
from flax import traverse_util

from avjax.errors import UserError
from avjax.systems.head_vae import config as head_vae_config
from avjax.systems.head_vae import published
from avjax.weights import torch_zip
from avjax.weights.wrappers import unwrap
from data_pipelines.features.avflow.head_pose import CODEC, CONFIG
from data_pipelines.ingest.common.files import Files


def codec(files: Files, folder: str) -> dict[str, dict[str, np.ndarray]]:
    """{CODEC: our parameters by path, and CONFIG}, {} where the corpus has none.

    Raises UserError: a file that is none, or unreadable.
    """
    places = [name for name in files if name.startswith(f"{folder}/head_vae/iter-".lstrip("/"))]
    if not places:
        return {}
    name = places[-1]
    tree = torch_zip.read_torch_zip(files.where(name), files.content(name).tobytes(), foreign=True)
    state = tree.get("model_state_dict", tree) if isinstance(tree, dict) else None
    if not isinstance(state, dict):
        raise UserError("not a head VAE", where=files.where(name),
                        expected="{'model_state_dict': ...}", found=type(tree).__name__)
    state = unwrap({k: np.asarray(v) for k, v in state.items() if isinstance(v, np.ndarray)},
                   files.where(name))
    config = head_vae_config.published()
    try:
        config.update(published.sizes(state, config))
        params = jax.tree.map(np.asarray, published.import_head_vae(state, config))
    except UserError as error:
        raise UserError("not a head VAE", where=files.where(name), expected="AV-Flow's",
                        found=error.found or "another network",
                        hint="fetch it again, or take it out of the folder") from error
    flat = {k: np.asarray(v, np.float32)
            for k, v in traverse_util.flatten_dict(params, sep="/").items()}
    return {CODEC: flat | {CONFIG: np.asarray(json.dumps(config.to_dict(), sort_keys=True))}}
