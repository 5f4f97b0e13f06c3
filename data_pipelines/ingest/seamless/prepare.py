"""Seamless Interaction (CC-BY-NC 4.0), as its owners give it out -> clips of dialogues.

What a clip is: listing.py finds the files, side.py reads one side of an interaction, pieces.py cuts
long ones. Both sides of a dyad become a clip each, with the other as the partner.
"""

import concurrent.futures
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common import given_faces
from data_pipelines.ingest.common.recordings import AUDIO_RECIPE, SAMPLES
from data_pipelines.ingest.seamless import listing, phrases, pieces, said, seen
from data_pipelines.ingest.seamless import side as sides_of
from data_pipelines.ingest.seamless.seen import FPS
from data_pipelines.ingest.seamless.side import Side
from data_pipelines.media import faces, head_rotation, planes
from data_pipelines.store import columns as standard
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature, arrays_hash

DESCRIPTION = ("Seamless Interaction, by Meta (CC-BY-NC 4.0). Not taken over: SMPL-H, action "
               "units, emotions, gaze, hypernetwork features; BFI-2 and prompts.")
COLUMNS = ("sound", "motion", "video")
EXPRESSION = 128
BLEED = "bleed between microphones louder than -20 dB: kept"
_LOUD = 10 ** (-20 / 10)


def corpus(source, *, label: str = "both", columns: str = "video", movement: str | None = None,
           partners: bool = True, size: int = 96, max_seconds: float = 60.0,
           kept: pathlib.Path | None = None) -> common.Corpus:
    """See `prepare`."""
    root = pathlib.Path(source)
    if movement and columns == "sound":
        raise UserError("a face code without a face", where="--movement",
                        expected="--columns=motion or video", found="--columns=sound")
    labels = listing.LABELS if label == "both" else (label,)
    found = listing.find(root, labels, kept)
    if not found.sides:
        raise UserError("nothing of Seamless Interaction here", where=str(source),
                        expected=f"folders {', '.join(labels)}, in them train, dev or test",
                        found="none with files of an interaction",
                        hint="--source is the folder that holds `improvised` and `naturalistic`")
    items, alone, elsewhere = {}, 0, set()
    # of what is in two splits, train's is refused: what is held out stays so
    for split in sorted(found.sides, key=list(listing.SPLITS.values()).index, reverse=True):
        items[split], there = [], found.sides[split]
        for id, ids in listing.dyads(there).items():
            alone += len(ids) == 1
            groups = [ids] if partners else [[one] for one in ids]
            items[split] += [{"id": id if partners else group[0],
                              "label": there[group[0]]["label"],
                              "sides": {one: there[one]["files"] for one in group},
                              "twice": not elsewhere.isdisjoint(group),
                              "cut": sorted(found.cut.intersection(group))} for group in groups]
        elsewhere.update(there)
    found.told["interactions of which one side is missing"] += alone
    read = functools.partial(_clips, root, columns, movement or "", partners, size, max_seconds)
    return common.Corpus("seamless", DESCRIPTION, _features(columns, movement, partners, size),
                         dict(reversed(items.items())), read,
                         _recipes(columns, movement, partners, size),
                         {"pose": standard.POSE} if columns != "sound" else {}, found.told,
                         file_of=_file_of)


def prepare(
    source, out, *,
    label: Annotated[str, Option("kind of interactions", ("both", *listing.LABELS))] = "both",
    columns: Annotated[str, Option("what is taken over: sound and words; also points of the face "
                                   "and head pose; also pictures, the one that decodes videos",
                                   COLUMNS)] = "video",
    movement: Annotated[str | None, Option("the owners' features whose expression is taken as the "
                                           "face code; only where a file has them",
                                           listing.MOVEMENTS)] = None,
    partners: Annotated[bool, Option("clips of two speakers; without, every side is a clip of its "
                                     "own")] = True,
    size: Annotated[int, Option("side of the pictures, pixels", above=0)] = 96,
    max_seconds: Annotated[float, Option("longer interactions are cut, in silences of both",
                                         least=4)] = 60.0,
    face_embeddings: given_faces.FaceEmbeddings = None,
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True,
) -> dict | None:
    """Makes the clips OUT; returns the counts that it prints. See common.prepare."""
    options = dict(label=label, columns=columns, movement=movement, partners=partners, size=size,
                   max_seconds=max_seconds, face_embeddings=face_embeddings)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))


def _file_of(item: dict, clip: dict, prefix: str) -> str:
    """The owners' name of a side's file."""
    names = list(item["sides"])
    own = int(clip.get("side", 0))
    return names[1 - own if prefix else own]


def _clips(root: pathlib.Path, columns: str, movement: str, partners: bool, size: int,
           max_seconds: float, item: dict) -> Iterator[dict | store.Unusable]:
    """The clips of an interaction, and what of it cannot be used."""
    names = list(item["sides"])
    if item["twice"]:
        raise store.Unusable("in two splits", id=item["id"], found="the same in one that is held "
                             "out, where it stays")
    if partners and len(names) != 2:
        raise store.Unusable("partner missing" if len(names) == 1 else "more than two sides",
                             id=item["id"], expected="two files of an interaction",
                             found=", ".join(names),
                             hint="--nopartners takes every side by itself")
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:  # a thread a side
        yield from _of_sides(root, columns, movement, size, max_seconds, item, pool)


def _of_sides(root: pathlib.Path, columns: str, movement: str, size: int, max_seconds: float,
              item: dict, pool: concurrent.futures.Executor) -> Iterator[dict | store.Unusable]:
    def read(name: str) -> Side:
        files = sides_of.Files(root, name, item["sides"][name], name in item["cut"])
        return sides_of.read(files, columns, movement, size)

    sides = list(pool.map(read, item["sides"]))
    lengths = [s.frames for s in sides]
    if max(lengths) - min(lengths) > FPS:
        raise store.Unusable("lengths differ", id=item["id"], expected="sides that end together",
                             found=" and ".join(f"{n / FPS:.2f} s" for n in lengths))
    known = sides_of.pair(sides)
    _check_bleed(sides)
    for first, last in pieces.lost(known):
        yield store.Unusable("no face here", id=f"{item['id']}-{first:06d}",
                             where=f"{first / FPS:.2f} to {last / FPS:.2f} s",
                             expected="a valid box, sure keypoints"
                                      + (" and a valid face code" * bool(movement)))
    cuts = list(pieces.cut(known, [s.activity for s in sides], max_seconds))
    if not cuts:
        raise store.Unusable("too short", id=item["id"],
                             expected=f"{pieces.SHORTEST / FPS:g} s in which all is known",
                             found=f"{len(known) / FPS:.2f} s, {known.sum() / FPS:.2f} s known")
    crops = [_crops(s, size, cuts) for s in sides] if columns == "video" else None
    for first, last, note in cuts:
        try:
            shown = list(pool.map(next, crops)) if crops else [{}] * len(sides)
        except media.MediaError as error:
            yield store.Unusable(f"{error.reason}: video", id=f"{item['id']}-{first:06d}",
                                 found=str(error))
            return
        yield from _records(item, sides, shown, first, last, note)


def _records(item: dict, sides: Sequence[Side], shown: Sequence[dict], first: int, last: int,
             note: str) -> Iterator[dict]:
    """The clips of a piece: one a side."""
    spoken = [_within(s.words, first, last) for s in sides]
    events = phrases.events(spoken)
    mine = [_columns(s, w, pictures, first, last)
            for s, w, pictures in zip(sides, spoken, shown, strict=True)]
    notes = set().union(*(s.notes for s in sides), [note] if note else [])
    shared = {"label": item["label"], "mended": common.mended(*sorted(notes))}
    name = f"{item['id']}-{first:06d}"
    if len(sides) == 1:
        text = " ".join(word for word, *_ in spoken[0])
        yield {"id": name, "text": text, **shared, **mine[0]}
        return
    shared |= {"text": phrases.text(events), "events": json.dumps(events, ensure_ascii=False)}
    for k in (0, 1):
        yield {"id": f"{name}/{k}", "side": str(k), **shared, **mine[k],
               **{f"partner_{column}": value for column, value in mine[1 - k].items()}}


def _columns(side: Side, spoken, pictures: dict, first: int, last: int) -> dict:
    begin, end = first / FPS, last / FPS
    audio = side.audio[first * SAMPLES: last * SAMPLES] * 32767
    active = [[round(max(a, begin) - begin, 4), round(min(b, end) - begin, 4)]
              for a, b in side.activity if a < end and b > begin]
    out = {"speaker": side.speaker, "identity": standard.identity_of(side.speaker),
           "words": json.dumps([[w, round(a, 4), round(b, 4)] for w, a, b in spoken],
                               ensure_ascii=False),
           "audio": np.clip(np.round(audio), -32768, 32767).astype(np.int16),
           "activity": json.dumps(active),
           "annotations": said.within(side.annotations, begin, end)}
    if side.face is not None:
        pose = side.face.pose[first:last]
        out |= {"landmarks": side.face.points[first:last], "pose": pose,
                "pose_z": standard.standardised(pose)}
    if side.code is not None:
        out["face"] = side.code[first:last]
    return out | pictures


def _crops(side: Side, size: int, cuts: Sequence[tuple]) -> Iterator[dict]:
    """Pictures and portrait of each piece, in one pass over the video."""
    squares = planes.Squares(*side.face.cropper.squares(side.size[0]), size, side.size)
    frames = side.film.frames_at(FPS, cuts[-1][1])
    at = 0
    for first, last, _ in cuts:
        pictures = np.empty((last - first, size, size, 3), np.uint8)
        for k in range(at, last):
            frame = next(frames)
            if k >= first:
                pictures[k - first] = squares(k, *frame)
        at = last
        frontal = np.abs(side.face.pose[first:last, 0]).argmax()
        yield {"pictures": pictures, "portrait": pictures[frontal]}


def _within(words, first: int, last: int) -> list[tuple[str, float, float]]:
    """Words whose middle is in a piece, timed from its begin."""
    begin, end = first / FPS, last / FPS
    return [(w, max(a - begin, 0.0), min(b, end) - begin) for w, a, b in words
            if begin <= (a + b) / 2 < end]


def _check_bleed(sides: Sequence[Side]) -> None:
    """Notes where one microphone hears the other speaker: by the sound while only that one
    speaks."""
    if len(sides) != 2:
        return
    frames = sides[0].frames
    active, power = np.zeros((2, frames), bool), np.empty((2, frames))
    for k, side in enumerate(sides):
        power[k] = np.square(side.audio[: frames * SAMPLES].reshape(frames, SAMPLES)).mean(1)
        for start, end in side.activity:
            active[k, int(start * FPS): int(np.ceil(end * FPS))] = True
    for k in (0, 1):
        alone = active[1 - k] & ~active[k]
        quiet = ~active.any(0)
        floor = power[k, quiet].mean() if quiet.any() else 0.0
        leaked = power[k, alone].mean() - floor if alone.any() else 0.0
        if leaked > _LOUD * (power[1 - k, alone].mean() if alone.any() else 1.0):
            sides[k].notes.add(BLEED)


def _features(columns: str, movement: str | None, partners: bool, size: int) -> dict[str, Feature]:
    out = standard.of_clip() | {"label": Feature((), "str", " or ".join(listing.LABELS))}
    out |= standard.of_dialogue() if partners else {}
    for prefix in standard.PREFIXES[: 1 + partners]:
        out |= standard.of_speaker(
            prefix, pictures=size if columns == "video" else None,
            landmarks=seen.POINTS if columns != "sound" else None,
            face=EXPRESSION if movement else None, pose=columns != "sound",
            pose_z=columns != "sound", activity=True)
        out[f"{prefix}annotations"] = Feature((), "str", "JSON {kind: [{annotation, start_ts, "
                                              "end_ts}, ...]} by people, where there are any", "s")
    return out


def _recipes(columns: str, movement: str | None, partners: bool, size: int) -> dict[str, dict]:
    out = {"audio": AUDIO_RECIPE}
    if columns != "sound":
        points = {"kind": "coco-wholebody-68", "rate": FPS, "unit": "sides of the crop",
                  "margin": faces.MARGIN}
        pose = {**faces.RECIPE, **head_rotation.RECIPE, "rate": FPS}
        out |= {"landmarks": points, "pose": pose,
                "pose_z": pose | {"codec": arrays_hash(standard.POSE)}}
    if columns == "video":
        out["pictures"] = {"kind": "recorded", "size": size, "rate": FPS, "margin": faces.MARGIN,
                           "face": "coco-wholebody-68"}
    if movement:
        out["face"] = {"kind": f"seamless {movement}:expression", "rate": FPS,
                       "width": EXPRESSION}
    return {f"{prefix}{name}": recipe for prefix in standard.PREFIXES[: 1 + partners]
            for name, recipe in out.items()}
