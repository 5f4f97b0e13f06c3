"""Files inside uncompressed tars, read where they are: nothing is unpacked.

A `Member` is a file in a tar or on its own, so that readers need not know which of the two they
have. A `TarTree` is a folder whose files may still be inside `shards/*.tar`, by name.

A file on disk wins over a member of the same name; of members of the same name the last one wins,
as when the shards are extracted in order. What must not be extracted (absolute names, "..", links,
devices) is never indexed, so it cannot be read either. The index takes 22 bytes a member: a name is
kept as a 64-bit hash.
"""

import dataclasses
import functools
import hashlib
import io
import pathlib
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from avjax.errors import StorageError, UserError
from avjax.storage import failures

SUFFIXES = (".wav", ".flac", ".pt", ".json", ".txt", ".csv", ".npy")  # pictures are never asked for
_ENTRY = np.dtype([("name", "<u8"), ("shard", "<u2"), ("offset", "<u8"), ("size", "<u4")])


def clean(name: str) -> str | None:
    """A relative path in one spelling ("./a//b" is "a/b"); None for what leads out of the
    folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unsafe = name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or not parts
    return None if unsafe or ":" in parts[0] else "/".join(parts)


def plain(path: pathlib.Path, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, int, int]]:
    """Yields (clean name, where its content begins, bytes) of the plain files in a tar.

    Links, devices, sparse files and names that lead out of the folder are told to `refuse` (name,
    why) instead.

    Raises:
      tarfile.TarError, OSError, EOFError: no tar, or one that is cut short, after the members that
        are whole.
    """
    size = path.stat().st_size
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            tar.members = []  # tarfile remembers everything it has seen
            if member.isdir():
                continue
            name = clean(member.name)
            if name is None or not member.isreg() or member.issparse():
                refuse(member.name, "a link, device or sparse file" if name else
                       "a path that leads out of the folder")
            elif not 0 <= member.size <= size - member.offset_data:
                raise tarfile.ReadError(f"ends inside {member.name}")
            else:
                yield name, member.offset_data, member.size
        tar.fileobj.seek(tar.offset)
        # tarfile takes it for the end of the archive
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"not a member's header at byte {tar.offset}")


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a tar, or on its own (`offset` None).

    Attributes:
      path: of the tar, or of the file.
      offset, size: bytes.
      name: within the tar.
    """

    path: pathlib.Path
    offset: int | None
    size: int
    name: str = ""

    def __str__(self) -> str:
        return str(self.path) if self.offset is None else f"{self.path}: {self.name}"

    @property
    def url(self) -> str:
        """For FFmpeg."""
        if self.offset is None:
            return str(self.path)
        return f"subfile,,start,{self.offset},end,{self.offset + self.size},,:{self.path}"

    def open(self) -> io.BufferedReader:
        """The file, for reading bytes at any place."""
        if self.offset is None:
            return open(self.path, "rb")
        return io.BufferedReader(_Region(self.path, self.offset, self.size))

    def read(self) -> bytes:
        """The whole content."""
        with self.open() as file:
            return file.read()


def opened(path) -> io.BufferedReader:
    """A path or a Member, opened for reading bytes."""
    return path.open() if isinstance(path, Member) else open(path, "rb")


class _Region(io.RawIOBase):
    """Part of a file as a file."""

    def __init__(self, path: pathlib.Path, offset: int, size: int):
        self._file, self._offset, self._size, self._at = open(path, "rb"), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(0, self._size - self._at))
        self._file.seek(self._offset + self._at)
        got = self._file.readinto(memoryview(buffer)[:wanted])
        self._at += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()


class TarTree:
    """`TarTree(root)` indexes root/shards/*.tar once; `read` then gives any file's bytes. Threads
    may share it.

    `refused` lists the members that are not plain files inside the folder, as (shard, member, why).
    `index` of a former one saves reading the shards. Raises UserError: a shard that is damaged or
    no tar.
    """

    def __init__(self, root, *, progress: bool = True, index: dict[str, np.ndarray] | None = None):
        self.root = pathlib.Path(root)
        self._shards = sorted((self.root / "shards").glob("*.tar"))
        self.refused: list[tuple[str, str, str]] = []
        self._seen = now = self._states()
        if index is not None:
            before = index["shards"].tolist()
            names_before, names_now = ({shard.rpartition(",")[0] for shard in shards}
                                       for shards in (before, now))
            if differ := sorted(names_before ^ names_now):
                raise UserError("other shards than were indexed", where=str(self.root / "shards"),
                                found=", ".join(differ[:4]), hint="bring them back, or begin anew")
            if before == now:
                self._entries = index["entries"]
                self.refused = [tuple(r) for r in index["refused"].tolist()]
                return
            progress = False  # of the same size, but written since: copied, or others
        entries = []
        bar = tqdm(self._shards, desc="indexing shards", unit="tar", disable=None if progress
                   else True, leave=False)
        for number, shard in enumerate(bar):
            entries.append(self._index(number, shard))
        index = np.concatenate([np.zeros(0, _ENTRY), *entries])
        self._entries = index[np.argsort(index["name"], kind="stable")]

    def index(self) -> dict[str, np.ndarray]:
        """What was found, to be given to another TarTree of the same folder."""
        return {"entries": self._entries, "shards": np.array(self._seen, str),
                "refused": np.array(self.refused, str).reshape(-1, 3)}

    def _states(self) -> list[str]:
        """Name and size of each, and when it was written."""
        stats = [(p.name, p.stat()) for p in self._shards]
        return [f"{name} of {stat.st_size} bytes,{stat.st_mtime_ns}" for name, stat in stats]

    def _refuse(self, shard: str, member: str, why: str) -> None:
        self.refused.append((shard, member, why))

    def _index(self, number: int, shard: pathlib.Path) -> np.ndarray:
        found = []
        try:
            for name, offset, size in plain(shard, functools.partial(self._refuse, shard.name)):
                if name.lower().endswith(SUFFIXES) and size < 2**32:
                    found.append((_hash(name), number, offset, size))
        except (tarfile.TarError, OSError, EOFError) as error:
            failures.check(error, shard)
            raise UserError("damaged shard", where=str(shard), expected="a whole, uncompressed tar",
                            found=str(error), hint="fetch it again and compare its size, or take "
                                                   "it out of the folder") from error
        return np.array(found, _ENTRY)

    def __len__(self) -> int:
        """Members that can be read."""
        return len(self._entries)

    def read(self, name: str) -> bytes | None:
        """The file's content; None where there is none, on disk or in a shard. `name` must be
        `clean`."""
        path = self.root / name
        if path.is_file():
            return path.read_bytes()
        key = np.uint64(_hash(name))
        place = int(np.searchsorted(self._entries["name"], key, side="right")) - 1
        if place < 0 or self._entries["name"][place] != key:
            return None
        entry = self._entries[place]
        shard = self._shards[entry["shard"]]
        try:
            with open(shard, "rb") as file:
                file.seek(int(entry["offset"]))
                data = file.read(int(entry["size"]))
        except FileNotFoundError as error:
            raise StorageError("a shard has gone", where=str(shard),
                               hint="bring it back and start again") from error
        if len(data) < entry["size"]:  # which is not the fault of the file that is asked for
            raise StorageError("a shard has become shorter", where=str(shard),
                               found=f"the end of {name} is missing",
                               hint="fetch the shard again and start again")
        return data


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"),
                                          digest_size=8).digest(), "little")
