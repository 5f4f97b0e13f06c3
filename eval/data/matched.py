"""Which file of a folder belongs to which example: by its name, or by a list."""

import csv
import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Collection, Iterable

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.ingest.common import recordings
from data_pipelines.media import text_file

COLUMNS = ("id", "file")  # of a list


@dataclasses.dataclass(frozen=True)
class Matched:
    """What a folder has of some examples.

    Attributes:
      found: {id: its files}: a film, a sound, or both of one name.
      lacking: {id: why it has none}.
      unused: files of no example, from the folder on.
    """

    found: dict[str, recordings.Source]
    lacking: dict[str, str]
    unused: list[str]


def match(folder, ids: Collection[str], listed: dict[str, str] | None = None) -> Matched:
    """Matches the media of a folder to examples.

    An example ID is ID.mp4, ID.wav or any other film or sound, or a film and a sound (which wins);
    what ID has of "/" may be folders or dots. With a list only that counts.

    Raises UserError: no such folder, no media in it, or nothing that belongs to any example.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError("no folder of generated files here", where=f"--generated={folder}",
                        expected="a folder of films or sounds", hint="check the path",
                        found="a file" if folder.exists() else "nothing")
    if not recordings.media_of(folder):
        raise UserError("no media here", where=f"--generated={folder}",
                        expected="files called after the examples, such as "
                        f"{next(iter(ids), 'ID')}.mp4", found="none")
    out = _by_name(folder, ids) if listed is None else _by_list(folder, ids, listed)
    if not out.found:
        some = ", ".join(out.unused[:3])
        raise UserError("no file belongs to any example", where=f"--generated={folder}",
                        expected=f"{len(ids)} examples, such as {next(iter(ids), 'none')}",
                        found=f"{some}, ..." if len(out.unused) > 3 else some or "nothing",
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


def _by_name(folder: pathlib.Path, ids: Collection[str]) -> Matched:
    sources = recordings.find(folder)
    of_name: dict[str, list[recordings.Source]] = defaultdict(list)
    for source in sources:
        for name in _names(source):
            of_name[name].append(source)
    found, lacking, used = {}, {}, set()
    for id in ids:
        mine = of_name.get(_dotted(id), [])
        used |= {path for source in mine for path in source.files}
        if len(mine) == 1:
            found[id] = mine[0]
        else:
            lacking[id] = ("duplicated: " + ", ".join(s.place(s.files[0]) for s in mine)
                           if mine else f"missing: no {_dotted(id)} in {folder}")
    unused = [s.place(path) for s in sources for path in s.files if path not in used]
    return Matched(found, lacking, unused)


def _names(source: recordings.Source) -> set[str]:
    """What its example may be called."""
    file = source.files[0]
    return {source.id, _dotted(source.place(file)[:-len(file.suffix)])}


def _dotted(id: str) -> str:
    return recordings.printable(id).replace("/", ".")


def _by_list(folder: pathlib.Path, ids: Collection[str], listed: dict[str, str]) -> Matched:
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
            film = file.suffix.lower() in media.VIDEO_SUFFIXES
            found[id] = recordings.Source(id, "", file if film else None, None if film else file,
                                          None, folder)
            used.add(file)
    return Matched(found, lacking, [path.relative_to(folder).as_posix() for path
                                    in recordings.media_of(folder) if path not in used])
