"""HDTF (annotations CC BY 4.0, the videos YouTube's): talking heads of 362 videos -> clips.

Either the clips, already cut out, anywhere below the source:

    Radio11_0.mp4, Radio11_1.mp4           as the owners name them, 512 x 512
    WDA_AlexandriaOcasioCortez_000.mp4     as the usual download script does

or the owners' lists and the videos that they are cut from here, by their times and windows:

    HDTF_dataset/{RD,WDA,WRA}_{video_url,resolution,annotion_time,crop_wh,crop_ratio}.txt
    Radio11.mp4, RD_Radio11.mp4, LLpv_LXAfE4.mp4 or "... [LLpv_LXAfE4].mp4", anywhere below

or both: a clip that is there is taken before its video. A window is for a picture of the height
that the lists name; in a video of another height it is scaled. What the lists have no (right)
window for can be used with --show=face.

The owners hold nothing out: a share of the people is, by a hash of their names; RD's videos, whose
people nobody names, all train.
"""

import functools
import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common import given_faces, holdout, passage, pictured
from data_pipelines.ingest.hdtf import lists
from data_pipelines.media.archives import Place

WINDOW = "window"
_CUT = re.compile(r"(?:hdtf_)?(?:(RD|WDA|WRA)_)?(.+)_(\d{1,3})")


def prepare(
    source, out, *, size: pictured.Size = pictured.SIZE, rate: pictured.Rate = pictured.RATE,
    show: Annotated[str, Option("the owners' window, or a face that is followed", (
        WINDOW, passage.FACE))] = WINDOW,
    landmarks: pictured.Landmarks = None,
    valid_share: Annotated[float, Option("share of the people that is held out", least=0,
                                         below=1)] = 0.05,
    face_embeddings: given_faces.FaceEmbeddings = None,
    max_seconds: pictured.MaxSeconds = pictured.MAX_SECONDS, max_bad: MaxBad = 0.5, parallel=None,
    progress: bool = True,
) -> dict | None:
    """Makes the clip dataset OUT of HDTF; see data_pipelines/ingest/common/corpus.py."""
    options = dict(size=size, rate=rate, show=show, landmarks=landmarks, valid_share=valid_share,
                   max_seconds=max_seconds, face_embeddings=face_embeddings)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


def corpus(source: pathlib.Path, *, size: int = pictured.SIZE, rate: float = pictured.RATE,
           show: str = WINDOW, landmarks: str | None = None, valid_share: float = 0.05,
           max_seconds: float = pictured.MAX_SECONDS) -> common.Corpus:
    """Lists HDTF. Raises UserError: lists that are not whole, nothing that they name is here."""
    shown = pictured.Shown(size, rate, show, landmarks, max_seconds)
    told = Counter()
    files = pictured.by_stem(source, media.VIDEO_SUFFIXES, told)
    place = lists.folder(source)
    found = _of_lists(place, files, told, show) if place else _of_files(files)
    used = {one["place"] for one in found}
    told["video files that are no clips of HDTF"] = len(set(files.values()) - used)
    groups = {one["group"] for one in found if not one["defect"]} - {lists.group("RD", "")}
    held_out = holdout.by_name(groups, valid_share)
    items = {"train": [], "valid": []}
    for one in found:
        place = one["place"]
        one |= {"place": pictured.entry(place), "bytes": place.bytes(source)}
        split = "valid" if one.pop("group") in held_out else "train"
        items[split] += _pieces(one, max_seconds)
    return common.Corpus(
        name="hdtf", items={split: some for split, some in items.items() if some},
        features=shown.features(), recipes=shown.recipes(), told=told,
        description="HDTF by Z. Zhang, L. Li, Y. Ding and C. Fan. Held out by us: "
                    f"{valid_share:.1%} of the people.",
        read=functools.partial(read, source, shown))


def read(root: pathlib.Path, shown: pictured.Shown, item: dict[str, Any]) -> Iterator[dict]:
    """`pictured.read` with the window of the lists, or of a clip that is cut out all of it."""
    if shown.show != WINDOW:
        return pictured.read(root, shown, item)
    window = passage.Window(*item["window"]) if item["window"] else passage.PICTURE
    return pictured.read(root, shown, item, window)


def _of_files(files: dict[str, Place]) -> list[dict[str, Any]]:
    """Clips that are already cut out."""
    out, seen = [], set()
    for stem, place in files.items():
        if match := _CUT.fullmatch(stem):
            one = _item(match[1] or _set(match[2]), f"{match[2]}_{int(match[3])}", match[2], place)
            out.append(one | {"defect": "duplicate clip" * (one["id"] in seen)})
            seen.add(one["id"])
    return out


def _set(video: str) -> str:
    return "RD" if re.fullmatch(r"Radio\d+", video) else ""


def _of_lists(place: pathlib.Path, files: dict[str, Place], told: Counter,
              show: str) -> list[dict[str, Any]]:
    """Clips of the lists: those that are there, and those whose video is."""
    cut = {one["id"]: one["place"] for one in _of_files(files) if not one["defect"]}
    by_id = pictured.by_youtube(files)
    out = []
    for clip in lists.read(place, told):
        names = (clip.video, f"{clip.set}_{clip.video}", clip.youtube)
        video = next((files[n] for n in names if n in files), by_id.get(clip.youtube))
        if clip.name in cut:
            out.append(_item(clip.set, clip.name, clip.video, cut[clip.name]))
        elif video is None:
            told["clips whose video is not here"] += 1
        else:
            defect = clip.defect or (clip.unframed if show == WINDOW else "")
            out.append(_item(clip.set, clip.name, clip.video, video) | {
                "begin": clip.begin, "end": clip.end, "defect": defect,
                "window": clip.window and [*clip.window, clip.of]})
    if not out:
        raise UserError("none of the listed videos is here", where=str(place),
                        expected="videos or clips named as the lists have them",
                        found=f"{len(files)} video files", hint="put them below --source")
    return out


def _item(set_: str, name: str, video: str, place: Place) -> dict[str, Any]:
    return {"id": name, "speaker": lists.speaker(set_, video), "group": lists.group(set_, video),
            "about": {"set": set_, "video": video}, "place": place, "begin": None, "end": None,
            "window": None, "defect": ""}


def _pieces(item: dict[str, Any], longest: float) -> list[dict[str, Any]]:
    """Items of at most `longest` seconds, where the lists say how long it is."""
    if item["begin"] is None or item["defect"]:
        return [item]
    count = max(1, int(np.ceil((item["end"] - item["begin"]) / longest - 1e-6)))
    edges = np.linspace(item["begin"], item["end"], count + 1).round(3).tolist()
    return [item | {"id": item["id"] + (f"-{k:03d}" if count > 1 else ""), "begin": a, "end": b}
            for k, (a, b) in enumerate(zip(edges, edges[1:], strict=False))]


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
