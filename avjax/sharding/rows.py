"""Rows through a frozen network, those of like length together, over the devices of a mesh: how
everything goes that extraction computes. The network keeps the rows of a batch apart, so each gets
what it would get alone, up to rounding.

Suffixes: B batch.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from avjax.sharding.mesh import BATCH_AXES, batch_sharding, make_mesh


def one_device() -> Mesh:
    """Of whoever names no other."""
    return make_mesh({"data": 1}, jax.local_devices()[:1])


def devices() -> Mesh:
    """All of this process; on a CPU one, since its devices share the cores."""
    found = jax.local_devices()
    return make_mesh({"data": -1}, found[:1] if jax.default_backend() == "cpu" else found)


def shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def at_once(rows: int) -> int:
    """How many rows a device takes together: on an accelerator as many as are given; a CPU is as
    fast with one row, and needs less memory."""
    return 1 if jax.default_backend() == "cpu" else max(rows, 1)


def groups(lengths: Sequence[int], padded: Callable[[int], int], most: Callable[[int], int],
           shards: int) -> Iterator[tuple[list[int], int, int]]:
    """Rows of like length together, the longest first: (which they are, the rows of their batch,
    what their length is padded to).

    padded: of a length; most: rows that a device takes of a padded length.
    """
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(padded(length), []).append(i)
    for length, found in sorted(by_length.items(), reverse=True):
        step = shards * most(length)
        for k in range(0, len(found), step):
            which = found[k:k + step]
            yield which, batch_size(len(which), shards), length


def batch_size(rows: int, shards: int) -> int:
    """The least power of two times `shards` that holds the rows: few shapes are ever compiled."""
    return shards * 2 ** (-(-rows // shards) - 1).bit_length()


def stacked(parts: Sequence[np.ndarray], size: int, length: int) -> np.ndarray:
    """(size, length, ...): the parts with zeros behind them, then copies of the first."""
    x_B = np.zeros((size, length, *parts[0].shape[1:]), parts[0].dtype)
    for row in range(size):
        part = parts[row] if row < len(parts) else parts[0]
        x_B[row, :len(part)] = part
    return x_B


def through(function: Callable, rows: Sequence[tuple[np.ndarray, ...]], mesh: Mesh, *,
            padded: Callable[[int], int] = lambda length: length,
            most: Callable[[int], int] = lambda length: 1) -> list[np.ndarray]:
    """What a jitted `function(*arrays_B, lengths_B)` gives of each row. The arrays of a row have
    one first axis, its length, whose padding the function does not look at.

    padded, most: as for `groups`. One batch is computed while the next one is stacked, and no more
    than these two are in memory.
    """
    out, lengths = [None] * len(rows), [len(row[0]) for row in rows]

    def batches():
        for which, size, length in groups(lengths, padded, most, shards(mesh)):
            arrays = [stacked(parts, size, length) for parts in zip(*(rows[i] for i in which),
                                                                    strict=True)]
            lengths_B = stacked([np.int32([lengths[i]]) for i in which], size, 1)[:, 0]
            yield which, (*arrays, lengths_B)

    for which, made_B in _one_ahead(function, batches(), mesh):
        for i, made in zip(which, made_B, strict=False):
            out[i] = made
    return out


def stream(function: Callable, rows: Iterable[np.ndarray], mesh: Mesh,
           most: int) -> Iterator[np.ndarray]:
    """What a jitted `function(x_B)` gives of each of any number of rows of one shape, in their
    order. No more than two batches are in memory."""
    def batches():
        left, apart = iter(rows), shards(mesh)
        while some := list(itertools.islice(left, apart * most)):
            yield some, (stacked(some, batch_size(len(some), apart), len(some[0])),)

    for some, made_B in _one_ahead(function, batches(), mesh):
        yield from made_B[:len(some)]


def _one_ahead(function: Callable, batches: Iterable[tuple[list, tuple]],
               mesh: Mesh) -> Iterator[tuple[list, np.ndarray]]:
    """A batch is computed while the next one is made."""
    ahead = None
    for which, arrays in batches:
        made_B = function(*jax.device_put(arrays, batch_sharding(mesh)))
        if ahead:
            yield ahead[0], np.asarray(ahead[1])
        ahead = which, made_B
    if ahead:
        yield ahead[0], np.asarray(ahead[1])
