"""Clips of one person who is seen and heard: columns, recipes and options of the corpora that hold
such (VoxCeleb2, HDTF, TalkVid)."""

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

from avjax.signal import rates
from data_pipelines.declared import Option
from data_pipelines.ingest.common import corpus, passage
from data_pipelines.ingest.common.passage import FACE
from data_pipelines.media import archives, faces
from data_pipelines.media.archives import Place
from data_pipelines.store import columns
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

Size = Annotated[int, Option("side of the pictures, pixels", above=0)]
Rate = Annotated[float, Option("pictures a second", above=0)]
MaxSeconds = Annotated[float, Option("longer clips are cut into equal pieces", least=2)]
SIZE, RATE, MAX_SECONDS = 96, float(rates.FRAMES), 30.0
ABOUT = "about"


def features(size: int, rate: float, show: str, *, pictures: bool = True) -> dict[str, Feature]:
    """The columns of the clips."""
    about = Feature((), "str", "JSON: what the owners say of the person and the recording")
    return columns.of_clip() | {ABOUT: about} | columns.of_speaker(
        audio=passage.RATE, pictures=size if pictures else None, rate=rate,
        pose=pictures and show == FACE)


def recipes(size: int, rate: float, show: str, *, pictures: bool = True) -> dict[str, dict]:
    """How the columns are made."""
    out = {"audio": passage.AUDIO_RECIPE}
    if pictures:
        out["pictures"] = {"kind": "recorded", "size": size, "rate": rate, "show": show}
        out["pictures"] |= {"margin": faces.MARGIN} if show == FACE else {}
        out |= {"pose": faces.RECIPE | {"rate": rate}} if show == FACE else {}
    return out


def read(root, size: int, rate: float, show: str | passage.Window, longest: float,
         item: Mapping[str, Any]) -> Iterator[dict]:
    """An item of a list -> its clip, or pieces of at most `longest` seconds, whose names have the
    number of their first picture. Raises store.Unusable.

    Args:
      item: id, speaker, about, place (of `entry`), and perhaps begin and end (seconds), sound
        (place of the file that is taken where the video is mute), mended, defect.
    """
    place, sound = Place(*item["place"]), item.get("sound")
    if item.get("defect"):
        raise store.Unusable(item["defect"], id=item["id"], where=str(place))
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(place.path(root))
        stack.enter_context(passage.left_out(item["id"], [path]))
        mute = sound and not passage.native_rate(path)
        beside = stack.enter_context(Place(*sound).path(root)) if mute else None
        found = passage.read(path, size=size, rate=rate, show=show, sound_of=beside,
                             begin=item.get("begin"), end=item.get("end"))
    found.mended[:0] = [*item.get("mended", ()), *["no sound in the video: that of the file beside "
                                                   "it"] * bool(mute)]
    for first, piece in found.pieces(rate, longest):
        whole = len(piece.pictures) == len(found.pictures)
        yield row(item if whole else item | {"id": f"{item['id']}-{first:06d}"}, piece.audio,
                  piece.mended) | {
            "pictures": piece.pictures, "portrait": passage.typical(piece.pictures)} | (
            {} if piece.pose is None else {"pose": piece.pose})


def row(item: Mapping[str, Any], audio, mended) -> dict:
    """What a clip has that is only heard."""
    return {"id": item["id"], "text": "", "mended": corpus.mended(*mended),
            ABOUT: json.dumps(item["about"]), "speaker": item["speaker"],
            "identity": columns.identity_of(item["speaker"]), "words": "[]", "audio": audio}


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
