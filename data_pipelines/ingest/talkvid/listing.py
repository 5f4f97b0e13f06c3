"""TalkVid's JSON lists: a clip an object, read one after the other, and what is wrong with it."""

import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from avjax.errors import UserError
from avjax.storage import failures

# the owners' own offset: their times are a tenth of a second behind their frames
_OFFSET, _SLACK = 0.1, 0.15  # seconds
_PIECE = 1 << 20  # characters of a list that are read at a time
SCORES = {"dover": ("dover_scores",), "cotracker": ("cotracker_ratio",)} | {
    name: ("head_detail", "scores", f"min_{name}")
    for name in ("movement", "rotation", "completeness", "resolution", "orientation")}
_ABOUT = ("Person ID", "Ethnicity", "Age Group", "Gender", "Language", "Video Category")


def find(root: pathlib.Path, name: str | None) -> pathlib.Path:
    """The list. Raises UserError: there is none, or several."""
    if name:
        places = [p for p in (root / name, pathlib.Path(name)) if p.is_file()][:1]
    else:
        places = sorted([*root.glob("*.json"), *root.glob("data/*.json")])
    if len(places) != 1:
        raise UserError("no list of clips" if not places else "several lists of clips",
                        where=name or str(root),
                        expected="filtered_video_clips.json (whole scenes), or "
                        "filtered_video_clips_with_captions.json (5 s of them)",
                        found=", ".join(p.name for p in places) or "none",
                        hint="name one with --clip_list=FILE")
    return places[0]


def objects(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, without holding all of it (a gigabyte) in memory.

    Raises UserError: no JSON list of objects, or one that is cut short.
    """
    def fail(found: str):
        raise UserError("unreadable list", where=str(path), expected="a JSON list of objects",
                        found=found, hint="fetch it again")

    decoder = json.JSONDecoder()
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_PIECE).lstrip()
            if not text.startswith("["):
                fail(repr(text[:40]))
            at = 1
            while True:
                at = re.compile(r"[\s,]*").match(text, at).end()
                if text[at:at + 1] == "]":
                    return
                try:
                    one, at = decoder.raw_decode(text, at)
                except ValueError as error:
                    more = file.read(_PIECE)
                    if not more:
                        fail(str(error) if text[at:] else "no end")
                    text, at = text[at:] + more, 0
                    continue
                if not isinstance(one, dict):
                    fail(f"{type(one).__name__} in it")
                yield one
    except RecursionError:
        fail("lists in lists in lists ...")
    except (OSError, UnicodeDecodeError) as error:
        failures.check(error, path)
        fail(str(error))


def name(one: Mapping[str, Any]) -> str:
    """The clip's id, as a file may be called; "" where it has none."""
    return str(one.get("id") or "").replace("/", "_").strip()


def named_times(one: Mapping[str, Any]) -> tuple[float, float]:
    """The times that the owners' script puts into the names of files; NaN where there are none."""
    found = (number(one.get("start-time", one.get("start"))),
             number(one.get("end-time", one.get("end"))))
    return tuple(math.nan if t is None else t for t in found)


def youtube(one: Mapping[str, Any]) -> str:
    """The video's id on YouTube; "" where there is no link."""
    link = str(info(one).get("Video Link") or info(one).get("video_link") or "")
    match = re.search(r"(?:[?&]v=|youtu\.be/|/shorts/|/embed/)([\w-]+)", link)
    return match[1] if match else ""


def info(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found = one.get("info")
    return found if isinstance(found, dict) else {}


def about(one: Mapping[str, Any]) -> dict[str, Any]:
    """What the owners say of the person and the video, without the description of the pictures."""
    return {key: info(one)[key] for key in _ABOUT if info(one).get(key) not in (None, "")}


def score(one: Mapping[str, Any], name: str) -> float | None:
    """One of SCORES; None where it is missing or no number."""
    found: Any = one
    for key in SCORES[name]:
        found = found.get(key) if isinstance(found, dict) else None
    return number(found)


def number(value: Any) -> float | None:
    """A finite number, None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def times(one: Mapping[str, Any]) -> tuple[float, float, str, str]:
    """(begin, end, what was mended, defect) in seconds of the video.

    A clip has times, frames and a duration. Times count, as for the owners' own download, where
    they agree with either of the others; if they do not, frames count that the duration agrees
    with.
    """
    begin, end = named_times(one)
    length = number(str(one.get("durations", "")).strip().removesuffix("s"))
    fps = number(one.get("fps"))
    frames = [number(one.get(key)) for key in ("start-frame", "end-frame")]
    if fps and fps > 0 and None not in frames:
        by_frames = frames[0] / fps, frames[1] / fps
    else:
        by_frames = None
    timed = 0 <= begin < end
    counted = by_frames is not None and 0 <= by_frames[0] < by_frames[1]
    if not timed and not counted:
        return 0.0, 0.0, "", "no times"
    if timed and (not counted or all(abs(t - _OFFSET / 2 - f) <= _SLACK for t, f in zip(
            (begin, end), by_frames, strict=True))):
        return begin, end, "", ""
    if timed and (length is None or abs(end - begin - length) <= _SLACK):
        return begin, end, "frames that disagree with the times", ""
    if counted and (length is None or abs(by_frames[1] - by_frames[0] - length) <= _SLACK):
        return *by_frames, "times that disagree with frames and duration" if timed \
            else "no times: those of the frames", ""
    return 0.0, 0.0, "", "times, frames and duration disagree"
