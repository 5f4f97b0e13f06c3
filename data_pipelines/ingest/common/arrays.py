"""Arrays of a corpus (.npy): checked before anything is made of them, never executed, and frames
that are missing or not finite filled in.

An .npy may hold pickled objects, which could be any program: those are refused by their header.
Suffixes: T frames, C channels.
"""

import io
import math
import threading

import numpy as np

from data_pipelines.ingest.common.files import Files
from data_pipelines.store.dataset import Unusable

# numpy parses headers by `ast`, which fails in two threads at once ("SystemError: AST constructor
# recursion depth mismatch", Python 3.11)
_HEADERS = threading.Lock()
MOST_FILLED = 0.5  # [ours] share of a recording's frames; beyond, it is left out


def read(files: Files, name: str, *shapes: tuple[int | None, ...],
         kinds: str = "fiu") -> np.ndarray:
    """The array in a file, read only and mapped where it can be.

    Args:
      shapes: one of which is expected; None for any length.
      kinds: of numpy's dtypes that may be in it: f floats, i and u whole numbers, U text.

    Raises:
      Unusable: "a file is missing", "an array is cut short", "an array of objects", "an array of
        another shape", "not an array", and of a damaged archive.
    """
    content = files.content(name)
    where = files.where(name)
    try:
        found, fortran, dtype, offset = header(content)
    except (ValueError, EOFError) as error:
        raise Unusable("not an array", where=where, expected="an .npy file", found=str(error),
                       hint="fetch it again") from error
    if dtype.hasobject:
        raise Unusable("an array of objects", where=where, expected="numbers or text",
                       found="pickled Python objects, which are not read",
                       hint="where you trust it: numpy.save(FILE, numpy.load(FILE, "
                            "allow_pickle=True).astype(str)), or astype(float)")
    fits = any(len(found) == len(shape) and all(e in (None, s) for e, s in zip(shape, found,
                                                                               strict=True))
               for shape in shapes)
    if not fits or dtype.kind not in kinds:
        raise Unusable("an array of another shape", where=where, found=f"{found} {dtype}",
                       expected=" or ".join(map(str, shapes)))
    needed = _end(found, dtype, offset)
    if needed > len(content):
        raise Unusable("an array is cut short", where=where, expected=f"{needed} bytes",
                       found=str(len(content)), hint="fetch it again")
    return np.ndarray(found, dtype, content, offset, order="F" if fortran else "C")


def contained(content: bytes) -> np.ndarray:
    """The array in the bytes of an .npy, read only. Raises ValueError, EOFError: it is none, or
    cut short, or of objects."""
    content = np.frombuffer(content, np.uint8)
    shape, fortran, dtype, offset = header(content)
    needed = offset + dtype.itemsize * math.prod(shape)
    if dtype.hasobject or needed > len(content):  # np.load would first make room for all of it
        raise ValueError(f"{shape} {dtype} in {len(content)} bytes")
    return np.ndarray(shape, dtype, content, offset, order="F" if fortran else "C")


def length(files: Files, name: str) -> int | None:
    """The first dimension of an array; None where there is no such array or it is cut short."""
    try:
        content = files.content(name)
        shape, _, dtype, offset = header(content)
    except (Unusable, ValueError, EOFError):
        return None
    return shape[0] if shape and _end(shape, dtype, offset) <= len(content) else None


def header(content: np.ndarray) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, whether in Fortran's order, dtype, where the numbers begin) of an .npy's bytes.

    Raises ValueError: it is none.
    """
    stream = io.BytesIO(content[:1 << 17].tobytes())
    version = np.lib.format.read_magic(stream)
    known = {(1, 0): np.lib.format.read_array_header_1_0,
             (2, 0): np.lib.format.read_array_header_2_0}
    if version not in known:
        raise ValueError(f"version {version} of .npy")
    with _HEADERS:
        shape, fortran, dtype = known[version](stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"lengths below 0: {shape}")
    return shape, fortran, dtype, stream.tell()


def _end(shape: tuple[int, ...], dtype: np.dtype, offset: int) -> int:
    return offset + dtype.itemsize * math.prod(shape)


def filled(x_TC: np.ndarray, bad_T: np.ndarray, where: str,
           most: float = MOST_FILLED) -> np.ndarray:
    """float32 frames, the bad ones interpolated between the good ones around them, held at the
    ends.

    Raises Unusable: all frames are bad, or a larger share than `most`.
    """
    x_TC = np.array(x_TC, np.float32)
    bad = np.count_nonzero(bad_T)
    if bad == len(x_TC) or bad > most * len(x_TC):
        raise Unusable("every frame is missing" if bad == len(x_TC) else "most frames are missing",
                       where=where, expected=f"at most {most:.0%} of {len(x_TC)}", found=str(bad))
    if bad:
        good, times = np.flatnonzero(~bad_T), np.flatnonzero(bad_T)
        flat = x_TC.reshape(len(x_TC), -1)
        above = np.searchsorted(good, times)
        a, b = good[np.maximum(above - 1, 0)], good[np.minimum(above, len(good) - 1)]
        weight = np.where(b > a, (times - a) / np.maximum(b - a, 1), 0.0)[:, None]
        flat[times] = flat[a] * (1 - weight) + flat[b] * weight
    return x_TC


def not_finite(x_TC: np.ndarray) -> np.ndarray:
    """(T,) whether a frame has a number that is not finite."""
    return ~np.isfinite(x_TC.reshape(len(x_TC), -1)).all(1)
