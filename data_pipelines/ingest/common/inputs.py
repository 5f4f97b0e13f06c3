"""What a prepared folder was made of: which files are new, changed or gone since, and how clips
that are made anew replace the old ones.

    OUT/.next/        what is made anew; what was made before stays until the new is complete
    OUT/.next/whole   written last; from then on whoever comes next only has to move it
"""

import os
import pathlib
import shutil

from avjax.errors import UserError
from avjax.storage import made

NEXT = ".next"
# the last one records what the others were made of
MADE = ("features", "clips", "quarantine.jsonl", "summary.json")
SHOWN = 20  # names of each kind that are printed


def summary_of(out: pathlib.Path) -> dict:
    """The record of how the clips of a folder were made. Raises UserError: missing or damaged."""
    hint = "bring the file back, or choose another --out"
    if (record := made.read(out / "summary.json", hint=hint)) is None:
        raise UserError("nothing says what these clips were made of",
                        where=str(out / "summary.json"), found="no file", hint=hint)
    return record


def differences(before: dict[str, dict], now: dict[str, dict]) -> dict[str, list[str]]:
    """{"new", "changed", "gone": places}, those without any left out; contents as of
    recordings.Source.contents."""
    found = {"new": now.keys() - before.keys(), "gone": before.keys() - now.keys(),
             "changed": {p for p in now.keys() & before.keys()
                         if now[p]["sha256"] != before[p]["sha256"]}}
    return {kind: sorted(found[kind]) for kind in ("new", "changed", "gone") if found[kind]}


def related(before: dict[str, dict], now: dict[str, dict], *, moved: bool, left: bool) -> bool:
    """Whether two folders are one at two times: they share a place or, where the folder has another
    path now, a recording; where the former path is still there (`left`), most of them, since
    folders of two people may have one in common.

    Transcripts do not count: several people read the same text.
    """
    if not moved and before.keys() & now.keys():
        return True
    contents = [{one["sha256"] for place, one in folder.items()
                 if not place.lower().endswith(".txt")}
                for folder in (before, now)]
    common = len(contents[0] & contents[1])
    return common > min(map(len, contents)) / 2 if left else common > 0


def listed(changes: dict[str, list[str]]) -> str:
    """A line for each kind."""
    return "\n".join(f"{kind}: {', '.join(places[:SHOWN])}"
                     + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else "")
                     for kind, places in changes.items())


def replace(out: pathlib.Path, *, complete: bool = False) -> None:
    """Moves what was made anew into place, also after a kill; `complete`: it has just become so."""
    folder = out / NEXT
    whole = folder / "whole"
    if complete:
        whole.touch()
    if not whole.is_file():
        return
    for name in MADE:
        new, old = folder / name, out / name
        if new.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            # of an older one that was interrupted
            shutil.rmtree(out / f".{name}.partial", ignore_errors=True)
        if new.exists():
            os.replace(new, old)
    shutil.rmtree(folder)
