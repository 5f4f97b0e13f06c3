"""What there is of Seamless Interaction below a folder, in any of the forms that it is given out
in, found without decoding anything:

    LABEL/SPLIT/BATCH/ARCHIVE.tar       webdataset: ID.wav ID.mp4 ID.npz ID.json in each
    LABEL/SPLIT/BATCH/ARCHIVE/ID.wav    the same, unpacked, as the owners' program leaves it
    LABEL/SPLIT/audio/ID.wav  video/ID.mp4  GROUP/ARRAY/ID.npy  metadata/transcript/ID.jsonl
        metadata/vad/ID.jsonl  annotations/KIND/ID.json         the bucket

ID is V00_S0809_I00000582_P0947: vendor, session, interaction, participant, whose number may end in
a letter. The two files of an interaction make a dyad. Tars are read in place.
"""

import collections
import csv
import dataclasses
import json
import pathlib
import re
import sys
import tarfile
from collections.abc import Iterator

from avjax.errors import UserError
from avjax.storage import atomic, failures
from data_pipelines.media import archives, tar_tree, text_file

LABELS = ("improvised", "naturalistic")
SPLITS = {"train": "train", "dev": "valid", "test": "test"}  # the owners' -> ours
ANNOTATIONS = ("1P-IS", "1P-R", "3P-IS", "3P-R", "3P-V")
MOVEMENTS = ("movement", "movement_v4")
FILELIST = "filelist.csv"
_ID = re.compile(r"(V\d+_S\d+_I\d+)_(P\d+[A-Za-z]?)")
_ARRAYS = {"boxes_and_keypoints": ("box", "is_valid_box", "keypoints"), "smplh": ("is_valid",),
           **dict.fromkeys(MOVEMENTS, ("expression", "is_valid"))}
_INDEX = "tars.json"
_COLUMNS = ("file_id", "label", "split", "batch_idx", "archive_idx")  # of FILELIST


@dataclasses.dataclass
class Found:
    """sides: {our split: {id: {"label", "files": {key: [place, offset, bytes, name]}}}}, places
    below the folder; told: {what was noticed: how often}; cut: ids whose tar is cut short."""

    sides: dict[str, dict[str, dict]]
    told: collections.Counter
    cut: set[str]


def find(root: pathlib.Path, labels: tuple[str, ...], kept: pathlib.Path | None) -> Found:
    """Everything below `root`. `kept`: a folder for the index of the tars, which is read instead of
    them where they are unchanged."""
    found = Found({}, collections.Counter(), set())
    before = _kept(kept)
    now: dict[str, dict] = {}
    for label in labels:
        for owners, split in SPLITS.items():
            for place, offset, size, name in _files(root, root / label / owners, before, now,
                                                    found.told):
                _add(found, split, label, place, offset, size, name)
    _compare(root, labels, found, now)
    for place, one in now.items():
        found.told["members of tars that must not be unpacked: not read"] += one["refused"]
        if one["cut"]:
            found.told["tars cut short: what is whole in them is used"] += 1
            print(f"remark: {root / place}: {one['cut']}: what is before it is used",
                  file=sys.stderr, flush=True)
            found.cut.update(filter(None, (_id_of(m[0]) for m in one["members"])))
    if kept is not None and now and now != before:
        kept.mkdir(parents=True, exist_ok=True)
        atomic.write(kept / _INDEX, json.dumps(now), shared=True)
    return found


def dyads(sides: dict[str, dict]) -> dict[str, list[str]]:
    """{interaction: ids of its files, in order}."""
    out = collections.defaultdict(list)
    for id in sorted(sides):
        out[_ID.fullmatch(id)[1]].append(id)
    return dict(sorted(out.items()))


def participant(id: str) -> str:
    """Whose file it is: P0947; numbers of vendors may be the same for others."""
    return f"{id.partition('_')[0]}_{_ID.fullmatch(id)[2]}"


def _kept(folder: pathlib.Path | None) -> dict[str, dict]:
    try:
        return json.loads((folder / _INDEX).read_text()) if folder else {}
    except (FileNotFoundError, ValueError):
        return {}


def _files(root, folder: pathlib.Path, before: dict, now: dict,
           told: collections.Counter) -> Iterator[tuple]:
    """(place below root, offset or None, bytes, name in the tar) of every file, in order."""
    if not folder.is_dir():
        return
    for here, names in archives.folders(folder, lambda above, name: name in _ARRAYS.get(
            above.name, (name,))):
        for name in names:
            path = here / name
            if not path.exists():
                told["links that lead nowhere: not read"] += 1
                continue
            place, stat = path.relative_to(root).as_posix(), path.stat()
            if path.suffix != ".tar":
                yield place, None, stat.st_size, ""
                continue
            state = [stat.st_size, stat.st_mtime_ns]
            old = before.get(place, {})
            now[place] = old if old.get("state") == state else {"state": state, **_members(path)}
            for member, offset, size in now[place]["members"]:
                yield place, offset, size, member


def _members(path: pathlib.Path) -> dict:
    refused, members, cut = [], [], ""
    try:
        for member in tar_tree.plain(path, lambda name, why: refused.append(name)):
            members.append(list(member))
    except (tarfile.TarError, OSError, EOFError) as error:
        failures.check(error, path)
        cut = " ".join(str(error).split()) or "empty"
    if not cut and not _ends(path):
        cut = "no end of an archive"
    return {"members": members, "refused": len(refused), "cut": cut}


def _ends(path: pathlib.Path) -> bool:
    """Whether the empty blocks are there that a tar ends with."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * tarfile.BLOCKSIZE))
        return not file.read().strip(b"\0")


def _id_of(name: str) -> str | None:
    stem = pathlib.PurePosixPath(name).stem
    return stem if _ID.fullmatch(stem) else None


def _key(path: pathlib.PurePosixPath) -> str | None:
    """What a file is of its id: wav, mp4, npz, json, group:array, metadata:kind, annotations:kind;
    None for what is not used."""
    folder, above = path.parent.name, path.parent.parent.name
    if path.suffix in (".wav", ".mp4", ".npz"):
        return path.suffix[1:]
    if path.suffix == ".json":
        return f"annotations:{folder}" if folder in ANNOTATIONS else "json"
    if path.suffix == ".jsonl" and folder in ("transcript", "vad"):
        return f"metadata:{folder}"
    if path.suffix == ".npy" and folder in _ARRAYS.get(above, ()):
        return f"{above}:{folder}"
    return None


def _add(found: Found, split: str, label: str, place: str, offset, size: int, name: str) -> None:
    path = pathlib.PurePosixPath(name or place)
    key, id = _key(path), _id_of(path.name)
    if key is None:
        return
    if id is None:
        found.told["files whose name is no id: not read"] += 1
        return
    side = found.sides.setdefault(split, {}).setdefault(id, {"label": label, "files": {}})
    if key in side["files"] or side["label"] != label:
        found.told["files that are there twice: the first one is used"] += 1
        return
    side["files"][key] = [place, offset, size, name]


def _compare(root: pathlib.Path, labels: tuple[str, ...], found: Found, tars: dict) -> None:
    """Counts what filelist.csv names in the batches that are here and that is missing."""
    path = next((p for p in (root / FILELIST, root / "assets" / FILELIST) if p.is_file()), None)
    if path is None:
        return
    here = {place.removesuffix(".tar") for place in tars}
    batches = {archive.rpartition("/")[0] for archive in here}
    if not batches:  # another layout
        return
    absent = set()
    rows = csv.reader(text_file.read(path, what="table").splitlines())
    try:
        columns = next(rows, [])
        at = [columns.index(name) for name in _COLUMNS]
        for row in filter(None, rows):
            id, label, owners, batch, archive = (row[k] for k in at)
            batch = f"{label}/{owners}/{int(batch):04d}"
            archive = f"{batch}/{int(archive):04d}"
            if batch not in batches or label not in labels:
                continue
            if archive not in here:
                absent.add(archive)
                found.told["files of filelist.csv whose archive is missing"] += 1
            elif id not in found.sides.get(SPLITS.get(owners, ""), {}):
                found.told["files of filelist.csv that their archive lacks"] += 1
    except (csv.Error, IndexError, ValueError) as error:
        raise UserError("unreadable table", where=f"{path}, line {rows.line_num}",
                        expected=",".join(_COLUMNS), found=str(error)[:120],
                        hint="fetch it again or take it away") from error
    found.told["archives of filelist.csv that are missing"] += len(absent)
