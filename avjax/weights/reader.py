"""Published checkpoints in, as plain dicts of numpy arrays: one entry point for every file format.

Nothing read here can execute: safetensors and `.npz` hold only arrays (pickled arrays in `.npz` are refused), PyTorch
files go through avjax/weights/torch_zip.py.
"""

import hashlib
import os
import zipfile
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from avjax.errors import UserError
from avjax.weights import torch_zip

STATE_KEYS = ("model_state_dict", "state_dict", "model")  # where training scripts put the weights


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The whole content of a `.safetensors`, `.npz`, `.npy`, `.pt`, `.pth`, `.ckpt` or `.bin` file.

    The first two give {name: array}; a PyTorch file gives whatever was saved (a bare tensor gives an array). Arrays may
    be read-only and memory-mapped. UserError: missing, unreadable, truncated or unsafe file.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError("no such weights file", where=path, expected="a file",
                        found="a folder" if os.path.isdir(path) else "nothing", way_out="check the path")
    extension = os.path.splitext(path)[1].lower()
    try:
        if extension == ".safetensors":
            return safetensors.numpy.load_file(path)
        if extension == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if extension == ".npy":
            return np.load(path, allow_pickle=False)
    except (safetensors.SafetensorError, ValueError, EOFError, zipfile.BadZipFile, OSError, KeyError) as error:
        raise UserError("the weights file is truncated or corrupt", where=path, expected=f"a whole {extension} file",
                        found=str(error), way_out="fetch the file again and compare its size") from error
    if extension in (".pt", ".pth", ".ckpt", ".bin"):
        return torch_zip.read_torch_zip(path)
    raise UserError("unknown kind of weights file", where=path,
                    expected=".safetensors, .npz, .npy, .pt, .pth, .ckpt or .bin", found=extension or "no extension",
                    way_out="convert it, or give it the right extension")


def read_state_dict(path: str | os.PathLike, select: str | None = None) -> dict[str, np.ndarray]:
    """The network's weights, {published name: array}, wherever the file keeps them.

    select: key of the nested dict, dots between levels (e.g. "ema.model"); None finds `model_state_dict`, `state_dict`
    or `model`, or takes the file itself when it is a dict of arrays. A "module." prefix (DataParallel) is removed.
    UserError: nothing that looks like weights; the message lists what the file has.
    """
    tree = read_checkpoint(path)
    if select is not None:
        for key in select.split("."):
            if not isinstance(tree, dict) or key not in tree:
                raise UserError("no such part in the weights file", where=f"{path}, key {select!r}",
                                expected=repr(key), found=_describe(tree), way_out="choose one of the keys found")
            tree = tree[key]
    else:
        for key in STATE_KEYS:
            if isinstance(tree, dict) and isinstance(tree.get(key), dict):
                tree = tree[key]
                break
    arrays = {k: v for k, v in tree.items() if isinstance(v, np.ndarray)} if isinstance(tree, dict) else {}
    if not arrays or len(arrays) < len(tree):
        raise UserError("found no weights in the file", where=str(path), expected="names and arrays",
                        found=_describe(tree), way_out="pass select=KEY to name the part that holds the weights")
    if all(k.startswith("module.") for k in arrays):
        arrays = {k.removeprefix("module."): v for k, v in arrays.items()}
    return arrays


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Every array of a nested checkpoint under its path, "a.b.0.c"; the rest (numbers, text) is left out."""
    if isinstance(tree, np.ndarray):
        return {prefix or "(bare array)": tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    flat = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def file_sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file: the hash that results quote as "weights"."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(tree: Any) -> str:
    if not isinstance(tree, dict):
        return f"a bare {type(tree).__name__}"
    kinds = [f"{k}: {'array' if isinstance(v, np.ndarray) else type(v).__name__}" for k, v in list(tree.items())[:12]]
    return ", ".join(kinds) + (", ..." if len(tree) > 12 else "") if kinds else "an empty dict"
