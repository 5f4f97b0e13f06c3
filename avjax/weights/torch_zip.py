"""PyTorch's zip checkpoints (`.pt`, `.pth`, `.ckpt` of torch >= 1.6), read without PyTorch and without executing them.

Such a file is a zip of one pickle (`data.pkl`) and one raw file a storage (`data/<key>`). A pickle may name any Python
callable; here every global it names is looked up in one short table, and what is not in the table is refused by name.
Nothing that a pickle does outlives it: the table is made anew for each file, its entries are slotted objects, and state
given to one (BUILD) is refused or, for a dtype, changes its byte order within that file.
"""

import io
import pickle
import zipfile
import zlib

import ml_dtypes
import numpy as np

from avjax.errors import UserError

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the first pickle of torch < 1.6: its magic number
WAY_OUT = "where PyTorch is installed, save only its tensors with safetensors.torch.save_file, and pass that file"

STORAGE_DTYPES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_, "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128, "UntypedStorage": np.uint8}
TORCH_DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2, "int64": np.int64,
    "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "uint16": np.uint16,
    "uint32": np.uint32, "uint64": np.uint64, "bool": np.bool_, "complex64": np.complex64,
    "complex128": np.complex128}


class _Inert:
    """Base of everything the pickle can hold on to: no attribute can be set, no state can be given."""

    __slots__ = ()

    def __setstate__(self, state):
        raise pickle.UnpicklingError(f"state given to {type(self).__name__}")


class _Call(_Inert):
    """An allowed global; calling it builds plain data."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("an allowed global cannot be changed")

    def __call__(self, *args):
        return self._function(*args)


class _DType(_Inert):
    """A `torch.float32`-like name, or numpy's `dtype("f4")` before its byte order is set."""

    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject or self.dtype.fields:
            raise pickle.UnpicklingError(f"numpy dtype {self.dtype} (only plain numbers are read)")

    def __setstate__(self, state):  # (version, byte order, ...), numpy's own order
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in ("<", ">") else self.dtype


class _Storage(_Inert):
    __slots__ = ("dtype", "key")

    def __init__(self, dtype, key):
        self.dtype, self.key = np.dtype(dtype), str(key)


class _Tensor(_Inert):
    """A strided window on a storage; the numbers are looked up once the whole pickle has been accepted."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage, offset, shape, strides, dtype=None):
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        self.storage, self.offset = storage, int(offset)
        self.shape, self.strides = tuple(int(n) for n in shape), tuple(int(n) for n in strides)
        self.dtype = dtype.dtype if dtype else storage.dtype


class _Array(_Inert):
    """A pickled numpy array: made empty, then given (version, shape, dtype, is Fortran, bytes)."""

    __slots__ = ("value",)

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(data, dtype.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Dict(dict):
    """OrderedDict; torch hangs `_metadata` on it, which is of no use here."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


def _latin1(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoding {encoding!r}")
    return text.encode("latin1")


def _tensor_v2(storage, offset, shape, strides, *_grad_hooks_metadata):
    return _Tensor(storage, offset, shape, strides)


def _tensor_v3(storage, offset, shape, strides, _requires_grad, _hooks, dtype, *_metadata):
    return _Tensor(storage, offset, shape, strides, dtype)


def _typed(function, _type, args, _state):  # Tensor subclasses: Parameter, Buffer
    if not isinstance(function, _Call):
        raise pickle.UnpicklingError("a tensor rebuilt by something that is no allowed global")
    return function(*args)


def _scalar(dtype, data):
    return np.frombuffer(data, dtype.dtype)[0]


def _refused_call(name):
    def call(*_):
        raise pickle.UnpicklingError(f"a direct call of {name}")
    return call


def _allowed() -> dict[tuple[str, str], _Inert]:
    table = {
        ("torch._utils", "_rebuild_tensor"): _Call(_Tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor_v2),
        ("torch._utils", "_rebuild_tensor_v3"): _Call(_tensor_v3),
        ("torch._utils", "_rebuild_parameter"): _Call(lambda tensor, *_: tensor),
        ("torch._utils", "_rebuild_parameter_with_state"): _Call(lambda tensor, *_: tensor),
        ("torch._tensor", "_rebuild_from_type_v2"): _Call(_typed),
        ("torch", "Size"): _Call(lambda sizes=(): tuple(sizes)),
        ("torch", "device"): _Call(lambda *parts: ":".join(str(p) for p in parts)),
        ("collections", "OrderedDict"): _Call(lambda items=(): _Dict(items)),
        ("builtins", "set"): _Call(lambda items=(): set(items)),
        ("builtins", "frozenset"): _Call(lambda items=(): frozenset(items)),
        ("builtins", "complex"): _Call(lambda real, imaginary: complex(real, imaginary)),
        ("_codecs", "encode"): _Call(_latin1),
        ("numpy", "dtype"): _Call(lambda name, *_: _DType(name)),
        ("numpy", "ndarray"): _Call(_refused_call("numpy.ndarray")),
    }
    for name in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        table[tuple(name.rsplit(".", 1))] = _Call(_refused_call(name))
    for core in ("numpy.core", "numpy._core"):
        table[(f"{core}.multiarray", "_reconstruct")] = _Call(lambda *_: _Array())
        table[(f"{core}.multiarray", "scalar")] = _Call(_scalar)
    table |= {("torch", name): _DType(dtype) for name, dtype in TORCH_DTYPES.items()}
    for name, dtype in STORAGE_DTYPES.items():
        table[("torch", name)] = table[("torch.storage", name)] = _DType(dtype)
    return {(module.replace("builtins", b), name): entry for (module, name), entry in table.items()
            for b in ("builtins", "__builtin__")}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: str):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._path = path
        self._table = _allowed()  # a fresh one a file: nothing a pickle does can outlive it

    def find_class(self, module, name):
        if (module, name) not in self._table:
            raise UserError("the checkpoint holds an object that is not plain data; it was not executed",
                            where=self._path, expected="tensors, numpy arrays, numbers, text and containers of them",
                            found=f"{module}.{name}", way_out=WAY_OUT)
        return self._table[(module, name)]

    def persistent_load(self, pid):
        kind, dtype, key, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"persistent id of kind {kind!r}")
        return _Storage(dtype.dtype, key)


class _Storages:
    """The zip's raw storages, memory-mapped (torch does not compress them), each checked against its CRC once."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, path: str, order: str, mapped: bool = True):
        self._archive, self._prefix, self._path, self._order, self._mapped = archive, prefix, path, order, mapped
        self._raw: dict[str, np.ndarray] = {}

    def raw(self, key: str) -> np.ndarray:
        """Bytes of storage `key` as a uint8 array."""
        if key not in self._raw:
            name = f"{self._prefix}data/{key}"
            info = self._archive.getinfo(name)
            if not self._mapped:
                self._raw[key] = np.frombuffer(self._archive.read(name), np.uint8)  # checks the CRC too
                return self._raw[key]
            with self._archive.open(info):  # checks the entry's local header against the directory
                pass
            with open(self._path, "rb") as file:
                file.seek(info.header_offset + 26)
                name_size, extra_size = np.frombuffer(file.read(4), "<u2")
            start = info.header_offset + 30 + int(name_size) + int(extra_size)
            if info.compress_type != zipfile.ZIP_STORED or not info.file_size:
                self._raw[key] = np.frombuffer(self._archive.read(name), np.uint8)
            else:
                data = np.memmap(self._path, np.uint8, "r", offset=start, shape=(info.file_size,))
                crc = 0
                for i in range(0, len(data), 1 << 24):
                    crc = zlib.crc32(data[i:i + (1 << 24)], crc)
                if crc != info.CRC:
                    raise UserError("the checkpoint is corrupt", where=f"{self._path}, entry {name}",
                                    expected=f"CRC {info.CRC:08x}", found=f"{crc:08x}", way_out="fetch the file again")
                self._raw[key] = data
        return self._raw[key]

    def tensor(self, t: _Tensor) -> np.ndarray:
        """A read-only array on the storage; numpy checks that shape and strides stay inside it."""
        size = t.dtype.itemsize
        dtype = t.dtype.newbyteorder(self._order) if size > 1 and t.dtype.isbuiltin == 1 else t.dtype
        if len(t.shape) != len(t.strides) or min((t.offset, *t.shape, *t.strides)) < 0:
            raise ValueError(f"tensor of shape {t.shape} with strides {t.strides} at {t.offset}")
        if 0 in t.shape:
            return np.zeros(t.shape, t.dtype)
        array = np.ndarray(t.shape, dtype, self.raw(t.storage.key), t.offset * size, [s * size for s in t.strides])
        array.flags.writeable = False
        return array.astype(t.dtype) if dtype != t.dtype else array


def _finish(value, storages: _Storages):
    """Placeholders -> arrays, through plain containers."""
    if isinstance(value, _Tensor):
        return storages.tensor(value)
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _DType):
        return str(value.dtype)
    if isinstance(value, dict):
        return {k: _finish(v, storages) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_finish(v, storages) for v in value)
    if isinstance(value, _Inert):
        raise pickle.UnpicklingError(f"a bare {type(value).__name__[1:].lower()}")
    return value


def read_torch_zip(path: str, data: bytes | None = None):
    """Whatever was given to `torch.save`, with numpy arrays for tensors (bfloat16 as ml_dtypes.bfloat16).

    Large files are memory-mapped: an array costs memory only once it is used. With `data`, the file's content (a member
    of a tar, say), nothing is opened and `path` only names it in errors. UserError: not such a file, truncated or
    corrupt, or holding anything but plain data (then nothing of it was executed).
    """
    with open(path, "rb") if data is None else io.BytesIO(data) as file:
        head = file.read(512)
    if head.startswith(LEGACY_MAGIC) or head[257:262] == b"ustar":
        raise UserError("this checkpoint uses PyTorch's format from before version 1.6", where=path,
                        expected="a zip file", found="a bare pickle or tar",
                        way_out="where PyTorch is installed: torch.save(torch.load(FILE, weights_only=True), NEW_FILE)")
    if not head.startswith(b"PK"):
        raise UserError("not a PyTorch checkpoint", where=path, expected="a zip file (torch >= 1.6)",
                        found=f"a file that starts with {head[:8]!r}" if head else "an empty file", way_out=WAY_OUT)
    try:
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            names = archive.namelist()
            pickles = [n for n in names if n.endswith("/data.pkl") or n == "data.pkl"]
            if len(pickles) != 1 or any(n.endswith("/constants.pkl") for n in names):
                script = any("/code/" in n for n in names)
                raise UserError("not a PyTorch state file", where=path, expected="a zip with one data.pkl",
                                found="a TorchScript program" if script else f"{len(names)} other entries",
                                way_out=WAY_OUT)
            prefix = pickles[0].removesuffix("data.pkl")
            order = archive.read(prefix + "byteorder") if prefix + "byteorder" in names else b"little"
            tree = _Unpickler(archive.read(pickles[0]), path).load()
            order = ">" if order.startswith(b"big") else "<"
            return _finish(tree, _Storages(archive, prefix, path, order, mapped=data is None))
    except zipfile.BadZipFile as error:
        raise UserError("the checkpoint is truncated or corrupt", where=path, expected="a whole zip file",
                        found=str(error), way_out="fetch the file again and compare its size") from error
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError,
            RecursionError, OverflowError, NotImplementedError, MemoryError) as error:
        raise UserError("the checkpoint's pickle is not understood; it was not executed", where=path,
                        expected="tensors, numpy arrays, numbers, text and containers of them",
                        found=f"{type(error).__name__}: {error}", way_out=WAY_OUT) from error
