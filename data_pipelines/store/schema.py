"""What a dataset folder holds: named features with shapes, rates and the recipe each was made by.

A recipe is a plain JSON dict that defines a feature exactly. Its hash travels with shards and
checkpoints, so that a mel for another vocoder, or tokens of another inventory, is an error instead
of silently trained on.
"""

import dataclasses
import hashlib

import numpy as np

from avjax.storage import made

# {feature name: recipe}, beside TFDS's features.json and dataset_info.json
RECIPES_FILE = "recipes.json"
# recipes[FAMILY] = {"kind": a folder of data_pipelines/features}: whose `StreamDecoder` decodes
FAMILY = "family"
SCHEMA_FILE = "schema.json"  # {feature name: shape, dtype, meaning, unit, rate}
IDS_FILE = "ids.json"  # {split: [id, ...] in record order}
LENGTHS_FILE = "lengths.npz"  # {"<split>.<feature>": lengths of every example's sequence}
MENDED = "mended"  # column of clips: JSON list of defects of the source that were mended
MENDED_FILE = "mended.json"  # {defect: number of examples}, of clips with that column
NOTICED_FILE = "noticed.json"  # {what of the source its user should know: how often}, if anything
# {file: {"sha256", "bytes"}}, written last: its presence means "whole"
CHECKSUMS_FILE = "checksums.json"
# the codec that maps a speaker's name to what a system needs to be that speaker
SPEAKERS = "speakers"
# <feature name>.npz: fitted arrays (eigenfaces, centroids, head VAE, ...) of this dataset
CODECS_DIR = "codecs"


@dataclasses.dataclass(frozen=True)
class Feature:
    """One column. `shape` uses None for the time axis (always first); dtype "str" is a unicode
    scalar. `apart`: a sequence of large frames, stored so that some can be read (frames.py)."""

    shape: tuple[int | None, ...]
    dtype: str
    meaning: str
    unit: str = ""
    rate: float | None = None
    apart: bool = False


def recipe_hash(recipe: dict) -> str:
    """16 hex digits of the canonical JSON's SHA-256."""
    return made.digest(recipe)


def arrays_hash(arrays: dict[str, np.ndarray]) -> str:
    """16 hex digits over names, shapes, dtypes and contents."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
