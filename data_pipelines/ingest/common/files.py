"""The files of a folder by name, those inside its zips and tars included: nothing is unpacked.

A member's name is relative to the folder that its archive is in, as if it had been unpacked there.
A file on disk wins over a member. What must not be unpacked (absolute names, "..", links, devices)
is never listed, so it cannot be read either.
"""

import contextlib
import functools
import io
import pathlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO

import numpy as np

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.media import archives, tar_tree
from data_pipelines.media.archives import Place
from data_pipelines.media.tar_tree import Member
from data_pipelines.store.dataset import Unusable


class Files:
    """The files below a folder by name ("PXB184/scene01_audio.wav").

    Args:
      root: the folder.
      suffixes: of the files that are listed, in small letters.
      skip: names of folders that are not entered.

    Raises:
      UserError: an archive that is cut short or no archive, a folder that cannot be listed.
    """

    def __init__(self, root, suffixes: tuple[str, ...], skip: Collection[str] = ()):
        self.root = pathlib.Path(root)
        self._places: dict[str, Place | Member] = {}
        on_disk = {}
        for place in archives.walk(self.root, skip):
            here = pathlib.PurePosixPath(place.file).parent
            if place.member:
                found = [(tar_tree.clean(place.member), place)]
            elif place.file.lower().endswith(".tar"):
                found = _in_tar(self.root / place.file)
            else:
                found = []
                on_disk[place.file] = place
            self._places |= {(here / name).as_posix(): one for name, one in found if name}
        self._places = {name: place for name, place in (self._places | on_disk).items()
                        if name.lower().endswith(suffixes)}

    def __iter__(self) -> Iterator[str]:
        """Names, sorted."""
        return iter(sorted(self._places))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        place = self._places.get(name)
        return place.bytes(self.root) if isinstance(place, Place) else place and place.size

    def where(self, name: str) -> str:
        """For messages."""
        place = self._places.get(name, Place(name))
        return str(place) if isinstance(place, Member) else str(self.root / str(place))

    def content(self, name: str) -> np.ndarray:
        """The bytes of a file, (N,) uint8, mapped where they lie on disk as they are.

        Raises Unusable: no such file, a damaged member.
        """
        place = self._place(name)
        if isinstance(place, Place) and place.member:
            try:
                return np.frombuffer(_unzipped(self.root, place), np.uint8)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError,
                    NotImplementedError) as error:  # RuntimeError: it wants a password
                raise Unusable("damaged in its archive", where=self.where(name), found=str(error),
                               hint="fetch the archive again") from error
        if not self.size(name):
            return np.zeros(0, np.uint8)
        if isinstance(place, Member):
            return np.memmap(place.path, np.uint8, "r", place.offset, (place.size,))
        return np.memmap(self.root / place.file, np.uint8, "r")

    def open(self, name: str) -> BinaryIO:
        """The file for reading. Raises as `content`."""
        place = self._place(name)
        if isinstance(place, Member):
            return place.open()
        if place.member:
            return io.BytesIO(self.content(name))
        return open(self.root / place.file, "rb")

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[pathlib.Path]:
        """A path at which the file can be opened: its own, or of a copy of a member, which is gone
        afterwards. Raises as `content`."""
        place = self._place(name)
        if isinstance(place, Place) and not place.member:
            yield self.root / place.file
            return
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, name.rpartition("/")[2])
            with failures.working_on(path):
                self.content(name).tofile(path)
            yield path

    def _place(self, name: str) -> Place | Member:
        if name not in self._places:
            raise Unusable("a file is missing", where=self.where(name), expected="a file",
                           found="none")
        return self._places[name]


@functools.lru_cache(maxsize=4)  # the arrays of a block of clips
def _unzipped(root: pathlib.Path, place: Place) -> bytes:
    return place.read(root)


def _in_tar(path: pathlib.Path) -> list[tuple[str, Member]]:
    try:
        return [(name, Member(path, offset, size, name))
                for name, offset, size in tar_tree.plain(path, lambda name, why: None)]
    except (tarfile.TarError, OSError, EOFError) as error:
        failures.check(error, path)
        raise UserError("damaged archive", where=str(path), expected="a whole, uncompressed tar",
                        found=str(error), hint="fetch it again and compare its size, or take it "
                                               "out of the folder") from error
