"""What AV-Flow calls the head: the mean of the head-pose VAE's latent, or without weights the
z-scored pose itself.

The way back is `decode`, from nothing but the recipe and the arrays that the feature dataset
carries.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.systems import api
from data_pipelines.features.common import trained
from data_pipelines.store.schema import arrays_hash, recipe_hash

CODEC = "head_vae"  # of clips whose corpus brings a head VAE: its parameters by path, and CONFIG
CONFIG = "config"  # the fields of its system, as JSON
LONGEST = 3600  # frames (2 min) that attend to each other; longer tracks go in windows
FADE = 60  # frames over which windows fade into each other
BUCKET = 256  # frames: pose tracks are padded up to multiples of it, so few lengths are compiled


@dataclasses.dataclass(frozen=True)
class HeadPoseEncoder:
    """`call(pose)`: (frames, P) -> (frames, width) float32 at the same rate."""

    recipe: dict
    width: int
    meaning: str
    call: object
    arrays: dict[str, np.ndarray] | None = None
    columns: tuple[str, ...] = ("pose_z",)


def make(kind: str, clips, head_vae=None) -> HeadPoseEncoder:
    """kind "linear", or "vae" with the trained VAE's workdir or checkpoint (None: the one that the
    clips' corpus brings). Raises UserError when that does not fit."""
    if "pose_z" not in clips.features:
        raise UserError("clips have no head pose", where=str(clips.dir),
                        expected="a column 'pose_z'", found=", ".join(clips.features),
                        hint="prepare the clips with head pose")
    width = clips.features["pose_z"].shape[1]
    pose = {"of": recipe_hash(clips.recipes.get("pose", {}))}
    if kind == "linear":
        return HeadPoseEncoder({"kind": "linear", "dim": width, **pose}, width,
                               clips.features["pose_z"].meaning, np.asarray)
    if head_vae is None and CODEC not in clips.codecs:
        raise UserError("a head VAE is needed", where="--head_vae", found="nothing",
                        expected="the workdir of a trained configs/head_vae.py",
                        hint="train one first, or use --head=linear")
    if head_vae is None:
        arrays = clips.codec(CODEC)
        config = json.loads(str(arrays.pop(CONFIG)))
        params = traverse_util.unflatten_dict(arrays, sep="/")
    else:
        config, params, _ = trained.load(head_vae, "head_vae")
        params = jax.tree.map(np.asarray, params)
    if config["pose_dim"] != width:
        raise UserError("the head VAE is of another pose", where=str(head_vae or clips.dir),
                        expected=f"{width} pose channels", found=str(config["pose_dim"]),
                        hint="train it on these clips, or use --head=linear")
    arrays = {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}
    recipe = {"kind": "vae", "dim": config["latent_dim"], "system": config,
              "arrays": arrays_hash(arrays), **pose}
    return HeadPoseEncoder(recipe, config["latent_dim"], "mean of the head-pose VAE's latent",
                           functools.partial(_run, json.dumps(config), "encode", params), arrays)


def decode(recipe: dict, arrays: dict[str, np.ndarray], latent_TZ: np.ndarray) -> np.ndarray:
    """Head stream (T, width) at the pose's own rate -> z-scored pose (T, 7), by a dataset's "head"
    recipe and codec."""
    if recipe["kind"] == "linear":
        return np.asarray(latent_TZ, np.float32)
    params = traverse_util.unflatten_dict(dict(arrays), sep="/")
    return _run(json.dumps(recipe["system"]), "decode", params, latent_TZ)


@functools.lru_cache
def _system(config_json: str):
    return api.build(ConfigDict(json.loads(config_json)))


@functools.lru_cache
def _compiled(config_json: str, method: str):
    return jax.jit(getattr(_system(config_json), method))


def _run(config_json: str, method: str, params, x_TC: np.ndarray) -> np.ndarray:
    """One track through the VAE. Attention takes memory by the square of the length: an hour at
    once would be 50 GB."""
    if len(x_TC) <= LONGEST:
        return _run_whole(config_json, method, params, x_TC)
    out_TZ, total_T1 = 0.0, np.zeros((len(x_TC), 1), np.float32)
    for first in range(0, len(x_TC) - FADE, LONGEST - FADE):
        part_TZ = _run_whole(config_json, method, params, x_TC[first:first + LONGEST])
        weight_T1 = np.clip((np.arange(len(part_TZ), dtype=np.float32)[:, None] + 1) / FADE, 0, 1)
        weight_T1 = np.minimum(weight_T1, weight_T1[::-1])
        if np.isscalar(out_TZ):
            out_TZ = np.zeros((len(x_TC), part_TZ.shape[1]), np.float32)
        out_TZ[first:first + LONGEST] += weight_T1 * part_TZ
        total_T1[first:first + LONGEST] += weight_T1
    return out_TZ / total_T1


def _run_whole(config_json: str, method: str, params, x_TC: np.ndarray) -> np.ndarray:
    """At once, padded to a bucket; the mask keeps padding out of the attention."""
    frames = len(x_TC)
    padded = -(-frames // BUCKET) * BUCKET
    x_1TC = np.zeros((1, padded, x_TC.shape[1]), np.float32)
    x_1TC[0, :frames] = x_TC
    mask_1T = (np.arange(padded) < frames).astype(np.float32)[None]
    return np.asarray(_compiled(config_json, method)(params, x_1TC, mask_1T))[0, :frames]
