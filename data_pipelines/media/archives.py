"""Files of a folder, and members of the zip archives in it, as they lie: nothing is unpacked.

An archive that its owners cut into pieces (`vox2_dev_mp4_partaa`, `..._partab`, ...) is read as if
they were joined.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import os
import pathlib
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator

from avjax.errors import UserError
from avjax.storage import failures

_PIECE = re.compile(r"(.+)_part([a-z]{2,3})$")


@dataclasses.dataclass(frozen=True)
class Place:
    """A file below some folder, or a member of an archive there."""

    file: str  # of pieces: the name before _partaa
    member: str = ""

    def __str__(self) -> str:
        return f"{self.file}/{self.member}" if self.member else self.file

    @property
    def stem(self) -> str:
        return pathlib.PurePosixPath(self.member or self.file).stem

    def has(self, suffixes: Collection[str]) -> bool:
        """Whether its name ends in one of some suffixes, in small letters with their dots."""
        return pathlib.PurePosixPath(self.member or self.file).suffix.lower() in suffixes

    def bytes(self, root) -> int:
        """Its size; 0 of a link that leads nowhere, which is refused when it is read."""
        path = pathlib.Path(root, self.file)
        if not self.member:
            return path.stat().st_size if path.exists() else 0
        return _archive(os.fspath(path)).getinfo(self.member).file_size

    @contextlib.contextmanager
    def path(self, root) -> Iterator[pathlib.Path]:
        """The file; of a member a copy, which is gone afterwards."""
        if not self.member:
            yield pathlib.Path(root, self.file)
            return
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, pathlib.PurePosixPath(self.member).name)
            out.write_bytes(self.read(root))
            yield out

    def read(self, root) -> bytes:
        """Its content."""
        path = pathlib.Path(root, self.file)
        return _archive(os.fspath(path)).read(self.member) if self.member else path.read_bytes()


def folders(root, entered: Callable[[pathlib.Path, str], bool] = lambda above, name: True,
            hidden: bool = False) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """(folder, names of its files) of a folder and all below it, in order of names; each once,
    however many links lead there, which is said. Hidden files (".", as macOS puts "._NAME" beside
    every file) are left out.

    Args:
      entered: (folder, name of one in it) -> whether it is looked into.
      hidden: hidden folders are, too.

    Raises UserError: a folder that cannot be listed.
    """
    def fail(error):
        failures.check(error)
        raise UserError("a folder cannot be listed", where=str(error.filename),
                        found=error.strerror, hint="check its permissions") from error

    walked = set()
    for base, inside, names in os.walk(root, onerror=fail, followlinks=True):
        real, here = os.path.realpath(base), pathlib.Path(base)
        if real in walked:  # a link to a folder above, or a second way to one
            print(f"searched once only: {base}, which is {real}", file=sys.stderr, flush=True)
            inside.clear()
            continue
        walked.add(real)
        inside[:] = sorted(name for name in inside if (hidden or not name.startswith("."))
                           and entered(here, name))
        yield here, sorted(name for name in names if not name.startswith("."))


def walk(root, skip: Collection[str] = ()) -> Iterator[Place]:
    """Every file below a folder, in order of names; what archives hold behind the other files.

    skip: names of folders that are not entered.

    Raises UserError: a folder or an archive that cannot be read.
    """
    archives = set()
    for here, names in folders(root, lambda _, name: name not in skip):
        for name in names:
            place = (here / name).relative_to(root).as_posix()
            if piece := _PIECE.match(place):
                archives.add(piece[1])
            elif name.lower().endswith(".zip"):
                archives.add(place)
            else:
                yield Place(place)
    for archive in sorted(archives):
        for member in sorted(_archive(os.fspath(pathlib.Path(root, archive))).namelist()):
            if not (member.endswith("/") or pathlib.PurePosixPath(member).name.startswith(".")):
                yield Place(archive, member)


@functools.lru_cache(maxsize=16)
def _archive(path: str) -> zipfile.ZipFile:
    pieces = sorted(p for p in pathlib.Path(path).parent.glob(f"{pathlib.Path(path).name}_part*")
                    if _PIECE.match(p.name))
    if pieces:
        _check_pieces(path, [_PIECE.match(p.name)[2] for p in pieces])
    try:
        return zipfile.ZipFile(io.BufferedReader(_Joined(pieces)) if pieces else path)
    except (zipfile.BadZipFile, OSError) as error:
        failures.check(error, path)
        raise UserError("damaged archive", where=path, expected="a whole zip file" + (
            f", in {len(pieces)} pieces" if pieces else ""), found=str(error),
            hint="fetch it again and compare its size, or take it out of the folder") from error


def _check_pieces(path: str, letters: list[str]) -> None:
    """That none is missing between the first, "aa" or "aaa", and the last."""
    numbers = [functools.reduce(lambda n, c: 26 * n + ord(c) - ord("a"), name, 0)
               for name in letters]
    missing = sorted(set(range(max(numbers))) - set(numbers))
    if missing:
        raise UserError("pieces of an archive are missing", where=path,
                        expected=f"pieces up to _part{letters[-1]}, {max(numbers) + 1} of them",
                        found=f"{len(letters)} of them; first missing: number {missing[0] + 1}",
                        hint="fetch them, or take the others out of the folder")


class _Joined(io.RawIOBase):
    """Files one behind the other, as one."""

    def __init__(self, paths):
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
        if base + offset < 0:  # as a file does: zipfile asks for it of what is no zip
            raise OSError(errno.EINVAL, f"negative position {base + offset}")
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
