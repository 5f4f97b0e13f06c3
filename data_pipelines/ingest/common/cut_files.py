"""A file that its owners cut into pieces (NAME_partaa, NAME_partab, ...), read as if they were
joined."""

import io
import os
import pathlib
import re

_PIECE = re.compile(r"(.+)_parta{2,3}")


def is_first(name: str) -> bool:
    """Whether a file of this name is the first of such pieces."""
    return bool(_PIECE.fullmatch(name))


def joined(first: pathlib.Path) -> io.BufferedReader:
    """All of them, opened for reading, by the first one's path."""
    stem = _PIECE.fullmatch(first.name)[1]
    letters = len(first.name) - len(stem) - len("_part")
    wanted = re.compile(rf"{re.escape(stem)}_part[a-z]{{{letters}}}")
    return io.BufferedReader(_Joined(sorted(p for p in first.parent.iterdir()
                                            if wanted.fullmatch(p.name))))


class _Joined(io.RawIOBase):
    """Files one behind the other, as one."""

    def __init__(self, paths: list[pathlib.Path]):
        self._files = [open(path, "rb", buffering=0) for path in paths]
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:
        for file, first, last in zip(self._files, self._starts, self._starts[1:], strict=False):
            if first <= self._at < last:
                file.seek(self._at - first)
                data = file.read(len(buffer))
                buffer[:len(data)] = data
                self._at += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
