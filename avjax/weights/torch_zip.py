"""PyTorch's checkpoints (`.pt`, `.pth`, `.ckpt`), read without PyTorch and without executing them.

Those of torch < 1.6 are read by torch_legacy.py. A later one is a zip of one pickle (`data.pkl`,
see avjax/weights/plain_pickle.py) and one raw file a storage (`data/<key>`).
"""

import errno
import io
import pickle
import zipfile
import zlib

import numpy as np

from avjax.errors import UserError
from avjax.weights import torch_legacy
from avjax.weights.plain_pickle import WAY_OUT, Unpickler
from avjax.weights.storages import Storages, finish


class _Storages(Storages):
    """The zip's raw storages (torch does not compress them), each checked against its CRC once, if
    it has one."""

    def __init__(self, archive: zipfile.ZipFile, content: np.ndarray, prefix: str, where: str):
        self._archive, self._content, self._prefix, self._where = archive, content, prefix, where
        self._raw: dict[str, np.ndarray] = {}
        name = f"{prefix}byteorder"
        big = name in archive.namelist() and archive.read(name).startswith(b"big")
        self.order = ">" if big else "<"

    def raw(self, key: str) -> np.ndarray:
        """Bytes of storage `key` as a uint8 array."""
        if key not in self._raw:
            info = self._archive.getinfo(f"{self._prefix}data/{key}")
            if info.compress_type == zipfile.ZIP_STORED and info.file_size:
                self._raw[key] = self._in_place(info)
            else:
                self._raw[key] = np.frombuffer(self._archive.read(info), np.uint8)
        return self._raw[key]

    def _in_place(self, info: zipfile.ZipInfo) -> np.ndarray:
        with self._archive.open(info):  # checks the entry's local header against the directory
            pass
        head = self._content[info.header_offset + 26:info.header_offset + 30]
        # the name and extra fields
        start = info.header_offset + 30 + sum(int(size) for size in head.view("<u2"))
        data = self._content[start:start + info.file_size]
        if info.CRC is not None:
            crc = 0
            for i in range(0, len(data), 1 << 24):
                crc = zlib.crc32(data[i:i + (1 << 24)], crc)
            if crc != info.CRC:
                raise UserError("the checkpoint is corrupt",
                                where=f"{self._where}, entry {info.filename}",
                                expected=f"CRC {info.CRC:08x}", found=f"{crc:08x}",
                                hint="fetch the file again")
        return data


def _check_start(head: bytes, path: str) -> None:
    if head[257:262] == b"ustar":
        raise UserError("this checkpoint uses PyTorch's format from before version 0.4", where=path,
                        expected="a zip file", found="a tar", hint="where PyTorch is installed: "
                        "torch.save(torch.load(FILE, weights_only=True), NEW_FILE)")
    if not head.startswith(b"PK"):
        raise UserError("not a PyTorch checkpoint", where=path,
                        expected="a zip file (torch >= 1.6)",
                        found=f"a file that starts with {head[:8]!r}" if head else "an empty file",
                        hint=WAY_OUT)


def _find_pickle(archive: zipfile.ZipFile, path: str) -> str:
    names = archive.namelist()
    pickles = [n for n in names if n.endswith("/data.pkl") or n == "data.pkl"]
    if len(pickles) != 1 or any(n.endswith("/constants.pkl") for n in names):
        script = any("/code/" in n for n in names)
        raise UserError("not a PyTorch state file", where=path, expected="a zip with one data.pkl",
                        found="a TorchScript program" if script else f"{len(names)} other entries",
                        hint=WAY_OUT)
    return pickles[0]


def _forget_absent_crcs(archive: zipfile.ZipFile) -> None:
    """torch.serialization.set_crc32_options(False) writes every CRC as 0; zipfile checks none that
    is None."""
    entries = [info for info in archive.infolist() if info.file_size]
    if all(info.CRC == 0 for info in entries):
        for info in entries:
            info.CRC = None


def read_torch_zip(path: str, data: bytes | None = None, foreign: bool = False):
    """The object given to `torch.save`, with numpy arrays for tensors (bfloat16 as
    ml_dtypes.bfloat16), and if `foreign`, a plain_pickle.Foreign for all that is not plain data.

    Large files are memory-mapped: an array costs memory only once it is used. With `data`, the
    file's content (a member of a tar, say), nothing is opened and `path` only names it in errors.
    UserError: not such a file, truncated or corrupt, or holding anything but plain data without
      `foreign` (nothing of it was executed).
    """
    with open(path, "rb") if data is None else io.BytesIO(data) as file:
        head = file.read(512)
    try:
        if torch_legacy.MAGIC in head[:64]:
            return torch_legacy.read(path, data, foreign)
        _check_start(head, path)
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            name = _find_pickle(archive, path)
            _forget_absent_crcs(archive)
            tree = Unpickler(archive.read(name), path, foreign).load()
            # one map a file: each holds a file descriptor, and a checkpoint may have thousands of
            # storages
            content = np.memmap(path, np.uint8,
                                "r") if data is None else np.frombuffer(data, np.uint8)
            return finish(tree, _Storages(archive, content, name.removesuffix("data.pkl"), path),
                           foreign)
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # EINVAL: the zip's directory leads to before the file's start
        raise UserError("the checkpoint is truncated or corrupt", where=path,
                        expected="a complete zip file", found=str(error),
                        hint="fetch the file again and compare its size") from error
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError,
            AttributeError, RecursionError, OverflowError, NotImplementedError,
            MemoryError) as error:
        raise UserError("the checkpoint's pickle is not understood; it was not executed",
                        where=path, expected="tensors, numpy arrays, numbers, text and containers "
                                             "of them",
                        found=f"{type(error).__name__}: {error}", hint=WAY_OUT) from error
