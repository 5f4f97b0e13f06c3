"""Tensors and whole trees of what a PyTorch file's pickle holds, over the raw numbers that lie
beside it in a zip (torch_zip.py) or behind it (torch_legacy.py)."""

import pickle

import numpy as np

from avjax.weights.dtypes import FLOAT4, unpack_float4
from avjax.weights.plain_pickle import Array, DType, Foreign, Inert, Tensor


class Storages:
    """Raw storages by their keys."""

    order = "<"  # of bytes

    def raw(self, key: str) -> np.ndarray:
        """Bytes of storage `key` as a uint8 array."""
        raise NotImplementedError

    def tensor(self, t: Tensor) -> np.ndarray:
        """A read-only array on the storage; numpy checks that shape and strides stay inside it."""
        size = t.dtype.itemsize
        if len(t.shape) != len(t.strides) or min((t.offset, *t.shape, *t.strides)) < 0:
            raise ValueError(f"tensor of shape {t.shape} with strides {t.strides} at {t.offset}")
        # ml_dtypes' have no byte order
        kind = np.dtype(f"u{size}") if t.dtype.isbuiltin == 2 else t.dtype
        if 0 in t.shape:
            array = np.zeros(t.shape, kind)
        else:
            array = np.ndarray(t.shape, kind.newbyteorder(self.order), self.raw(t.storage.key),
                               t.offset * size, [s * size for s in t.strides])
        if t.dtype == FLOAT4:
            array = unpack_float4(array)
        else:
            array = array.astype(kind, copy=False).view(t.dtype)
        if t.conjugate:
            array = array.conj()
        if t.negative:
            array = -array
        array.flags.writeable = False
        return array


def finish(value, storages: Storages, foreign: bool):
    """Placeholders -> arrays, through plain containers."""
    if isinstance(value, Tensor):
        return storages.tensor(value)
    if isinstance(value, Array):
        return value.value
    if isinstance(value, DType):
        return str(value.dtype)
    if isinstance(value, dict):
        return {finish(k, storages, foreign): finish(v, storages, foreign)
                for k, v in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(finish(v, storages, foreign) for v in value)
    if isinstance(value, type) and issubclass(value, Foreign):  # the global itself
        return value()
    if isinstance(value, Inert) and foreign:
        return value if isinstance(value, Foreign) else Foreign()
    if isinstance(value, Inert):
        raise pickle.UnpicklingError(f"a bare {type(value).__name__.lstrip('_').lower()}")
    return value
