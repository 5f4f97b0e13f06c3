"""A pickle of plain data (PyTorch's checkpoints hold one), read without executing anything.

A pickle may name any Python callable; here every global it names is looked up in one short table,
and what is not in the table raises by name, or, where the caller asks for that, is replaced by a
Foreign, which knows that name alone.
Nothing that a pickle does outlives it: the table is made anew for each pickle, its entries are
slotted objects, and state given to one (BUILD) raises.
"""

import io
import pickle
from typing import BinaryIO

import numpy as np

from avjax.errors import UserError
from avjax.weights import dtypes

WAY_OUT = ("where PyTorch is installed, save only its tensors with safetensors.torch.save_file, "
           "and pass that file")
# what these name makes tensors
TENSOR_MODULES = ("torch", "torch._utils", "torch._tensor", "torch.storage")
# without a numpy array: the global that shows them, how they are called, what to do
OTHER_TENSORS = {
    "_rebuild_sparse_tensor": ("sparse", "save tensor.to_dense() instead"),
    "_rebuild_qtensor": ("quantised", "save tensor.dequantize() instead"),
    "_rebuild_nested_tensor": ("nested", "save tensor.to_padded_tensor(0) instead"),
    "_rebuild_meta_tensor_no_storage": ("meta", "it has a shape and no numbers; save those of a "
                                        "loaded model"),
    "_rebuild_wrapper_subclass": ("wrapped", "save tensor.dequantize() or, of a distributed one, "
                                  "tensor.full_tensor()"),
    "complex32": ("complex32", "save tensor.to(torch.complex64) instead")}


class Inert:
    """Base of everything the pickle can hold on to: no attribute can be set, no state can be
    given."""

    __slots__ = ()

    def __setstate__(self, state):
        raise pickle.UnpicklingError(f"state given to {type(self).__name__}")


class _Call(Inert):
    """An allowed global; calling it builds plain data."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("an allowed global cannot be changed")

    def __call__(self, *args):
        return self._function(*args)


class DType(Inert):
    """A `torch.float32`-like name, or a number format of ml_dtypes."""

    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject:
            raise pickle.UnpicklingError(f"numpy dtype {self.dtype} (objects are not read)")


class _NumpyDType(DType):
    """numpy's `dtype("f4")`, made without its byte order, unit or fields, which come as its
    state."""

    __slots__ = ()

    def __setstate__(self, state):
        # (version, byte order, (base, shape) or None, names, {name: (dtype, offset)}, bytes,
        # alignment, flags, unit)
        _, order, sub, names, fields, size, *_ = state
        if names:
            made = {"names": list(names), "formats": [fields[name][0].dtype for name in names],
                    "offsets": [fields[name][1] for name in names], "itemsize": size}
        elif sub:
            made = (sub[0].dtype, tuple(sub[1]))
        elif self.dtype.kind in "mM":  # dates and durations
            unit, number, *_ = state[8][1]
            step = "" if unit == b"generic" else f"[{number}{unit.decode()}]"
            made = f"{order}{self.dtype.kind}8{step}"
        else:
            made = self.dtype.newbyteorder(order) if order in ("<", ">") else self.dtype
        self.__init__(made)


class Foreign(Inert):
    """In place of another program's object (a config, a path): takes all that the pickle gives it.
    `record` is the state that it was given last, as plain as the pickle had it, for who looks for a
    number in a config (`fields`); everything else is dropped.

    A global is a subclass of its own, for pickles demand a class to make objects of; what it was
    meant to do is neither looked up nor called.
    """

    __slots__ = ("record",)
    name = "a builtin"

    def __new__(cls, *_, **__):
        made = super().__new__(cls)
        object.__setattr__(made, "record", None)
        return made

    def __call__(self, *_, **__):
        return self

    def __setstate__(self=None, state=None):
        if isinstance(self, Foreign):  # else a global itself is given the state
            object.__setattr__(self, "record", state)

    def _ignore(self=None, *_):
        pass

    __setitem__ = append = extend = add = _ignore

    def __setattr__(self, name, value):
        pass

    def __repr__(self):
        return f"an object of {self.name}, not read"


def fields(value) -> dict[str, object]:
    """The entries of a config that a checkpoint has beside its weights, {} of anything else: of a
    dict, of argparse's Namespace, or of omegaconf's DictConfig (whose state has them as `_content`,
    each a node with its `_val`)."""
    record = value.record if isinstance(value, Foreign) else value
    if isinstance(record, tuple) and record:  # (__dict__, slots)
        record = record[0]
    if isinstance(record, dict) and "_content" in record:
        record = record["_content"]
    if not isinstance(record, dict):
        return {}
    return {key: _value(entry) for key, entry in record.items() if isinstance(key, str)}


def _value(entry):
    """A node's value; what is no node, itself."""
    record = entry.record if isinstance(entry, Foreign) else None
    return record["_val"] if isinstance(record, dict) and "_val" in record else entry


class Storage(Inert):
    """Raw numbers in a file of their own."""

    __slots__ = ("dtype", "key")

    def __init__(self, dtype, key):
        self.dtype = np.dtype(dtype)
        self.key = str(key)


class Tensor(Inert):
    """A strided window on a storage; the numbers are looked up once the pickle has been
    accepted."""

    __slots__ = ("conjugate", "dtype", "negative", "offset", "shape", "storage", "strides")

    def __init__(self, storage, offset, shape, strides, dtype=None, metadata=None):
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        self.storage = storage
        self.offset = int(offset)
        self.shape, self.strides = tuple(int(n) for n in shape), tuple(int(n) for n in strides)
        self.dtype = dtype.dtype if dtype else storage.dtype
        # torch puts off conjugation and negation: the storage holds the numbers before them
        metadata = metadata or {}
        self.conjugate, self.negative = bool(metadata.get("conj")), bool(metadata.get("neg"))


class Array(Inert):
    """A pickled numpy array: made empty, then given (version, shape, dtype, is Fortran, bytes)."""

    __slots__ = ("value",)

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C").value


class _Dict(dict):
    """OrderedDict; torch hangs `_metadata` on it, which is of no use here."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


def _array(data, dtype, shape, order, axes=None):
    """numpy's `_frombuffer` (pickle protocol 5); order "K": C order, then transposed to `axes`."""
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError(f"an array made of a {type(data).__name__}")
    flat = np.frombuffer(data, dtype.dtype) if len(data) else np.empty(0, dtype.dtype)
    array = Array()
    array.value = flat.reshape(shape, order="F" if order == "F" else "C")
    if axes is not None:
        array.value = array.value.transpose(axes)
    array.value.flags.writeable = False
    return array


def _numpy_dtype(name, *_):
    if isinstance(name, DType):  # of ml_dtypes
        return _NumpyDType(name.dtype)
    if isinstance(name, _Call):  # numpy.record, whose fields come as its state
        return _NumpyDType("V")
    if not isinstance(name, str):
        raise pickle.UnpicklingError(f"a numpy dtype made of a {type(name).__name__}")
    return _NumpyDType(name)


def _latin1(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(data=b"", encoding="latin1"):
    if not isinstance(data, bytes | str):  # a number would make that many zeros
        raise pickle.UnpicklingError(f"bytes made of a {type(data).__name__}")
    return _latin1(data, encoding) if isinstance(data, str) else data


def _tensor_v2(storage, offset, shape, strides, _requires_grad=None, _hooks=None, metadata=None):
    return Tensor(storage, offset, shape, strides, metadata=metadata)


def _tensor_v3(storage, offset, shape, strides, _requires_grad, _hooks, dtype, metadata=None):
    return Tensor(storage, offset, shape, strides, dtype, metadata)


def _typed(function, _type, args, _state):  # Tensor subclasses: Parameter, Buffer
    # a type of its own may read its numbers its own way
    if not isinstance(function, _Call) or not isinstance(_type, _Call):
        raise pickle.UnpicklingError("a tensor rebuilt by something that is no allowed global, or "
                                     "into such a type")
    return function(*args)


def _scalar(dtype, data):
    return np.frombuffer(data, dtype.dtype)[0]


def _refused_call(name):
    def call(*_):
        raise pickle.UnpicklingError(f"a direct call of {name}")
    return call


def _allowed() -> dict[tuple[str, str], Inert]:
    table = {
        ("torch._utils", "_rebuild_tensor"): _Call(Tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor_v2),
        ("torch._utils", "_rebuild_tensor_v3"): _Call(_tensor_v3),
        ("torch._utils", "_rebuild_parameter"): _Call(lambda tensor, *_: tensor),
        ("torch._utils", "_rebuild_parameter_with_state"): _Call(lambda tensor, *_: tensor),
        ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"):
        _Call(lambda tensor, *_: tensor), ("torch._utils", "_rebuild_device_tensor_from_numpy"):
        _Call(lambda array, *_: array),
        ("torch._tensor", "_rebuild_from_type_v2"): _Call(_typed),
        ("torch", "Size"): _Call(lambda sizes=(): tuple(sizes)),
        ("torch", "device"): _Call(lambda *parts: ":".join(str(p) for p in parts)),
        ("collections", "OrderedDict"): _Call(lambda items=(): _Dict(items)),
        ("collections", "Counter"): _Call(lambda items=(): _Dict(items)),
        ("collections", "defaultdict"): _Call(lambda _factory=None: _Dict()),
        ("builtins", "set"): _Call(lambda items=(): set(items)),
        ("builtins", "frozenset"): _Call(lambda items=(): frozenset(items)),
        ("builtins", "complex"): _Call(lambda real, imaginary: complex(real, imaginary)),
        ("builtins", "bytes"): _Call(_bytes),
        ("builtins", "bytearray"): _Call(lambda *parts: bytearray(_bytes(*parts))),
        ("_codecs", "encode"): _Call(_latin1),
        ("numpy", "dtype"): _Call(_numpy_dtype),
    }
    for core in ("numpy.core", "numpy._core"):
        table[(f"{core}.multiarray", "_reconstruct")] = _Call(lambda *_: Array())
        table[(f"{core}.multiarray", "scalar")] = _Call(_scalar)
        table[(f"{core}.numeric", "_frombuffer")] = _Call(_array)
    for name in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer",
                 "numpy.ndarray", "numpy.matrix", "numpy.memmap", "numpy.record", "numpy.recarray",
                 "numpy.rec.recarray", "builtins.dict", "builtins.list", "builtins.int",
                 "builtins.float", "builtins.str"):
        # kinds that others are told to make
        table[tuple(name.rsplit(".", 1))] = _Call(_refused_call(name))
    table |= {("torch", name): DType(dtype) for name, dtype in dtypes.TORCH.items()}
    table |= {("ml_dtypes", name): DType(dtype) for name, dtype in dtypes.ML_DTYPES.items()}
    for name, dtype in dtypes.STORAGES.items():
        table[("torch", name)] = table[("torch.storage", name)] = DType(dtype)
    return {(module.replace("builtins", b), name): entry for (module, name), entry in table.items()
            for b in ("builtins", "__builtin__")}


class Unpickler(pickle.Unpickler):
    """`load()` gives the pickle's value, with Tensor, Array and DType in it, and with `foreign`
    Foreign too. UserError: a global that is not allowed; with `foreign`, only one of those that
    make tensors."""

    def __init__(self, data: bytes | BinaryIO, path: str, foreign: bool = False):
        super().__init__(io.BytesIO(data) if isinstance(data, bytes) else data, encoding="utf-8")
        self._path, self._foreign = path, foreign
        self._table = _allowed()  # a fresh one a file: nothing a pickle does can outlive it

    def find_class(self, module, name):
        if (module, name) in self._table:
            return self._table[(module, name)]
        if module in ("torch", "torch._utils") and name in OTHER_TENSORS:
            kind, hint = OTHER_TENSORS[name]
            raise UserError(f"the checkpoint holds a {kind} tensor, which is not read",
                            where=self._path, expected="dense tensors", found=f"{module}.{name}",
                            hint=hint)
        if self._foreign and module not in TENSOR_MODULES:
            return type("Foreign", (Foreign,), {"__slots__": (), "name": f"{module}.{name}"})
        raise UserError(
            "the checkpoint holds an object that is not plain data; it was not executed",
                        where=self._path, expected="tensors, numpy arrays, numbers, text and "
                                                   "containers of them",
                        found=f"{module}.{name}", hint=WAY_OUT)

    def persistent_load(self, pid):
        kind, dtype, key, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"persistent id of kind {kind!r}")
        return Storage(dtype.dtype, key)
