"""A speech network bound to the centroids of one of its layers: a folder that was checked as a
whole, so that no job finds out later that the two do not belong together.

    FOLDER/units.json      {"layer", "units", "width", "network": the file}
    FOLDER/centroids.npy   (units, width) float32
    FOLDER/network/        the checkpoint as published, and transformers' config.json

A table of centroids does not say which layer it is of; the folder does. `avjax weights import
--system=units` makes it; wherever a network of units is asked for, it can be named.
"""

import dataclasses
import json
import pathlib

import numpy as np

from avjax.encoders import units
from avjax.errors import UserError
from avjax.signal import kmeans
from avjax.storage import atomic
from avjax.weights import reader

LAYER = 35  # TAVID's, of XLS-R
FILE, TABLE, NETWORK = "units.json", "centroids.npy", "network"


@dataclasses.dataclass(frozen=True)
class Bound:
    """Paths of the network and of its centroids, and the layer that these are of."""

    network: str
    centroids: str
    layer: int


def write(folder: pathlib.Path, weights: str, centroids: str, *, layer: int,
          count: int | None = None) -> str:
    """Fills the folder, which must exist; returns what it holds, in words. The network's files are
    linked, not copied, where the file system can.

    Args:
      weights: a published checkpoint of wav2vec 2.0, XLS-R, HuBERT or WavLM, or its folder.
      centroids: a table (units, width) in .npy.
      count: how many there must be; None: any.

    Raises UserError: unreadable, another network, fewer layers, centroids of another width, of
    another number or not all different.
    """
    table_KD = kmeans.read_centroids(centroids)
    if count not in (None, len(table_KD)):
        raise UserError("another number of centroids", where=str(centroids), expected=str(count),
                        found=str(len(table_KD)), hint="fetch the table that was published")
    if same := len(table_KD) - len(np.unique(table_KD, axis=0)):
        raise UserError("centroids that are the same", where=str(centroids),
                        expected=f"{len(table_KD)} different rows", found=f"{same} repeated",
                        hint="fetch the file again")
    encoder = units.published(weights, centroids, layer=layer)
    place = folder / NETWORK
    place.mkdir()
    files = [pathlib.Path(file) for file in reader.files_of(weights)]
    for file in (*files, files[0].with_name("config.json")):
        if file.is_file():
            atomic.link(file.resolve(), place / file.name)
    np.save(folder / TABLE, table_KD)
    found = {"layer": layer, "units": len(table_KD), "width": encoder.frames.width,
             "network": f"{NETWORK}/{files[0].name}"}
    atomic.write(folder / FILE, json.dumps(found, indent=1))
    layers = encoder.frames.recipe["network"]["num_layers"]
    return (f"layer {layer} of {layers}, {len(table_KD)} centroids of width "
            f"{encoder.frames.width}")


def read(path: str) -> Bound | None:
    """What such a folder holds; None for anything else. UserError: it is incomplete."""
    folder = pathlib.Path(path)
    if not (folder / FILE).is_file():
        return None
    try:
        found = json.loads((folder / FILE).read_text())
        bound = Bound(str(folder / found["network"]), str(folder / TABLE), int(found["layer"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("not a description of units", where=str(folder / FILE),
                        found=f"{type(error).__name__}: {error}",
                        hint="import the network again") from error
    for file in (bound.network, bound.centroids):
        if not pathlib.Path(file).is_file():
            raise UserError("a file of the units has gone", where=str(folder), expected=file,
                            found="nothing", hint="import the network again")
    return bound
