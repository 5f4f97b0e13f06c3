"""A speech network and its centroids into a folder that extraction reads, and both out again."""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from avjax.encoders import speech_frames
from avjax.encoders.published import bound_units, transformers_wav2vec2
from avjax.encoders.units import CENTROIDS
from avjax.errors import UserError
from avjax.signal import kmeans
from avjax.storage import atomic, failures
from data_pipelines.store.dataset import open_dataset
from launch.jobs import weights

NAME = "units"  # in the place of a system's


def bring_in(file: str, centroids: str, folder: str, *, layer: int, count: int | None) -> str:
    """Makes the folder, or nothing; returns what it holds, in words. See bound_units.write, which
    lists the errors; UserError too: the folder is in use."""
    out = Path(folder)
    weights.check_free(out)
    temporary = out.with_name(f".{out.name}.importing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with failures.working_on(out):
            temporary.mkdir(parents=True)
            said = bound_units.write(temporary, file, centroids, layer=layer, count=count)
            if out.exists():
                out.rmdir()
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return said


def take_out(folder: str, out: str) -> tuple[int, int]:
    """Writes the centroids of an imported folder, or those that a dataset of features was made
    with, as a published table (units, width); returns its shape. UserError: `folder` has none, or
    `out` exists."""
    if os.path.lexists(out):
        raise UserError("cannot write the centroids", where=out, expected="a new .npy file",
                        found="it exists", hint="choose another --out")
    bound = bound_units.read(folder)
    table_KD = (kmeans.read_centroids(bound.centroids) if bound
                else open_dataset(folder).codec(NAME)[CENTROIDS])
    with failures.working_on(out), atomic.file(out) as temporary, open(temporary, "wb") as file:
        np.save(file, table_KD)
    return table_KD.shape


def take_out_network(bound: bound_units.Bound, out: str) -> int:
    """Writes the network of an imported folder under transformers' names, as a new .safetensors or
    PyTorch file with its config.json beside it; returns how many arrays. float32, whatever it was
    published in. UserError: `out` or another config.json is there."""
    weights.check_new(out, (".safetensors", ".bin", ".pt"))
    network, params, normalise = speech_frames.read_network(bound.network)
    config = transformers_wav2vec2.config(network, params, normalise)
    state = transformers_wav2vec2.export_params(params)
    weights.save(out, state, beside={"config.json": json.dumps(config, indent=1)})
    return len(state)
