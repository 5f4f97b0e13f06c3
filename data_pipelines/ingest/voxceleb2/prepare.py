"""VoxCeleb2 (CC-BY 4.0 for the tracks' metadata, the videos their owners'): faces cut out of
interviews, 224 x 224 at 25 a second, and who speaks -> clips.

    {dev,test}/mp4/id00012/21Uxsk56VDQ/00001.mp4    tracks with their sound
    {dev,test}/aac/id00012/21Uxsk56VDQ/00001.m4a    the sound alone; also as wav
    vox2_meta.csv                                   identity, VGGFace2's, gender, dev or test

as folders under any other, as zip files (vox2_test_mp4.zip) or as their pieces
(vox2_dev_mp4_partaa, ...), which need not be joined or unpacked. The whole picture is the crop; the
speaker is the identity. Sets are the owners': test, and dev, of which a share of the identities is
held out as valid, by a hash of their names.

There are no words: for pictures, face to voice (--features=tavid), and units.
"""

import functools
import pathlib
from collections import Counter
from typing import Annotated, Any

from avjax.errors import UserError
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common import given_faces, holdout, passage, pictured
from data_pipelines.ingest.voxceleb2 import listing
from data_pipelines.media.archives import Place
from data_pipelines.store import dataset as store

SHOW = (passage.PICTURE, passage.FACE)


def prepare(
    source, out, *, size: pictured.Size = pictured.SIZE, rate: pictured.Rate = pictured.RATE,
    show: Annotated[str, Option("the picture as it was cut out, or a face that is followed in "
                                "it", SHOW)] = passage.PICTURE,
    landmarks: pictured.Landmarks = None,
    audio_only: Annotated[bool, Option("sound without pictures")] = False,
    per_identity: Annotated[int, Option("at most so many clips of an identity, in turn of each of "
                                        "its videos; 0: all", least=0)] = 0,
    valid_share: Annotated[float, Option("share of the identities of dev that is held out",
                                         least=0, below=1)] = 0.01,
    face_embeddings: given_faces.FaceEmbeddings = None,
    max_seconds: pictured.MaxSeconds = pictured.MAX_SECONDS, max_bad: MaxBad = 0.5, parallel=None,
    progress: bool = True,
) -> dict | None:
    """Makes the clip dataset OUT of VoxCeleb2; see data_pipelines/ingest/common/corpus.py."""
    options = dict(size=size, rate=rate, show=show, landmarks=landmarks, audio_only=audio_only,
                   per_identity=per_identity, valid_share=valid_share, max_seconds=max_seconds,
                   face_embeddings=face_embeddings)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


def corpus(source: pathlib.Path, *, size: int = pictured.SIZE, rate: float = pictured.RATE,
           show: str = passage.PICTURE, landmarks: str | None = None, audio_only: bool = False,
           per_identity: int = 0, valid_share: float = 0.01,
           max_seconds: float = pictured.MAX_SECONDS) -> common.Corpus:
    """Lists VoxCeleb2. Raises UserError: nobody says whether it is dev or test."""
    shown = pictured.Shown(size, rate, None if audio_only else show, landmarks, max_seconds)
    told = Counter()
    known, found = listing.table(source), listing.utterances(source, told)
    if not known and (lost := [one for one in found if not one.sets]):
        raise UserError("dev or test?", where=str(lost[0].video or lost[0].sound),
                        expected=f"dev or test in the path, or {listing.META}", found="neither",
                        hint=f"put {listing.META} into --source")
    if not audio_only:
        told["sound without pictures"] = sum(one.video is None for one in found)
        if found and not any(one.video for one in found):
            raise UserError("no pictures here", where=str(source), expected="mp4 files",
                            found=f"{len(found)} sound files", hint="--audio_only")
        found = [one for one in found if one.video]
    if per_identity:
        kept = listing.few(found, per_identity)
        told["left out by --per_identity"] = len(found) - len(kept)
        found = kept
    told["without vox2_meta.csv, sets by folder"] = 0 if known else len(found)
    held_out = holdout.by_name({one.identity for one in found if one.set(known) == "dev"
                                and not listing.defect(one, known)}, valid_share)
    items = {split: [] for split in ("train", "valid", "test")}
    for one in found:
        split = "valid" if one.identity in held_out else "train"
        split = "test" if one.set(known) == "test" else split
        items[split].append(_item(one, known, audio_only))
    return common.Corpus(
        name="voxceleb2", items={split: some for split, some in items.items() if some},
        features=shown.features(), recipes=shown.recipes(), told=told,
        description="VoxCeleb2 by J. S. Chung, A. Nagrani and A. Zisserman. Sets: the owners'; "
                    f"{valid_share:.1%} of dev's identities are valid.",
        read=functools.partial(heard, source) if audio_only else
        functools.partial(pictured.read, source, shown))


def heard(root: pathlib.Path, item: dict[str, Any]) -> dict:
    """One utterance -> its clip without pictures. Raises store.Unusable."""
    place = Place(*item["place"])
    if item["defect"]:
        raise store.Unusable(item["defect"], id=item["id"], where=str(place))
    with place.path(root) as path, common.left_out(item["id"], [path]):
        found, mended = passage.sound(path)
        return pictured.row(item, passage.samples(found.samples), mended)


def _item(one: listing.Utterance, known, audio_only: bool) -> dict[str, Any]:
    about = {k: v for k, v in known.get(one.identity, {}).items() if k != "set"}
    place = (one.sound or one.video) if audio_only else one.video
    return {"id": one.id, "speaker": one.identity, "about": about | {"video": one.recording},
            "place": pictured.entry(place), "sound": pictured.entry(one.sound),
            "defect": listing.defect(one, known)}


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
