"""Which files make up a checkpoint: one, or the shards that Hugging Face's libraries write with
their index.

A sharded checkpoint is `NAME-00001-of-00003.safetensors` (or `.bin`) and so on, and beside them
`NAME.safetensors.index.json`, whose "weight_map" maps arrays to shards.
"""

import contextlib
import json
import os
import re

from avjax.errors import UserError

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)(?P<extension>\.[^.]+)")
# model.safetensors.index.json, model.safetensors.index.fp16.json
INDEX = re.compile(r".+(?P<extension>\.(safetensors|bin))\.index(\.[^.]+)?\.json")
TORCH = (".bin", ".pt", ".pth", ".ckpt")
# of a training run
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states")
GET = "download the file itself: a login, a licence to accept or a wrong address may be in the way"
OTHER_KINDS = (  # (how a file starts, in small letters; what that is; what to do)
    (b"version https://git-lfs", "a Git LFS pointer instead of the file",
     "git lfs pull, or download it"),
    (b"<!doctype", "a web page", GET), (b"<html", "a web page", GET),
    (b"<?xml", "a server's answer", GET), (b"gguf", "a GGUF file", "take the model's safetensors"),
    (b"\x89hdf", "an HDF5 file", "take the model's safetensors"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"))


def check_kind(path: str) -> None:
    """Raises UserError for a file whose first bytes are not those of a format that weights are read
    from; its name does not matter."""
    extension = os.path.splitext(path)[1].lower()
    with open(path, "rb") as file:
        head = file.read(64)
    found = "" if head else "an empty file"
    hint = "fetch the file again"
    for start, kind, todo in OTHER_KINDS:
        if head.lower().startswith(start):
            found, hint = kind, todo
    if head and head[:1] in b"{[" and head.isascii() and b"\0" not in head:
        found = "JSON text"
        hint = GET
    length = int.from_bytes(head[:8], "little")
    if extension in TORCH and head[8:9] == b"{" and length < os.path.getsize(path):
        found, hint = "a safetensors file", "rename it to .safetensors"
    if found:
        raise UserError("not a PyTorch checkpoint" if extension in TORCH
                        else f"not a {extension or 'weights'} file", where=path,
                        found=f"{found}; it starts with {head[:8]!r}" if head else found, hint=hint)


def index_of(name: str) -> str:
    """The shards' extension if `name` is that of a sharded checkpoint's index, else ""."""
    match = INDEX.fullmatch(os.path.basename(name))
    return match["extension"] if match else ""


def find_in_folder(folder: str) -> list[str]:
    """The files of the one checkpoint in a folder: its index, or its weights file, or all shards
    without an index. safetensors come before PyTorch's files. UserError: none, several, or shards
    missing."""
    names = sorted(os.listdir(folder))
    for extensions in ((".safetensors",), TORCH):
        found = [[n] for n in names if index_of(n) in extensions]
        indexed = {shard for [n] in found for shard in read_index(os.path.join(folder, n))}
        sharded: dict[str, list[str]] = {}
        for name in names:
            other = name.startswith((*NOT_WEIGHTS, ".")) or name in indexed
            if other or not name.endswith(extensions):
                continue
            part = SHARD.fullmatch(name)
            if part:
                sharded.setdefault(f"{part['stem']} {part['total']}", []).append(name)
            else:
                found.append([name])
        for shards in sharded.values():
            total = int(SHARD.fullmatch(shards[0])["total"])
            if len(shards) != total:
                raise UserError("the checkpoint is incomplete", where=folder,
                                expected=f"{total} shards", found=", ".join(shards),
                                hint="fetch the shards that are missing")
            found.append(shards)
        if len(found) > 1:
            raise UserError("several checkpoints in the folder", where=folder, expected="one",
                            found=", ".join(files[0] for files in found),
                            hint="pass the file or index itself")
        if found:
            return [os.path.join(folder, name) for name in found[0]]
    raise UserError("no weights file in the folder", where=folder,
                    expected="*.safetensors, *.safetensors.index.json or PyTorch's",
                    found=", ".join(names[:8]) or "nothing", hint="pass the file itself")


def read_index(path: str) -> dict[str, set[str]]:
    """{file name of a shard: names of its arrays} of an index. UserError: not an index, or it
    points elsewhere."""
    try:
        with open(path, encoding="utf-8") as file:
            where = json.load(file)["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, shard in where.items():
            if os.path.basename(shard) != shard or not shard:
                raise UserError("the index points out of its folder", where=path,
                                expected="names of files beside it",
                                found=repr(shard))
            shards.setdefault(shard, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("not the index of a sharded checkpoint", where=path,
                        expected='{"weight_map": {name: file}}',
                        found=f"{type(error).__name__}: {error}") from error
    return shards


def check_not_a_shard(path: str) -> None:
    """UserError if a file is one of several that make up a checkpoint, by its name or by an index
    beside it."""
    folder, name = os.path.split(path)
    part = SHARD.fullmatch(name)
    index = ""
    for beside in os.listdir(folder or "."):
        if index_of(beside) and name.endswith(index_of(beside)):
            # a damaged index proves nothing about a complete file beside it
            with contextlib.suppress(UserError):
                shards = read_index(os.path.join(folder, beside))
                index = beside if name in shards and len(shards) > 1 else index
    if index or (part and int(part["total"]) > 1):
        raise UserError("this is one shard of a checkpoint, not all of it", where=path,
                        expected="the index of its shards, or their folder",
                        found=f"shard {int(part['number'])} of {int(part['total'])}" if part
                        else f"a shard of {index}",
                        hint=f"pass {os.path.join(folder, index) if index else folder or '.'}")
