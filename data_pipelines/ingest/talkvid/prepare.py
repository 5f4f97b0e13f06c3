"""TalkVid (CC BY-NC 4.0, the videos YouTube's): 1 244 hours of people who talk, 15 languages ->
clips.

    filtered_video_clips.json         the owners' list (data/ of the data set); see listing.py
    VIDEO_ID/VIDEO_ID_001_10.500_25.300.mp4   clips, as the owners' script downloads them, with a
                                      .m4a beside
    ID.mp4                            or named by their id in the list
    VIDEO_ID.mp4, "... [VIDEO_ID].mp4"        or whole videos, that are cut here

anywhere below the source. Whole people are seen, so the face is followed (--show=middle takes the
middle square instead). Scores of the list can be asked for (--min_dover, ...): what is below is
counted, not read. Held out: --bench, a list as TalkVid-Bench, is `test`, and further clips of
its people are left out; `valid` is a share of the people, by a hash of their ids.
"""

import functools
import pathlib
import re
from collections import Counter, defaultdict
from typing import Annotated, Any

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common import given_faces, holdout, passage, pictured
from data_pipelines.ingest.talkvid import listing

SHOW = (passage.FACE, passage.MIDDLE)
_CUT = re.compile(r"(.+)_\d{3}_(\d+\.\d{3})_(\d+\.\d{3})")
_NEAR = 0.0025  # seconds by which times in names differ: some are cut off, some are rounded


def _least(of: str):
    return Annotated[float, Option(f"least {of} that the list gives a clip; 0: any", least=0)]


def prepare(
    source, out, *,
    clip_list: Annotated[str | None, Option("the owners' list, where there are several")] = None,
    bench: Annotated[str | None, Option("list of the clips that are held out as test, in the same "
                                        "form")] = None,
    size: pictured.Size = pictured.SIZE, rate: pictured.Rate = pictured.RATE,
    show: Annotated[str, Option("a face that is followed, or the middle square",
                                SHOW)] = passage.FACE,
    landmarks: pictured.Landmarks = None,
    language: Annotated[str, Option("only clips in it, as the list names it; empty: any")] = "",
    min_dover: _least("DOVER score (quality)") = 0.0,
    min_cotracker: _least("CoTracker ratio (steadiness)") = 0.0,
    min_movement: _least("head movement score of a frame") = 0.0,
    min_rotation: _least("head rotation score of a frame") = 0.0,
    min_completeness: _least("head completeness score of a frame") = 0.0,
    min_resolution: _least("head resolution score of a frame") = 0.0,
    min_orientation: _least("head orientation score of a frame") = 0.0,
    valid_share: Annotated[float, Option("share of the people that is held out", least=0,
                                         below=1)] = 0.02,
    face_embeddings: given_faces.FaceEmbeddings = None,
    max_seconds: pictured.MaxSeconds = pictured.MAX_SECONDS, max_bad: MaxBad = 0.5, parallel=None,
    progress: bool = True,
) -> dict | None:
    """Makes the clip dataset OUT of TalkVid; see data_pipelines/ingest/common/corpus.py."""
    options = dict(clip_list=clip_list, bench=bench, size=size, rate=rate, show=show,
                   landmarks=landmarks, language=language, min_dover=min_dover,
                   min_cotracker=min_cotracker, min_movement=min_movement,
                   min_rotation=min_rotation, min_completeness=min_completeness,
                   min_resolution=min_resolution, min_orientation=min_orientation,
                   valid_share=valid_share, max_seconds=max_seconds,
                   face_embeddings=face_embeddings)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


def corpus(source: pathlib.Path, *, clip_list: str | None = None, bench: str | None = None,
           size: int = pictured.SIZE, rate: float = pictured.RATE, show: str = passage.FACE,
           landmarks: str | None = None, language: str = "", valid_share: float = 0.02,
           max_seconds: float = pictured.MAX_SECONDS, **least: float) -> common.Corpus:
    """Lists TalkVid. Raises UserError: no list, or one that cannot be read; none of its videos."""
    told, shown = Counter(), pictured.Shown(size, rate, show, landmarks, max_seconds)
    files = _Files(source, told)
    least = {name.removeprefix("min_"): value for name, value in least.items() if value}
    tested = _tested(bench)
    found = _found(listing.find(source, clip_list), files, tested, language, least, told)
    if not found and told["clips whose video is not here"]:
        raise UserError("none of the listed videos is here", where=str(source),
                        expected="clips or videos named by their YouTube ids",
                        found=f"{files.count} video files", hint="put them below --source")
    held_out = holdout.by_name({one["speaker"] for one in found
                                if not one["test"] and not one["defect"]}, valid_share)
    items = {"train": [], "valid": [], "test": []}
    for one in found:
        split = "valid" if one["speaker"] in held_out else "train"
        items["test" if one.pop("test") else split].append(one)
    return common.Corpus(
        # a list of test clips of which none is here is an error, not a data set without test
        name="talkvid", items={split: some for split, some in items.items()
                               if some or bench and split == "test"},
        features=shown.features(), recipes=shown.recipes(), told=told,
        description="TalkVid by S. Chen and others, CC BY-NC 4.0. Held out: "
                    f"{f'{bench} as test, ' if bench else ''}{valid_share:.1%} of the people.",
        read=functools.partial(pictured.read, source, shown))


class _Files:
    """What is there of the videos: clips by video and time, and files by their names."""

    def __init__(self, source: pathlib.Path, told: Counter):
        self._root = source
        self._named = pictured.by_stem(source, media.VIDEO_SUFFIXES, told)
        self._sounds = pictured.by_stem(source, media.AUDIO_SUFFIXES, Counter())
        self._cut = defaultdict(list)
        self._whole = pictured.by_youtube(self._named)
        for stem, place in self._named.items():
            if match := _CUT.fullmatch(stem):
                self._cut[match[1]].append((float(match[2]), float(match[3]), place))

    @property
    def count(self) -> int:
        return len(self._named)

    def of(self, one, begin: float, end: float) -> dict[str, Any] | None:
        """Where a clip of the list is: {place, bytes, begin, end, sound}; None where it is not."""
        video, named = listing.youtube(one), listing.named_times(one)
        cut = [place for first, last, place in self._cut.get(video, ())
               if max(abs(first - named[0]), abs(last - named[1])) <= _NEAR]
        cut = cut or [self._named[id] for id in (listing.name(one),) if id in self._named]
        place = cut[0] if cut else self._named.get(video) or self._whole.get(video)
        if place is None:
            return None
        sound = self._sounds.get(place.stem) if cut else None
        begin, end = (None, None) if cut else (begin, end)
        return {"place": pictured.entry(place), "bytes": place.bytes(self._root), "begin": begin,
                "end": end, "sound": pictured.entry(sound)}


def _tested(bench: str | None) -> tuple[set[str], set[str]]:
    """Ids and people of the clips that are held out as test."""
    ones = [*listing.objects(pathlib.Path(bench))] if bench else []
    people = {_speaker(one) for one in ones}
    return {listing.name(one) for one in ones}, people


def _speaker(one) -> str:
    person = listing.info(one).get("Person ID")
    person = "" if person is None else str(person).strip()  # 0 is somebody
    return f"person-{person}" if person else f"video-{listing.youtube(one)}"


def _found(path: pathlib.Path, files: _Files, tested, language: str, least: dict[str, float],
           told: Counter) -> list[dict[str, Any]]:
    """The clips of the list that are here and asked for; `told` gets the others."""
    out, seen = [], set()
    for one in listing.objects(path):
        id = listing.name(one)
        low = [name for name, value in least.items()
               if (listing.score(one, name) or 0.0) < value]
        if language and str(listing.info(one).get("Language", "")).lower() != language.lower():
            told[f"left out, not in {language}"] += 1
            continue
        if low:
            told[f"left out by --min_{low[0]}"] += 1
            continue
        begin, end, mended, defect = listing.times(one)
        where = files.of(one, begin, end)
        if where is None:
            told["clips whose video is not here"] += 1
            continue
        test, speaker = id in tested[0], _speaker(one)
        if not test and speaker in tested[1]:
            told["left out, of people of --bench"] += 1
            continue
        defect = "no id" if not id else "duplicate id" if id in seen else defect
        seen.add(id)
        out.append(where | {"id": id, "speaker": speaker, "about": listing.about(one),
                            "mended": [mended] * bool(mended), "defect": defect, "test": test})
    return out


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
