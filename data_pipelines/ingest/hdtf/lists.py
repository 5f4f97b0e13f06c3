"""HDTF's annotation lists: which seconds of which video are a clip, and where the face is in it.

    {RD,WDA,WRA}_video_url.txt       NAME https://www.youtube.com/watch?v=ID
    {RD,WDA,WRA}_annotion_time.txt   NAME.mp4 00:30-01:00 01:30-02:30
    {RD,WDA,WRA}_resolution.txt      NAME.mp4 720
    {RD,WDA,WRA}_crop_wh.txt         NAME_0.mp4 x width y height
    {RD,WDA,WRA}_crop_ratio.txt      NAME_0.mp4 1.2 (not needed: for faces that are sought anew)
"""

import dataclasses
import pathlib
import re
from collections import Counter

from avjax.errors import UserError
from data_pipelines.media import text_file

SETS = ("RD", "WDA", "WRA")
# videos of RD are called Radio1 to Radio57, and nobody says who speaks in them
_NAMELESS = "RD"


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of the lists. `defect`: what is wrong with its times, `unframed`: with its window;
    "" for nothing."""

    set: str
    video: str
    youtube: str
    index: int
    begin: float
    end: float
    window: tuple[int, int, int, int] | None  # x, y, width, height
    of: int  # height of the picture that the window is for
    defect: str = ""
    unframed: str = ""

    @property
    def name(self) -> str:
        return f"{self.video}_{self.index}"


def speaker(set_: str, video: str) -> str:
    """Who speaks in a video: its name without the number that tells videos of one person apart."""
    return f"{_NAMELESS}_{video}" if set_ == _NAMELESS else video.rstrip("0123456789")


def group(set_: str, video: str) -> str:
    """What is held out together: a person; all of the videos in which nobody is named."""
    return _NAMELESS if set_ == _NAMELESS else speaker(set_, video)


def folder(root: pathlib.Path) -> pathlib.Path | None:
    """Where the lists are, in `root` or a folder of it; None where there are none."""
    for place in (root, root / "HDTF_dataset", *sorted(p for p in root.iterdir() if p.is_dir())):
        if any((place / f"{name}_annotion_time.txt").is_file() for name in SETS):
            return place
    return None


def read(place: pathlib.Path, told: Counter) -> list[Clip]:
    """The clips of all lists, in their order. `told` gets what the lists lack.

    Raises UserError: a list is missing or cannot be read.
    """
    out = []
    for set_ in SETS:
        if not (place / f"{set_}_annotion_time.txt").is_file():
            told[f"lists of {set_} missing"] += 1
            continue
        urls, times, heights, windows = (_list(place / f"{set_}_{what}.txt", told) for what in (
            "video_url", "annotion_time", "resolution", "crop_wh"))
        told["videos without times in the lists"] += len(urls.keys() - times.keys())
        for video, passages in times.items():
            youtube = re.search(r"[?&]v=([\w-]+)", " ".join(urls.get(video, ())))
            of = _height(heights.get(video, ()))
            last = 0.0
            for index, passage in enumerate(passages):
                begin, end = _seconds(passage)
                window = _window(windows.get(f"{video}_{index}", ()))
                defect = ("bad times" if not begin < end else
                          "overlaps the clip before it" if begin < last else "")
                unframed = ("no window" if window is None else
                            "unknown resolution" if not of else
                            "window larger than its resolution" if sum(window[1::2]) > of else "")
                last = max(last, end if begin < end else 0.0)
                out.append(Clip(set_, video, youtube[1] if youtube else "", index, begin, end,
                                window, of, defect, unframed))
    return out


def _list(path: pathlib.Path, told: Counter) -> dict[str, list[str]]:
    """{first word of a line, without .mp4: the others}. `told` gets the lines that repeat one."""
    if not path.is_file():
        raise UserError("one of HDTF's lists is missing", where=str(path), expected="a file",
                        found="none", hint="fetch the folder HDTF_dataset anew")
    lines = [line.split() for line in text_file.read(path, what="list").splitlines()]
    found = {line[0].removesuffix(".mp4"): line[1:] for line in lines if line}
    told["lines of the lists that repeat a name, the last taken"] += sum(map(bool, lines)) - len(
        found)
    return found


def _seconds(passage: str) -> tuple[float, float]:
    """"00:30-01:00" -> (30.0, 60.0); hours too. (0, 0) where it is none."""
    match = re.fullmatch(r"((?:\d+:)?\d+:\d+)-((?:\d+:)?\d+:\d+)", passage)
    if not match:
        return 0.0, 0.0
    begin, end = (sum(float(n) * 60 ** k for k, n in enumerate(reversed(clock.split(":"))))
                  for clock in match.groups())
    return begin, end


def _height(words) -> int:
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else 0


def _window(words) -> tuple[int, int, int, int] | None:
    """x, width, y, height, as the list has them -> x, y, width, height; None for no square."""
    if len(words) != 4 or not all(word.isdecimal() for word in words):
        return None
    x, width, y, height = map(int, words)
    return (x, y, width, height) if width == height > 0 else None
