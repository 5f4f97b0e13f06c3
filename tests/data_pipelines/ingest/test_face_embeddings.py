"""Face embeddings beside recordings and conversations: whose they are, what is refused, and the
column that TAVID's extraction reads."""

import json

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines import prepare
from data_pipelines.features.tavid.given_faces import GivenFaces
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest import test_conversations as talks

WIDTH = 6
OPTIONS = dict(face_embeddings=WIDTH, audio_only=True, progress=False)


def face(path, value, frames=None, width=WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((width,) if frames is None else (frames, width), value, np.float32))


def refused(file) -> dict[str, str]:
    rows = map(json.loads, file.read_text().splitlines())
    return {row["id"]: f"{row['reason']}: {row['detail']}" for row in rows}


def column(dataset, name) -> dict[str, float]:
    """{clip: the one number in its embedding}."""
    found = {}
    for split in dataset.splits:
        for row in dataset.source(split):
            assert row[name].shape == (WIDTH,) and len(set(row[name].tolist())) == 1
            found[row["id"]] = row[name][0]
    return found


def test_of_recordings(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for k, name in enumerate(("ann/one", "ann/two", "ben/one_audio", "ben/none", "ben/wide",
                              "ben/nan")):
        talks.write(source / f"{name}.wav", talks.speech(5.5, k))
    face(source / "ann.face.npy", 1)  # of all her recordings
    face(source / "ann" / "two.face.npy", [[2.0], [4.0]], frames=2)  # of several pictures
    face(source / "ben" / "one.face.npy", 5)
    face(source / "ben" / "wide.face.npy", 5, width=WIDTH + 1)
    face(source / "ben" / "nan.face.npy", np.nan)
    prepare.prepare("clips", source=source, out=out, **OPTIONS)
    bad = refused(out / "quarantine.jsonl")
    assert bad.keys() == {"ben.none", "ben.wide", "ben.nan"}
    assert "no face embedding" in bad["ben.none"] and "none.face.npy" in bad["ben.none"]
    assert "unusable face embedding" in bad["ben.wide"] and "(7,)" in bad["ben.wide"]
    assert "6 finite numbers" in bad["ben.nan"]

    def found():
        values = column(store.open_dataset(out / "clips"), "face_embedding")
        return {id.rpartition("-")[0]: value for id, value in values.items()}

    assert found() == {"ann.one": 1, "ann.two": 3, "ben.one": 5}
    face(source / "ben" / "none.face.npy", 7)  # taken in when it comes
    prepare.prepare("clips", source=source, out=out, **OPTIONS)
    assert found()["ben.none"] == 7
    with pytest.raises(UserError, match="other options"):
        prepare.prepare("clips", source=source, out=out, **OPTIONS | {"face_embeddings": 0})


def test_of_conversations(tmp_path):
    source, out, both = tmp_path / "source", tmp_path / "out", talks.channels()
    for k, talk in enumerate(("one", "two", "three", "four")):
        x = talks.channels(seed=100 * k)
        talks.write(source / talk / "ann.wav", x[:, 0])
        talks.write(source / talk / "ben.wav", x[:, 1])
    talks.write(source / "mixture" / "talk.wav", both.sum(1))
    talks.stm(source / "mixture" / "talk.stm")
    face(source / "ben.face.npy", 2)
    for talk, value, width in (("one", 1, WIDTH), ("two", 3, WIDTH), ("four", 4, 512)):
        face(source / talk / "ann.face.npy", value, width=width)
    options = OPTIONS | {"max_bad": 0.7}
    prepare.prepare("conversations", source=source, out=out, **options)
    bad = refused(tmp_path / "out.quarantine.jsonl")
    assert bad.keys() == {"three", "four", "mixture"}
    assert "none of ann" in bad["three"] and "ann.face.npy" in bad["three"]
    assert "unusable face embedding" in bad["four"] and "(512,)" in bad["four"]
    assert "none of those in the mixture" in bad["mixture"]
    clips = store.open_dataset(out)
    own, partner = column(clips, "face_embedding"), column(clips, "partner_face_embedding")
    for id, value in own.items():
        ann = {"one": 1, "two": 3}[id.partition("-")[0]]
        assert (value, partner[id]) == ((ann, 2) if id.endswith("/0") else (2, ann))

    given = GivenFaces("clips", clips, ("", "partner_"))
    row = next(iter(clips.source("train")))
    assert given.width == WIDTH and given(row, ["ann", "ben"]).shape == (2, WIDTH)

    face(source / "ben.face.npy", 9)
    with pytest.raises(UserError, match="refusing to overwrite"):  # made of others
        prepare.prepare("conversations", source=source, out=out, **options)
