"""Clips of one person who is seen and heard: columns, recipes and options of the corpora that hold
such (VoxCeleb2, HDTF, TalkVid)."""

import contextlib
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

from avjax.errors import UserError
from avjax.signal import rates
from data_pipelines.declared import Option
from data_pipelines.ingest.common import corpus, passage, recording
from data_pipelines.ingest.common.passage import FACE
from data_pipelines.ingest.common.recordings import printable
from data_pipelines.media import archives, faces
from data_pipelines.media import landmarks as media_landmarks
from data_pipelines.media.archives import Place
from data_pipelines.store import columns
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

Size = Annotated[int, Option("side of the pictures, pixels", above=0)]
Rate = Annotated[float, Option("pictures a second", above=0)]
MaxSeconds = Annotated[float, Option("longer clips are cut into equal pieces", least=2)]
Landmarks = Annotated[str | None, Option(
    "points of a face that is followed, and by them the head's full rotation",
    media_landmarks.KINDS)]
SIZE, RATE, MAX_SECONDS = 96, float(rates.FRAMES), 30.0
ABOUT = "about"
_YOUTUBE = re.compile(r"\[([\w-]{11})\]$")  # at the end of a name, as yt-dlp has it


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is taken of the pictures: options of all these corpora. `show` None: nothing.

    Raises UserError: landmarks of what is no face, or without their packages.
    """

    size: int
    rate: float
    show: str | None
    landmarks: str | None = None
    max_seconds: float = MAX_SECONDS

    def __post_init__(self):
        if self.landmarks and self.show != FACE:
            raise UserError("landmarks need a face that is followed", where="--landmarks",
                            expected=f"--show={FACE}", found=f"--show={self.show}")
        if self.landmarks:
            media_landmarks.finder(self.landmarks)  # said now if its packages are missing

    def features(self) -> dict[str, Feature]:
        """The columns of the clips."""
        about = Feature((), "str", "JSON: what the owners say of the person and the recording")
        points = media_landmarks.recipe(self.landmarks)["points"] if self.landmarks else None
        return columns.of_clip() | {ABOUT: about} | columns.of_speaker(
            audio=passage.RATE, pictures=self.size if self.show else None, rate=self.rate,
            landmarks=points, pose=self.show == FACE)

    def recipes(self) -> dict[str, dict]:
        """How the columns are made."""
        out = {"audio": passage.AUDIO_RECIPE}
        if self.show:
            out["pictures"] = {"kind": "recorded", "size": self.size, "rate": self.rate,
                               "show": self.show}
        if self.show == FACE:
            pose, points = recording.head_recipes(self.landmarks)
            out["pictures"]["margin"] = faces.MARGIN
            out |= {"pose": pose | {"rate": self.rate}} | points
        return out


def read(root, shown: Shown, item: Mapping[str, Any],
         window: passage.Window | str = "") -> Iterator[dict]:
    """An item of a list -> its clip, or pieces of at most `max_seconds`, whose names have the
    number of their first picture. Raises store.Unusable.

    Args:
      item: id, speaker, about, place (of `entry`), and perhaps begin and end (seconds), sound
        (place of the file that is taken where the video is mute), mended, defect.
      window: what of the pictures is shown, where it is another for every item.
    """
    place, sound = Place(*item["place"]), item.get("sound")
    if item.get("defect"):
        raise store.Unusable(item["defect"], id=item["id"], where=str(place))
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(place.path(root))
        files = [path]
        stack.enter_context(corpus.left_out(item["id"], files))
        mute = sound and not passage.native_rate(path)
        beside = stack.enter_context(Place(*sound).path(root)) if mute else None
        files += [beside] if mute else []
        found = passage.read(path, size=shown.size, rate=shown.rate, show=window or shown.show,
                             landmarks=shown.landmarks, sound_of=beside,
                             begin=item.get("begin"), end=item.get("end"))
    found.mended[:0] = [*item.get("mended", ()), *["no sound in the video: that of the file beside "
                                                   "it"] * bool(mute)]
    for first, piece in found.pieces(shown.rate, shown.max_seconds):
        whole = len(piece.pictures) == len(found.pictures)
        yield row(item if whole else item | {"id": f"{item['id']}-{first:06d}"}, piece.audio,
                  piece.mended) | {
            "pictures": piece.pictures, "portrait": passage.typical(piece.pictures),
            **piece.tracks}


def row(item: Mapping[str, Any], audio, mended) -> dict:
    """What a clip has that is only heard."""
    id, speaker = printable(item["id"]), printable(item["speaker"])
    return {"id": id, "text": "", "mended": corpus.mended(*mended),
            ABOUT: json.dumps(item["about"]), "speaker": speaker,
            "identity": columns.identity_of(speaker), "words": "[]", "audio": audio}


def entry(place: Place | None) -> list[str]:
    """A place as an item of a list has it; [] for none."""
    return [place.file, place.member] if place else []


def by_stem(source, suffixes: Collection[str], told: Counter) -> dict[str, Place]:
    """{name without suffix: file or member} of what is below a folder; `told` gets how many there
    are of a name that another one has."""
    out = {}
    for place in archives.walk(source):
        if place.has(suffixes):
            told["files of a name that is there twice"] += place.stem in out
            out.setdefault(place.stem, place)
    return out


def by_youtube(files: Mapping[str, Place]) -> dict[str, Place]:
    """{id on YouTube: file} of the files of `by_stem` whose names end in "[ID]"."""
    return {match[1]: place for stem, place in files.items() if (match := _YOUTUBE.search(stem))}
