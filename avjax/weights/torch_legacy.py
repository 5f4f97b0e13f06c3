"""PyTorch's checkpoints from before version 1.6, and those saved since with
`_use_new_zipfile_serialization=False`, as much of fairseq's are; nothing in them is executed.

Such a file is five pickles one after the other, and then the storages: a magic number, a version,
a dict of the machine, what was saved, and the keys of the storages in the order in which they
follow, each as the count of its numbers (8 bytes) and those numbers.
"""

import io
import pickle

import numpy as np

from avjax.weights.plain_pickle import Storage, Unpickler
from avjax.weights.storages import Storages, finish

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle's number and end
VERSION = 1001


class _Unpickler(Unpickler):
    """`dtypes`: of the storages that the pickle names, by key."""

    def __init__(self, file, path: str, foreign: bool):
        super().__init__(file, path, foreign)
        self.dtypes: dict[str, np.dtype] = {}

    def persistent_load(self, pid) -> Storage:
        kind, *_, view = pid
        if kind == "storage" and len(pid) == 6 and view is not None:
            raise pickle.UnpicklingError("a storage that is a part of another")
        storage = super().persistent_load(pid)
        self.dtypes[storage.key] = storage.dtype
        return storage


class _Behind(Storages):
    """Storages that follow the pickles from `start` on."""

    def __init__(self, content: np.ndarray, start: int, keys, dtypes, order: str):
        self.order, self._raw = order, {}
        for key in map(str, keys):
            count = int(content[start:start + 8].view(f"{order}i8")[0])
            start += 8
            size = count * dtypes[key].itemsize
            if count < 0 or start + size > len(content):
                raise EOFError(f"storage {key} of {size} bytes, {len(content) - start} left")
            self._raw[key] = content[start:start + size]
            start += size

    def raw(self, key: str) -> np.ndarray:
        return self._raw[key]


def read(path: str, data: bytes | None, foreign: bool):
    """The object that was saved, with arrays for tensors: see torch_zip.read_torch_zip, which turns
    what is raised here into UserErrors."""
    with open(path, "rb") if data is None else io.BytesIO(data) as file:
        _, version, machine = (Unpickler(file, path).load() for _ in range(3))
        if version != VERSION or not isinstance(machine, dict):
            raise pickle.UnpicklingError(f"version {version!r} of the format")
        what = _Unpickler(file, path, foreign)
        tree = what.load()
        keys = Unpickler(file, path).load()
        start = file.tell()
    content = np.memmap(path, np.uint8, "r") if data is None else np.frombuffer(data, np.uint8)
    order = "<" if machine.get("little_endian", True) else ">"
    return finish(tree, _Behind(content, start, keys, what.dtypes, order), foreign)
