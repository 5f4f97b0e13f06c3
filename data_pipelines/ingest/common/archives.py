"""The files of a folder, with those inside its zips and tars: read in place, nothing is unpacked.

A member's name is relative to the folder that the archive is in, as if it had been unpacked there.
A file on disk wins over a member. What must not be unpacked (absolute names, "..", links, devices)
is never listed, so it cannot be read either.
"""

import contextlib
import functools
import io
import os
import pathlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.media.tar_tree import clean
from data_pipelines.store.dataset import Unusable


class Place(NamedTuple):
    """Where a file's bytes are: in `path` from `offset` on, or in the zip `path` as `member`."""

    path: pathlib.Path
    size: int
    offset: int = 0
    member: str = ""


class Files:
    """The files below a folder by name ("PXB184/scene01_audio.wav").

    Args:
      root: the folder.
      suffixes: of the files that are listed.
      skip: names of folders that are not entered.

    Raises:
      UserError: an archive that is cut short or no archive, a folder that cannot be listed.
    """

    def __init__(self, root, suffixes: tuple[str, ...], skip: Collection[str] = ()):
        self.root = pathlib.Path(root)
        on_disk, self._places = {}, {}
        for base, folders, names in os.walk(self.root, onerror=_cannot_list, followlinks=True):
            folders[:] = sorted(f for f in folders if f not in skip and not f.startswith("."))
            here = pathlib.Path(base).relative_to(self.root)
            for name in sorted(names):
                path = pathlib.Path(base, name)
                if name.lower().endswith(suffixes) and path.is_file():
                    on_disk[(here / name).as_posix()] = Place(path, path.stat().st_size)
                elif name.lower().endswith((".zip", ".tar")):
                    self._places |= {(here / member).as_posix(): place
                                     for member, place in _members(path)
                                     if member.lower().endswith(suffixes)}
        self._places |= on_disk

    def __iter__(self) -> Iterator[str]:
        """Names, sorted."""
        return iter(sorted(self._places))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        place = self._places.get(name)
        return place.size if place else None

    def where(self, name: str) -> str:
        """For messages."""
        place = self._places.get(name)
        inside = place and place.path != self.root / name
        return f"{place.path}: {name}" if inside else str(self.root / name)

    def content(self, name: str) -> np.ndarray:
        """The bytes of a file, (N,) uint8, mapped where they lie on disk as they are.

        Raises Unusable: no such file, a damaged member.
        """
        place = self._place(name)
        if not place.size:
            return np.zeros(0, np.uint8)
        if not place.member:
            return np.memmap(place.path, np.uint8, "r", place.offset, (place.size,))
        try:
            return np.frombuffer(_unzipped(place.path, place.member), np.uint8)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError,
                NotImplementedError) as error:  # RuntimeError: it wants a password
            raise Unusable("damaged in its archive", where=self.where(name), found=str(error),
                           hint="fetch the archive again") from error

    def open(self, name: str) -> BinaryIO:
        """The file for reading. Raises as `content`."""
        place = self._place(name)
        if place.offset or place.member:
            return io.BytesIO(self.content(name).tobytes())
        return open(place.path, "rb")

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[pathlib.Path]:
        """A path at which the file can be opened: its own, or of a temporary copy of a member.
        Raises as `content`."""
        place = self._place(name)
        if not place.offset and not place.member:
            yield place.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, name.rpartition("/")[2])
            with failures.working_on(path):
                self.content(name).tofile(path)
            yield path

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise Unusable("a file is missing", where=self.where(name), expected="a file",
                           found="none")
        return self._places[name]


@functools.lru_cache(maxsize=16)
def _zip(path: pathlib.Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@functools.lru_cache(maxsize=4)  # the arrays of a block of clips
def _unzipped(path: pathlib.Path, member: str) -> bytes:
    return _zip(path).read(member)


def _members(path: pathlib.Path) -> Iterator[tuple[str, Place]]:
    """(name, place) of the plain files in an archive."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir() and (name := clean(info.filename)):
                        yield name, Place(path, info.file_size, member=info.filename)
            return
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = clean(member.name)
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"ends inside {member.name}")
                if name and member.isreg() and not member.issparse():
                    yield name, Place(path, member.size, member.offset_data)
            archive.fileobj.seek(archive.offset)
            # tarfile takes a damaged header for the end
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"not a member's header at byte {archive.offset}")
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        failures.check(error, path)
        raise UserError("damaged archive", where=str(path), expected="a whole .zip or .tar",
                        found=str(error), hint="fetch it again and compare its size, or take it "
                                               "out of the folder") from error


def _cannot_list(error: OSError) -> None:
    failures.check(error)
    raise UserError("a folder cannot be listed", where=str(error.filename), found=error.strerror,
                    hint="check its permissions") from error
