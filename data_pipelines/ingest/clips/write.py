"""Checked recordings -> the clip dataset."""

import collections
import itertools
import math
import pathlib

import numpy as np

from avjax.codecs import eigenface
from data_pipelines.ingest.common import given_faces, recordings
from data_pipelines.ingest.common.recording import codec_recipes, landmark_features, pose_codec
from data_pipelines.ingest.common.recordings import FPS
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import FACE_EMBEDDING, identity_of, of_face
from data_pipelines.store.schema import Feature

FIT_FRAMES = 1200  # face crops that a codec is fitted on, spread evenly
_FACE_COLUMNS = ("face", "pose", "pose_z", "landmarks")


def write_clips(out: pathlib.Path, paths: dict, pieces: dict, options: dict,
                progress: bool) -> None:
    """Writes the dataset `out`.

    Args:
      paths: {source: file of its decoded recording}.
      pieces: of holdout.plan.
      options: of prepare.
    """
    with_face = not options["audio_only"]
    width = given_faces.width_of(options["face_embeddings"])
    codecs = None
    if with_face:
        stored, faces_of = _fit(paths, pieces, options)
        pose = pose_codec(np.concatenate([recording.pose[a:b] for _, recording, a, b in
                                          _recorded(paths, pieces["train"])]))
        codecs = {"face": stored, "pose": pose}
    counts = collections.Counter(item.id for part in pieces.values() for item, _, _ in part)

    def examples(split):
        for item, recording, a, b in _recorded(paths, pieces[split]):
            in_one_piece = counts[item.id] == 1 and (
                recording.kept is None or b - a == len(recording.crops))
            row = {"id": f"{item.id}-{a:06d}", "speaker": item.speaker, "words": "[]",
                   "phonemes": "[]", "text": recordings.text_of(item) if in_one_piece else "",
                   "identity": identity_of(item.speaker),
                   "audio": recording.audio[a * recordings.SAMPLES : b * recordings.SAMPLES]}
            if with_face:
                row |= {"face": faces_of[item.speaker].encode(recording.crops[a:b]),
                        "pose": recording.pose[a:b],
                        "pose_z": (recording.pose[a:b] - pose["mean"]) / pose["std"]}
            if width:
                row[FACE_EMBEDDING] = given_faces.read(item.face, width, item.files[0])
            if recording.landmarks is not None:
                row["landmarks"] = recording.landmarks[a:b]
            yield row

    recipes = {"audio": recordings.AUDIO_RECIPE}
    if with_face:
        recipes |= codec_recipes(options["size"], options["components"], options["landmarks"],
                                 codecs)
    store.write_dataset(
        out, name="clips", description="A user's own recordings, made by avjax prepare "
                                       "--dataset=clips.",
        features={k: f for k, f in columns(options["components"], options["landmarks"]).items()
                  if with_face or k not in _FACE_COLUMNS}
        | ({FACE_EMBEDDING: of_face(width)} if width else {}),
        splits={split: examples(split) for split in pieces}, recipes=recipes,
        codecs=codecs,
        totals={split: len(part) for split, part in pieces.items()}, progress=progress)


def _recorded(paths: dict, part: list[tuple]):
    """(source, its recording, first frame, last + 1) of every piece; a recording in several pieces
    is read once."""
    for item, mine in itertools.groupby(part, key=lambda piece: piece[0]):
        recording = recordings.load(paths[item])
        for _, a, b in mine:
            yield item, recording, a, b


def _fit(paths: dict, pieces: dict, options: dict) -> tuple[dict, dict]:
    """One codec a speaker, on frames spread evenly over the training pieces: (stored arrays,
    {speaker: codec})."""
    fitted = {}
    for speaker in sorted({item.speaker for item, _, _ in pieces["train"] + pieces["valid"]}):
        mine = [(item, a, b) for item, a, b in pieces["train"] if item.speaker == speaker]
        step = max(1, math.ceil(sum(b - a for _, a, b in mine) / FIT_FRAMES))
        # a view keeps all
        crops = [recording.crops[a:b:step].copy() for _, recording, a, b in _recorded(paths, mine)]
        fitted[speaker] = eigenface.fit(np.concatenate(crops), options["components"])
    return eigenface.pack(fitted), fitted


def columns(components: int, landmarks: str | None = None) -> dict[str, Feature]:
    """The columns of a clip dataset with faces."""
    turn = "wxyz" if landmarks else "wxyz (roll only)"
    return landmark_features(landmarks) | {
        "id": Feature((), "str", "unique name: recording and first frame"),
        "speaker": Feature((), "str", "folder or file that the recording came from"),
        "text": Feature((), "str",
                        "transcript, where one was given and the recording is in one piece"),
        "words": Feature((), "str", "JSON [[word, start, end], ...]", "s"),
        "phonemes": Feature((), "str", "JSON [[phoneme, start, end], ...]", "s"),
        "identity": Feature((8,), "float32", "unit vector derived from the speaker's name"),
        "audio": Feature((None,), "int16", "mono waveform", "1/32768", recordings.RATE),
        "face": Feature((None, components), "float32",
                        "z-scored eigenface codes of the speaker's own codec", "", FPS),
        "pose": Feature((None, 7), "float32",
                        f"head: quaternion {turn}, x right, y up, z away", "face widths", FPS),
        "pose_z": Feature((None, 7), "float32", "pose, z-scored over the training clips", "", FPS),
    }
