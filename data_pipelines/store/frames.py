"""Long sequences of large frames, kept beside the records so that a part of one can be read.

A record is read whole. Ten seconds of two speakers' latents are 16 MB, of which a training row
takes 1 MB; so a feature that is declared `apart` has its frames, as they are and one example after
the other, in a plain file beside its shard: SHARD.FEATURE. Lengths (lengths.npz) say where an
example's begin. TFDS does not see these features, only the others.
"""

import contextlib
import functools
import os
import pathlib
import resource
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.store.schema import Feature

LARGE = 2**14  # bytes of a frame from which a feature is better apart
_MOST_OPEN = 1024


def beside(shard: str, feature: str) -> str:
    """Name of the file with a feature's frames of a shard."""
    return f"{shard}.{feature}"


def frame_bytes(feature: Feature) -> int:
    return int(np.prod(feature.shape[1:], dtype=np.int64)) * np.dtype(feature.dtype).itemsize


class Frames:
    """Some frames of a file, read when they are indexed: an index, slice or array of the first
    axis, or a tuple that begins with one. `np.asarray` reads all. Threads may share it.

    Args:
      path: of the file.
      start: its first frame in the file.
      length: in frames.
      feature: shape and type of a frame.
      content: digest of the file; distinguishes it from a former one at the same path.
      explained: a context manager's function that turns failures into ones that name the file.
    """

    def __init__(self, path: pathlib.Path, start: int, length: int, feature: Feature,
                 content: str = "", explained: Callable = contextlib.nullcontext):
        self._path, self._start, self._length, self._content = path, start, length, content
        self._frame = frame_bytes(feature)
        self._explained = explained
        self.shape, self.dtype = (length, *feature.shape[1:]), np.dtype(feature.dtype)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        frames = np.arange(self._length)[first]
        if not np.ndim(frames):
            return self._read(int(frames), 1)[0][tuple(rest)]
        found = self._gather(frames)
        every = slice(None) if isinstance(first, slice) else np.arange(len(frames))
        return found[(every, *rest)] if rest else found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self._read(0, self._length), dtype)

    def _gather(self, frames: np.ndarray) -> np.ndarray:
        """Frames in any order: one read for each run of consecutive ones."""
        if len(frames) and (np.diff(frames) == 1).all():
            return self._read(int(frames[0]), len(frames))
        runs = np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1)
        parts = [self._read(int(run[0]), len(run)) for run in runs if len(run)]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def _read(self, first: int, count: int) -> np.ndarray:
        out = np.empty((count, *self.shape[1:]), self.dtype)
        with self._explained():
            try:
                self._fill(out, first)
            except Exception:
                # the file may be another now or its mount come back; and files may have run out
                _opened().cache_clear()
                self._fill(out, first)
        return out

    def _fill(self, out: np.ndarray, first: int) -> None:
        view = memoryview(out).cast("B") if out.size else b""
        at = (self._start + first) * self._frame
        file, done = _opened()(str(self._path), self._content), 0
        while done < len(view):
            got = os.preadv(file.number, [view[done:]], at + done)
            if not got:
                raise EOFError(f"{self._path.name} ends at {at + done} bytes")
            done += got


class _File:
    """An open file that closes when nobody refers to it any more."""

    def __init__(self, path: str, content: str):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self):
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.number)


@functools.cache
def _opened():
    """Files that are open, the latest used."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 8))
    return functools.lru_cache(maxsize=most)(_File)


class Writer:
    """The files beside one shard while it is written.

    Args:
      shard: path of the shard.
      features: the features that are apart, by name.
    """

    def __init__(self, shard: pathlib.Path, features: dict[str, Feature]):
        self._paths = {name: shard.with_name(beside(shard.name, name)) for name in features}
        self._files: dict = {}
        self.size = 0

    def add(self, example: dict) -> None:
        """The next example's frames."""
        for name, path in self._paths.items():
            self._write(name, path, np.ascontiguousarray(example[name]).data.cast("B")
                        if example[name].size else b"")

    def take(self, shard: pathlib.Path) -> None:
        """All frames of another shard that is closed."""
        for name, path in self._paths.items():
            self._write(name, path, b"")  # it may be empty
            with open(shard.with_name(beside(shard.name, name)), "rb") as source:
                while data := source.read(2**24):
                    self._write(name, path, data)

    def close(self) -> dict[str, int]:
        """{feature: bytes}, all on the disk."""
        sizes = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
            file.close()
        self._files = {}
        return sizes

    def drop(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)

    def _write(self, name: str, path: pathlib.Path, data) -> None:
        if name not in self._files:
            self._files[name] = open(path, "wb")
        self._files[name].write(data)
        self.size += len(data)


def starts(lengths: Sequence[int], shard_lengths: Sequence[int]) -> np.ndarray:
    """First frame of every example in its shard's file.

    Args:
      lengths: frames of every example of a split, in order.
      shard_lengths: examples of every shard.
    """
    ends = np.cumsum(np.asarray(lengths, np.int64))
    first = np.concatenate([[0], ends])[:-1]
    shard_first = np.concatenate([[0], np.cumsum(shard_lengths)])[:-1]
    return first - np.repeat(first[shard_first] if len(first) else first, shard_lengths)
