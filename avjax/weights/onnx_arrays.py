"""The arrays of an ONNX file, read without ONNX: its graph is not looked at, let alone run.

Such a file is a protocol buffer. Of its messages four fields matter: ModelProto.graph (7),
GraphProto.initializer (5), and of each TensorProto dims (1), data_type (2), float_data (4),
name (8), raw_data (9) and data_location (14). Constants inside the graph's nodes are not arrays of
the file.
Source: onnx.proto of ONNX 1.23 and protobuf's wire format.
"""

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from avjax.errors import UserError

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _FLOATS, _NAME, _RAW, _PLACE = 1, 2, 4, 8, 9, 14
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2",
           11: "<f8", 12: "<u4", 13: "<u8", 16: ml_dtypes.bfloat16}


def read_onnx(path: str) -> dict[str, np.ndarray]:
    """{name: read-only array} of the main graph's initialisers.

    UserError: not such a file, cut short, without initialisers, or with numbers kept elsewhere.
    """
    arrays = {}
    try:
        with open(path, "rb") as file:
            content = memoryview(file.read())
        for model_field, graph in _fields(content):
            if model_field != _GRAPH:
                continue
            for field, tensor in _fields(graph):
                if field == _INITIALIZER:
                    name, array = _tensor(tensor)
                    arrays[name] = array
    except (IndexError, ValueError, TypeError, KeyError) as error:
        raise UserError("the ONNX file is not understood", where=path,
                        expected="a complete file with its numbers inside",
                        found=f"{type(error).__name__}: {error}",
                        hint="fetch the file again and compare its size") from error
    if not arrays:
        raise UserError("no arrays in the ONNX file", where=path, expected="initialisers",
                        found="none", hint="check which file it is")
    return arrays


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    dims: list[int] = []
    name, kind, data, place = "", 0, None, 0
    for field, value in _fields(message):
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif field == _TYPE:
            kind = value
        elif field == _NAME:
            name = bytes(value).decode()
        elif field in (_RAW, _FLOATS):  # packed float_data are little-endian float32 too
            data = value
        elif field == _PLACE:
            place = value
    if data is None or place:
        raise ValueError(f"the numbers of {name!r} are not in the file")
    if kind not in _DTYPES:
        raise ValueError(f"numbers of kind {kind} in {name!r}")
    array = np.frombuffer(bytes(data), _DTYPES[kind])
    if len(array) != math.prod(dims):
        raise ValueError(f"{len(array)} numbers for shape {dims} of {name!r}")
    return name, array.reshape(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field: an int, or the bytes of what has a length or a fixed width."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(message):
            raise ValueError("it ends inside a field")
        yield number, message[at:at + length]
        at += length


def _varints(packed: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """(value, place behind it) of a number of seven bits a byte, lowest first."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
