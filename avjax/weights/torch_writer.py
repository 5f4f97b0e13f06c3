"""PyTorch's zip checkpoints, written without PyTorch: what `torch.save` makes of plain containers
with tensors in them.

torch.load(weights_only=True) reads the file, memory-mapped or not, and so does
avjax.weights.torch_zip. The layout is that of torch >= 1.6: `data.pkl` with one persistent id a
storage, `data/<key>` with its bytes, uncompressed and aligned.
"""

import os
import struct
import types
import zipfile
from typing import Any

import numpy as np

from avjax.weights import dtypes

ALIGNMENT = 64  # of a storage's first byte, as torch writes it
_HEADER = 30  # bytes of a zip entry's local header before its name and extra fields
_NAMES = {np.dtype(dtype): name for name, dtype in dtypes.STORAGES.items() if name
          != "UntypedStorage"}


def write_torch_zip(path: str | os.PathLike, tree: Any) -> None:
    """Writes dicts, lists, tuples, numpy arrays (as CPU tensors), numbers, text, booleans and None;
    and types.SimpleNamespace, which torch.load(weights_only=False) alone reads.

    An array that occurs twice is written once, and is one tensor for the reader. TypeError:
    anything else in `tree`.
    """
    storages: dict[int, tuple[str, np.ndarray]] = {}
    program = b"\x80\x02" + _encode(tree, storages) + b"."
    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, file, "data.pkl", program)
        _add(archive, file, "byteorder", b"little")
        for key, array in storages.values():
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            _add(archive, file, f"data/{key}", little.reshape(-1).view(np.uint8).data)
        _add(archive, file, "version", b"3\n")


def _add(archive: zipfile.ZipFile, file, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")
    # an extra field that zipfile puts behind ours
    zip64 = 20 if len(data) * 1.05 > zipfile.ZIP64_LIMIT else 0
    start = file.tell() + _HEADER + len(info.filename) + zip64 + 4
    padding = -start % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)  # torch's own field
    archive.writestr(info, data)


def _encode(value: Any, storages: dict[int, tuple[str, np.ndarray]]) -> bytes:
    """Pickle opcodes, protocol 2, that push `value`. New arrays go into `storages`, under their
    identity."""
    def all_of(values):
        return b"".join(_encode(v, storages) for v in values)

    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + all_of(value) + b"t"
        case list():
            return b"](" + all_of(value) + b"e"
        case dict():
            return b"}(" + all_of(x for item in value.items() for x in item) + b"u"
        case types.SimpleNamespace():
            return _global("types", "SimpleNamespace") + b")R" + all_of([vars(value)]) + b"b"
        case np.ndarray() if (dtype := value.dtype.newbyteorder("=")) in _NAMES:
            key, _ = storages.setdefault(id(value), (str(len(storages)), value))
            storage = (b"(" + all_of(["storage"]) + _global("torch", _NAMES[dtype])
                       + all_of([key, "cpu", value.size]) + b"tQ")
            strides = tuple(int(np.prod(value.shape[i + 1:], dtype=np.int64))
                            for i in range(value.ndim))
            return (_global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage
                    + all_of([0, value.shape, strides,
                              False]) + _global("collections", "OrderedDict") + b")RtR")
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(f"{kind} cannot be in a torch checkpoint")


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
