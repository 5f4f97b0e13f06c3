"""Which file of a folder belongs to which example, by its name or by a list: films and sounds, or
arrays (.npy)."""

import csv
import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.ingest.common import recordings
from data_pipelines.media import text_file

COLUMNS = ("id", "file")  # of a list
ARRAY = ".npy"


@dataclasses.dataclass(frozen=True)
class Array:
    """A file of numbers; the same members as recordings.Source has."""

    id: str
    path: pathlib.Path
    root: pathlib.Path

    @property
    def files(self) -> list[pathlib.Path]:
        return [self.path]

    def place(self, path: pathlib.Path) -> str:
        """Where it is, below the folder that was searched."""
        return recordings.printable(path.relative_to(self.root).as_posix())


@dataclasses.dataclass(frozen=True)
class Matched:
    """What a folder has of some examples.

    Attributes:
      found: {id: its files}: a film, a sound, or both of one name; or an array.
      lacking: {id: why it has none}.
      unused: files of no example, from the folder on.
    """

    found: dict[str, recordings.Source | Array]
    lacking: dict[str, str]
    unused: list[str]


def arrays_of(folder) -> list[Array]:
    """The .npy files of a folder, sorted; none where there is no folder."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return [Array(_dotted(path.relative_to(folder).with_suffix("").as_posix()), path, folder)
            for path in recordings.media_of(folder, lambda path: path.suffix == ARRAY or None)]


def match(folder, ids: Collection[str], listed: dict[str, str] | None = None, *,
          arrays: bool = False) -> Matched:
    """Matches the media, or the arrays, of a folder to examples.

    An example ID is ID.mp4, ID.wav or any other film or sound, or a film and a sound (which wins),
    or ID.npy; what ID has of "/" may be folders or dots. With a list only that counts.

    Raises UserError: no such folder, no such files in it, or nothing that belongs to any example.
    """
    folder, some = pathlib.Path(folder), f"{next(iter(ids), 'ID')}{ARRAY if arrays else '.mp4'}"
    if not folder.is_dir():
        raise UserError("no folder of generated files here", where=f"--generated={folder}",
                        expected=f"a folder with files such as {some}", hint="check the path",
                        found="a file" if folder.exists() else "nothing")
    if not arrays and not recordings.media_of(folder):
        raise UserError("no media here", where=f"--generated={folder}", found="none",
                        expected=f"files called after the examples, such as {some}")
    sources = arrays_of(folder) if arrays else recordings.find(folder)
    if listed is None:
        out = _by_name(folder, sources, ids)
    else:
        out = _by_list(folder, sources, ids, listed, _array if arrays else _recording)
    if not out.found:
        unused = ", ".join(out.unused[:3])
        raise UserError("no file belongs to any example", where=f"--generated={folder}",
                        expected=f"{len(ids)} examples, such as {some}",
                        found=f"{unused}, ..." if len(out.unused) > 3 else unused or "nothing",
                        hint="call the files after the examples, or give --generated_ids=CSV with "
                        "the columns id and file")
    return out


def read_list(path, known: Iterable[str]) -> dict[str, str]:
    """{id: file} of a CSV with the columns id and file. UserError: unreadable, other columns, an id
    twice, or one of no example of the dataset."""
    rows = list(csv.DictReader(text_file.read(path, what="list of files").splitlines()))
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise UserError("not a list of files", where=f"--generated_ids={path}",
                        expected="a CSV with the columns " + " and ".join(COLUMNS),
                        found=", ".join(map(str, rows[0])) if rows else "no rows")
    out: dict[str, str] = {}
    known = set(known)
    for number, row in enumerate(rows, 2):
        name, file = (row[column] for column in COLUMNS)
        where = f"{path}:{number}"
        if not name or not file:
            raise UserError("a row without id or file", where=where, expected="both")
        if name in out:
            raise UserError("an id twice", where=where, expected="every id once", found=name)
        if name not in known:
            raise UserError("an id of no example", where=where, found=name,
                            expected="ids of the data, such as "
                            + ", ".join(sorted(known)[:2]))
        out[name] = file
    return out


def _by_name(folder: pathlib.Path, sources, ids: Collection[str]) -> Matched:
    of_name = defaultdict(list)
    for source in sources:
        for name in _names(source):
            of_name[name].append(source)
    found, lacking = {}, {}
    for id in ids:
        mine = of_name.get(_dotted(id), [])
        if len(mine) == 1:
            found[id] = mine[0]
        else:
            lacking[id] = ("duplicated: " + ", ".join(s.place(s.files[0]) for s in mine)
                           if mine else f"missing: no {_dotted(id)} in {folder}")
    known = {_dotted(id) for id in ids}
    return Matched(found, lacking, _unused(s for s in sources if not _names(s) & known))


def _unused(sources) -> list[str]:
    return [source.place(path) for source in sources for path in source.files]


def _names(source: recordings.Source) -> set[str]:
    """What its example may be called."""
    file = source.files[0]
    return {source.id, _dotted(source.place(file)[:-len(file.suffix)])}


def _dotted(id: str) -> str:
    return recordings.printable(id).replace("/", ".")


def _by_list(folder: pathlib.Path, sources, ids: Collection[str], listed: dict[str, str],
             make: Callable) -> Matched:
    found, lacking, used = {}, {}, set()
    for id in ids:
        file = folder / listed[id] if id in listed else None
        if file is None:
            lacking[id] = "missing: not in the list"
        elif not file.is_file():
            lacking[id] = f"missing: no file {listed[id]} in {folder}"
        elif file in used:
            lacking[id] = f"duplicated: {listed[id]} is listed for another example too"
        else:
            found[id] = make(id, file, folder)
            used.add(file)
    return Matched(found, lacking, _unused(s for s in sources if not used & {*s.files}))


def _recording(id: str, file: pathlib.Path, folder: pathlib.Path) -> recordings.Source:
    film = file.suffix.lower() in media.VIDEO_SUFFIXES
    return recordings.Source(id, "", file if film else None, None if film else file, None, folder)


def _array(id: str, file: pathlib.Path, folder: pathlib.Path) -> Array:
    return Array(id, file, folder)
