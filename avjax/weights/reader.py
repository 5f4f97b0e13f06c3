"""Published checkpoints in, as plain dicts of numpy arrays: one entry point for every file format.

Nothing read here can execute: safetensors and `.npz` hold only arrays (pickled arrays in `.npz` are
refused), PyTorch files go through avjax/weights/torch_zip.py.
"""

import hashlib
import json
import os
import zipfile
import zlib
from typing import Any

import numpy as np
import safetensors

from avjax.errors import UserError
from avjax.weights import dtypes, files, onnx_arrays, torch_legacy, torch_zip
from avjax.weights.plain_pickle import WAY_OUT, Foreign
from avjax.weights.wrappers import unwrap

# where training scripts put the weights
STATE_KEYS = ("model_state_dict", "state_dict", "model", "module")


def read_checkpoint(path: str | os.PathLike, foreign: bool = False) -> Any:
    """The content of a `.safetensors`, `.npz`, `.npy`, `.onnx`, `.pt`, `.pth`, `.ckpt` or `.bin`
    file, of a sharded checkpoint (given by its index or folder), or of the one weights file in a
    folder.

    safetensors, `.npz` and `.onnx` (its initialisers) give {name: array}; a PyTorch file gives the
    object that was saved (a bare tensor gives an array). Arrays may be read-only and memory-mapped.
    With `foreign`, what is not plain data (the configs and paths that trainers save along) is a
    plain_pickle.Foreign, which was not executed either; else this raises UserError.
    UserError: missing, unreadable, truncated or unsafe file.
    """
    parts = _parts(os.fspath(path))
    merged: dict[str, np.ndarray] = {}
    for shard, names in parts.items():
        arrays = _read_file(shard, foreign)
        if names is None and len(parts) == 1:
            return arrays
        if not isinstance(arrays, dict):
            raise UserError("not a shard of a checkpoint", where=shard, expected="names and arrays",
                            found=_describe(arrays))
        absent = sorted((names or set()).difference(arrays))
        if absent:
            raise UserError("a shard lacks arrays that the index puts there", where=shard,
                            expected=absent[0], found=f"{len(absent)} missing",
                            hint="fetch the shard and the index again")
        twice = next((name for name in arrays if name in merged), None)
        if twice is not None:
            raise UserError("two shards hold one array", where=shard, expected="each array once",
                            found=twice,
                            hint="fetch the shards and the index again")
        merged |= arrays
    return merged


def read_state_dict(path: str | os.PathLike, select: str | None = None) -> dict[str, np.ndarray]:
    """The network's weights, {published name: array}, wherever the file keeps them.

    select: key of the nested dict or the start of the names, dots between levels (e.g.
      "ema.model"); None finds
    `model_state_dict`, `state_dict`, `model` or `module`, or takes the file itself when it is a
    dict of arrays. Names are those of the network inside compiled, parallel or averaged modules
    (avjax/weights/wrappers.py).
    UserError: nothing that looks like weights (the message lists what the file has), one shard of
      several, or numbers
    that mean nothing without the scales beside them.
    """
    path = os.fspath(path)
    if os.path.isfile(path):
        files.check_not_a_shard(path)
    tree = read_checkpoint(path, foreign=True)
    if select is not None:
        tree = _select(tree, select, path)
    else:
        for key in STATE_KEYS:
            if isinstance(tree, dict) and isinstance(tree.get(key), dict | Foreign):
                tree = tree[key]
                break
    arrays = {k: np.asarray(v) for k, v in tree.items() if isinstance(v, np.ndarray | np.generic)} \
        if isinstance(tree, dict) else {}
    if not arrays or len(arrays) < len(tree):
        rest = {k: v for k, v in tree.items() if k not in arrays} if arrays else tree
        raise UserError("the part with the weights holds something else too" if arrays
                        else "found no weights in the file", where=path,
                        expected="names and arrays", found=_describe(rest),
                        hint=WAY_OUT if isinstance(tree, Foreign) else
                        "pass select=KEY to name the part that holds the weights")
    arrays = unwrap(arrays, path)
    _check_numbers(arrays, path)
    return arrays


def flatten(tree: Any, prefix: str = "", kind: type = np.ndarray) -> dict[str, Any]:
    """Every array (or `kind`) of a nested checkpoint under its path, "a.b.0.c"; the rest (numbers,
    text) is left out."""
    if isinstance(tree, kind):
        return {prefix or "(bare array)": tree}
    items = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    flat = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key), kind)
    return flat


def file_sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file: the hash that results quote as "weights". Of a sharded checkpoint: that
    of the listing which `sha256sum` prints of its shards, sorted by name."""
    path = os.fspath(path)
    digests = {}
    for part in sorted(_parts(path)):
        with open(part, "rb") as file:
            digests[os.path.basename(part)] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{d}  {name}\n" for name,
                                  d in digests.items()).encode()).hexdigest()


def files_of(path: str | os.PathLike) -> list[str]:
    """The files of a checkpoint, its index first where it has one. UserError: missing."""
    path = os.fspath(path)
    parts = list(_parts(path))
    if os.path.isdir(path):
        path = files.find_in_folder(path)[0]
    return [path, *parts] if files.index_of(path) else parts


def _parts(path: str) -> dict[str, set[str] | None]:
    """{file: the arrays that an index expects in it, None without an index}."""
    if os.path.isdir(path):
        found = files.find_in_folder(path)
        if not files.index_of(found[0]):
            return dict.fromkeys(found)
        path = found[0]
    if not os.path.isfile(path):
        raise UserError("no such weights file", where=path,
                        expected="a file or a folder with one checkpoint",
                        found="nothing", hint="check the path")
    if not files.index_of(path):
        return {path: None}
    shards = files.read_index(path)
    folder = os.path.dirname(path)
    missing = sorted(shard for shard in shards if not os.path.isfile(os.path.join(folder, shard)))
    if missing:
        raise UserError("shards of the checkpoint are missing", where=path,
                        expected=f"{len(shards)} files beside it",
                        found=f"not {', '.join(missing[:5])}",
                        hint="fetch them into the folder of the index")
    return {os.path.join(folder, shard): names for shard, names in shards.items()}


def _read_file(path: str, foreign: bool = False) -> Any:
    if not os.access(path, os.R_OK):
        raise UserError("the weights file may not be read", where=path,
                        hint="change its permissions")
    files.check_kind(path)
    extension = os.path.splitext(path)[1].lower()
    try:
        if extension == ".safetensors":
            return _read_safetensors(path)
        if extension == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            # a zip of another kind
            if any(not isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError(f"entries without an array, e.g. {next(iter(arrays))}")
            return arrays
        if extension == ".npy":
            return np.load(path, allow_pickle=False)
        if extension == ".onnx":
            return onnx_arrays.read_onnx(path)
    except (safetensors.SafetensorError, ValueError, EOFError, zipfile.BadZipFile, zlib.error,
            KeyError) as error:
        raise UserError("the weights file is truncated or corrupt", where=path,
                        expected=f"a complete {extension} file", found=str(error),
                        hint="fetch the file again and compare its size") from error
    if extension in files.TORCH:
        return torch_zip.read_torch_zip(path, foreign=foreign)
    with open(path, "rb") as file:
        head = file.read(64)
        # published ones are also called g_05000000, model.pth.tar or syncnet_v2.model
        if head.startswith(b"PK") or torch_legacy.MAGIC in head:
            return torch_zip.read_torch_zip(path, foreign=foreign)
    raise UserError("unknown kind of weights file", where=path,
                    expected=".safetensors, .npz, .npy, .onnx, .pt, .pth, .ckpt or .bin",
                    found=extension or "no extension",
                    hint="convert it, or give it the right extension")


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    """safetensors.numpy (0.8) fails on float8 and float4 (it looks for numpy.float8_e4m3fn): its
    checks of the file are used, and the formats are ours."""
    with safetensors.safe_open(path, framework="np"):
        pass  # SafetensorError: truncated, overlapping, or not such a file
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int(content[:8].view("<u8")[0])
    arrays = {}
    for name, entry in json.loads(content[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in dtypes.SAFETENSORS:
            raise UserError("a number format that is not read", where=f"{path}, {name}",
                            found=entry["dtype"], expected=", ".join(dtypes.SAFETENSORS),
                            hint="convert it where it was made")
        dtype = np.dtype(dtypes.SAFETENSORS[entry["dtype"]])
        first, last = (start + offset for offset in entry["data_offsets"])
        raw = np.array(content[first:last])
        numbers = dtypes.unpack_float4(raw) if dtype == dtypes.FLOAT4 else raw.view(dtype)
        arrays[name] = numbers.reshape(entry["shape"])
    return arrays


def _select(tree: Any, select: str, path: str) -> Any:
    """The part under "a.b": of nested dicts and lists, or of entries whose names start so."""
    if not select:
        return tree
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        for key, value in tree.items():
            if select == str(key) or (select.startswith(f"{key}.")
                                      and isinstance(value, dict | list | tuple)):
                return _select(value, select.removeprefix(str(key)).removeprefix("."), path)
        flat = {k: v for k, v in tree.items() if str(k).startswith(f"{select}.")}
        if flat:
            return {k.removeprefix(f"{select}."): v for k, v in flat.items()}
    raise UserError("no such part in the weights file", where=f"{path}, key {select!r}",
                    expected=repr(select.partition(".")[0]), found=_describe(tree),
                    hint="choose one of the keys found")


def _check_numbers(arrays: dict[str, np.ndarray], path: str) -> None:
    scaled = {}
    for name in arrays:
        parent, _, last = name.rpartition(".")
        if any(word in last for word in ("scale", "absmax", "SCB")):
            scaled[parent] = name
    for name, array in arrays.items():
        special = array.dtype.isbuiltin == 2  # those of ml_dtypes
        if array.dtype.kind not in "biufc" and not special:
            raise UserError("an entry does not hold plain numbers", where=f"{path}, {name}",
                            expected="numbers", found=str(array.dtype), hint="save it as float32")
        scale = scaled.get(name.rpartition(".")[0], scaled.get(name))
        byte = array.dtype.itemsize == 1 and (special or array.dtype.kind in "iu")
        if scale not in (None, name) and byte:
            raise UserError("quantised weights are not read", where=f"{path}, {name}",
                            expected="float32 or bfloat16",
                            found=f"{array.dtype} with its scales in {scale}",
                            hint="dequantise them first")
        if name.endswith((".weight", ".bias")) and array.dtype.kind in "iub":
            raise UserError("weights are whole numbers", where=f"{path}, {name}",
                            expected="float32 or bfloat16", found=str(array.dtype),
                            hint="if they were quantised, dequantise them first")


def _describe(tree: Any) -> str:
    def kind(value):
        return repr(value) if isinstance(value, Foreign) else type(value).__name__

    if not isinstance(tree, dict):
        return kind(tree) if isinstance(tree, Foreign) else f"a bare {kind(tree)}"
    kinds = [f"{k}: {'array' if isinstance(v, np.ndarray) else kind(v)}" for k,
             v in list(tree.items())[:12]]
    return ", ".join(kinds) + (", ..." if len(tree) > 12 else "") if kinds else "an empty dict"
