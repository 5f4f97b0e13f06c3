"""Published units beside ours: how many agree.

Files have a recording a line, in the forms that are around:
    LJ003-0001|5884 2411 5280 ...                       textless (also with a tab)
    wavs/LJ003-0001.wav|5884 2411|3 1                   with durations: runs of equal units once
    {"audio": "wavs/LJ003-0001.wav", "hubert": "5884 2411", "duration": 9.7}
                                                        speech-resynthesis; Python's quotes too
Names are compared without folders and endings. A list that breaks off ("...") counts as far as it
goes. Where no unit repeats in any of a file's lists, runs of equal units of ours count once.
"""

import ast
import difflib
import json
import operator
import pathlib
import re

import numpy as np

from avjax.errors import UserError
from data_pipelines.media import text_file

_NUMBERS = re.compile(r"[\d\s,\[\]]*")
_APART = 2  # units: the ends of sound are cut otherwise elsewhere
FORM = 'lines like LJ003-0001|5884 2411, or {"audio": "LJ003-0001.wav", "hubert": "5884 2411"}'


def read(path) -> dict[str, np.ndarray]:
    """{name: units (T,)} of a file. UserError: missing, or a line in another form."""
    out = {}
    for number, line in enumerate(text_file.read(path, what="published units").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, units = _record(line, where) if line.lstrip()[:1] == "{" else _fields(line, where)
        name = _bare(name)
        if name in out:
            raise UserError("a recording twice among the published units", where=where, found=name)
        out[name] = _numbers(units, where)
    if not out:
        raise UserError("no published units", where=str(path), expected=FORM, found="no lines")
    return out


def compared(dataset, known: dict[str, np.ndarray]) -> str:
    """What to say of a dataset's units: a line for every recording that both have, and all of them
    together. UserError: no recording in common, or several speakers in one."""
    if "units" not in dataset.features or dataset.features["units"].shape[1:] not in ((), (1,)):
        raise UserError("units of one speaker a recording are compared", where=str(dataset.dir),
                        expected="a column units (T, 1)",
                        found=str(getattr(dataset.features.get("units"), "shape", "no units")))
    runs = not any((np.diff(units) == 0).any() for units in known.values())
    lines, agree, of = [], 0, 0
    for split, ids in dataset.ids.items():
        source = None
        for index, id in enumerate(ids):
            theirs = known.get(_bare(id))
            if theirs is None:
                continue
            source = source or dataset.source(split, ("units",))
            ours = source[index]["units"].reshape(-1)
            equal, total, remark = _equal(ours, theirs, runs)
            agree, of = agree + equal, of + total
            lines.append(f"check: {id}: {equal} of {total} units agree{remark}")
    if not lines:
        ids = [id for found in dataset.ids.values() for id in found]
        raise UserError("no recording with published units", where=str(dataset.dir),
                        expected=", ".join(list(known)[:3]), found=", ".join(ids[:3]),
                        hint="prepare one of them")
    lines.append(f"agree: {agree} of {of} ({100 * agree / max(of, 1):.1f} %), {len(lines)} of "
                 f"{len(known)} recordings" + (", runs of equal units once" if runs else ""))
    return "\n".join(lines)


def _equal(ours: np.ndarray, theirs: np.ndarray, runs: bool) -> tuple[int, int, str]:
    """How many agree, of how many, and what else to say. Frames are compared one by one; runs,
    which one difference shifts, where an alignment puts them."""
    if runs:
        ours = ours[np.flatnonzero(np.diff(ours, prepend=-1))]
    remark = f" ({len(ours)} here, {len(theirs)} published)" if len(ours) != len(theirs) else ""
    if len(ours) >= len(theirs) - _APART:  # theirs is a part, or ends a little elsewhere
        shared = min(len(ours), len(theirs))
        ours, theirs = ours[:shared], theirs[:shared]
    if not runs:
        shared = min(len(ours), len(theirs))
        return int((ours[:shared] == theirs[:shared]).sum()), len(theirs), remark
    blocks = difflib.SequenceMatcher(None, ours.tolist(), theirs.tolist(),
                                     autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks), len(theirs), remark


def _record(line: str, where: str) -> tuple[str, object]:
    try:
        try:
            record = json.loads(line)
        except ValueError:
            record = ast.literal_eval(line.strip())  # literals alone
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _other(where, line) from error
    if not isinstance(record, dict):  # Python's sets begin as its dicts do
        raise _other(where, line)
    name = next((record[k] for k in ("audio", "id", "name", "path") if k in record), None)
    units = [v for k, v in record.items()
             if isinstance(v, list) or (isinstance(v, str) and v is not name and
                                        _NUMBERS.fullmatch(v) and v.strip())]
    if not isinstance(name, str) or len(units) != 1:
        raise _other(where, line)
    return name, units[0]


def _fields(line: str, where: str) -> tuple[str, str]:
    name, *columns = re.split(r"[|\t]", line.strip())
    if not columns:
        raise _other(where, line)
    return name, columns[0]


def _numbers(units, where: str) -> np.ndarray:
    words = units if isinstance(units, list) else re.split(r"[\s,\[\]]+", units.strip("[] \t"))
    words = words[:-1] if words and words[-1] in ("...", "…") else words
    try:
        numbers = np.array([int(word) if isinstance(word, str) else operator.index(word)
                            for word in words], np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _other(where, str(units)) from error
    if not len(numbers) or numbers.min() < 0:
        raise _other(where, str(units))
    return numbers


def _other(where: str, line: str) -> UserError:
    return UserError("published units in another form", where=where, expected=FORM,
                     found=repr(line.strip()[:60]))


def _bare(name: str) -> str:
    return pathlib.PurePosixPath(name.strip()).name.removesuffix(".wav").removesuffix(".flac")
