"""Face embeddings that a recogniser of the user's has made (insightface's 512 numbers), as `avjax
prepare` takes them for the clips' column `face_embedding`:

    --face_embeddings=512        files of so many numbers: NAME.face.npy beside a recording, or
                                 SPEAKER.face.npy (of a named corpus CLIP.face.npy as well) directly
                                 in the source
    --face_embeddings=FILE.npz   `names` (N,) text and `embeddings` (N, F)
    --face_embeddings=FILE.csv   a line each: a name, then F numbers; perhaps a header

A name is a clip's or a recording's, a file's place below the source (with or without the ending of
a medium), or a speaker's; of clips of several speakers CLIP/SPEAKER. What names a recording comes
before what names its speaker. Slashes and dots in names are the same as underscores.
Suffixes: N names, F embedding.
"""

import csv
import dataclasses
import hashlib
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np

from avjax.encoders import portrait
from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.declared import Option
from data_pipelines.ingest.common import recordings
from data_pipelines.media import text_file

FaceEmbeddings = Annotated[str | None, Option(
    "a recogniser's face embeddings: of how many numbers (insightface: 512) are NAME.face.npy "
    "beside a recording or SPEAKER.face.npy in the source; or one table of names and numbers, "
    "FILE.npz or FILE.csv")]
SUFFIX = ".face.npy"
_HEADERS = {"", "name", "id", "file", "path", "clip", "speaker"}
_MEDIUM = re.compile("|".join(map(re.escape, media.VIDEO_SUFFIXES + media.AUDIO_SUFFIXES)) + "$",
                     re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Row:
    """One embedding of a table: float32, as bytes, so that it can be compared."""

    data: bytes

    def numbers(self) -> np.ndarray:
        """(F,) float32."""
        return np.frombuffer(self.data, np.float32)


@dataclasses.dataclass(frozen=True)
class Beside:
    """Files of `width` numbers; `key` is what tells them from other options."""

    width: int

    @property
    def key(self) -> int:
        return self.width

    def find(self, root: pathlib.Path, speaker: str, names: Iterable[str],
             *files: pathlib.Path | None) -> pathlib.Path | None:
        """The file of a recording of these files, see recordings.face_file."""
        return recordings.face_file(root, speaker, *files)


@dataclasses.dataclass(frozen=True)
class Table:
    """One embedding a name, names as `_plain` has them; see the module."""

    where: str
    rows: dict[str, np.ndarray]

    @property
    def width(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def key(self) -> list:
        """[width, digest of all that it holds]."""
        digest = hashlib.sha256()
        for name in sorted(self.rows):
            digest.update(name.encode() + b"\0" + self.rows[name].tobytes())
        return [self.width, digest.hexdigest()[:16]]

    def of(self, names: Iterable[str]) -> np.ndarray | None:
        """(F,) of the first of the names that has one; None for none."""
        return next((self.rows[plain] for name in names if (plain := _plain(name)) in self.rows),
                    None)

    def find(self, root: pathlib.Path, speaker: str, names: Iterable[str],
             *files: pathlib.Path | None) -> Row | None:
        """That of a recording of these names and files of a speaker."""
        places = [path.relative_to(root).as_posix() for path in files if path]
        found = self.of([*names, *places, speaker])
        return None if found is None else Row(found.tobytes())


def asked(option: int | str | None) -> Beside | Table | None:
    """What --face_embeddings says; None for nothing. UserError: neither a number nor a table."""
    if not option or str(option) == "0":
        return None
    return Beside(int(option)) if str(option).isdecimal() else read_table(option)


def width_of(key: int | Sequence | None) -> int:
    """Numbers of an embedding, of the `key` that a dataset keeps; 0 for none."""
    return key[0] if isinstance(key, list | tuple) else key or 0


def of_corpus(option: int | str | None, source: pathlib.Path) -> Table | None:
    """The same for a named corpus, whose files are not paired: a number means the files directly in
    its folder. UserError: there are none, or one is no embedding of that width."""
    found = asked(option)
    if not isinstance(found, Beside):
        return found
    files = sorted(pathlib.Path(source).glob(f"*{SUFFIX}"))
    if not files:
        raise UserError("no face embeddings", where=f"{source}, --face_embeddings={option}",
                        expected=f"SPEAKER{SUFFIX} or CLIP{SUFFIX} in it", found="none",
                        hint="put them there, or give a table: --face_embeddings=FILE.npz")
    return _table(str(source), [path.name.removesuffix(SUFFIX) for path in files],
                  np.stack([portrait.read(path, found.width) for path in files]))


def read_table(path: str) -> Table:
    """UserError: no such file, of another form, a name twice, or an embedding that is not F finite
    numbers, not all zero."""
    ending = pathlib.Path(path).suffix.lower()
    if ending not in (".npz", ".csv") or not pathlib.Path(path).is_file():
        raise UserError("no table of face embeddings", where=f"--face_embeddings={path}",
                        expected="a number of numbers, FILE.npz or FILE.csv",
                        found="another ending" if ending not in (".npz", ".csv") else "no file",
                        hint="512 takes .face.npy files")
    return _table(str(path), *(_of_npz if ending == ".npz" else _of_csv)(path))


def _of_npz(path) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names, x_NF = file["names"], file["embeddings"]
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise UserError("not a table of face embeddings", where=str(path),
                        expected="names (N,) text and embeddings (N, F)", found=str(error),
                        hint="numpy.savez(FILE, names=..., embeddings=...)") from error
    if names.dtype.kind != "U" or x_NF.dtype.kind != "f" or x_NF.ndim != 2 \
            or names.shape != x_NF.shape[:1]:
        raise UserError("not a table of face embeddings", where=str(path),
                        expected="names (N,) text and embeddings (N, F) float",
                        found=f"{names.dtype} {names.shape} and {x_NF.dtype} {x_NF.shape}",
                        hint="numpy.savez(FILE, names=..., embeddings=...)")
    return names.tolist(), x_NF


def _of_csv(path) -> tuple[list[str], np.ndarray]:
    reader = csv.reader(io.StringIO(text_file.read(path, what="table"), newline=""))
    names, rows = [], []
    for name, *cells in filter(None, reader):
        try:
            numbers = np.array(cells, np.float32)
        except ValueError:
            numbers = np.zeros(0)
        if reader.line_num == 1 and (not len(numbers) or name.strip().lower() in _HEADERS):
            continue
        if not len(numbers) or (rows and len(numbers) != len(rows[0])):
            raise UserError("not a face embedding", where=f"{path}, line {reader.line_num}",
                            expected=f"a name and {len(rows[0]) if rows else 'its'} numbers",
                            found=f"{name[:40]} and {len(cells)} cells")
        names.append(name.strip())
        rows.append(numbers)
    return names, np.stack(rows) if rows else np.zeros((0, 0))


def _table(where: str, names: Sequence[str], x_NF: np.ndarray) -> Table:
    if not x_NF.size:
        raise UserError("a table without face embeddings", where=where, expected="a name and its "
                        "numbers, or more", found=f"{len(names)} names")
    rows: dict[str, np.ndarray] = {}
    for name, x_F in zip(names, np.asarray(x_NF, np.float32), strict=True):
        if not np.isfinite(x_F).all() or not x_F.any():
            raise UserError("not a face embedding", where=f"{where}, {name}",
                            expected=f"{len(x_F)} finite numbers, not all zero",
                            found="zeros" if not x_F.any() else "NaN or infinity",
                            hint="leave the name out, or make it again")
        if _plain(name) in rows:
            raise UserError("two face embeddings of one name", where=where, expected="each name "
                            "once (slashes and dots are as underscores)", found=name,
                            hint="keep one of them")
        rows[_plain(name)] = x_F
    return Table(where, rows)


def _plain(name: str) -> str:
    """Without the ending of a medium, slashes and dots as underscores."""
    return re.sub(r"[/\\.]", "_", _MEDIUM.sub("", name))


def read(found: pathlib.Path | Row | None, width: int, of: pathlib.Path) -> np.ndarray:
    """(F,) float32, of a file by avjax.encoders.portrait.read. Raises media.MediaError: there is
    none of the file `of`, or it is no embedding of this width."""
    if isinstance(found, Row):
        return found.numbers()
    if found is None:
        raise media.MediaError("no face embedding", of, expected=f"{of.stem}{SUFFIX} beside it, "
                               "that of its speaker in the source, or a name in the table",
                               found="none")
    try:
        return portrait.read(found, width)
    except UserError as error:
        raise media.MediaError("unusable face embedding", found, found=str(error)) from error
