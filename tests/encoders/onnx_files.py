"""Writes arrays as an ONNX file has them."""

import numpy as np


def onnx(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a model whose graph has these float32 initialisers and nothing else."""
    graph = b"".join(_field(5, _tensor(name, array)) for name, array in arrays.items())
    return _number(1, 8) + _field(7, _field(2, b"graph") + graph)


def _tensor(name: str, array: np.ndarray) -> bytes:
    return (b"".join(_number(1, n) for n in array.shape) + _number(2, 1)
            + _field(8, name.encode()) + _field(9, array.astype("<f4").tobytes()))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
