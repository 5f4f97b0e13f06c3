"""Face embeddings beside recordings and conversations, and tables of them, of named corpora as
well: whose they are, what is refused, and the column that TAVID's extraction reads."""

import json
import shutil

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines import prepare
from data_pipelines.features.tavid.given_faces import GivenFaces
from data_pipelines.ingest.common import given_faces
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest import test_conversations as talks
from tests.data_pipelines.ingest import test_every_corpus as corpora
from tests.data_pipelines.ingest.reading import made

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


def table(path, names, *, width=WIDTH):
    """A table of random embeddings; {name: embedding} of it."""
    x_NF = np.random.default_rng().standard_normal((len(names), width)).astype(np.float32)
    if path.suffix == ".npz":
        np.savez(path, names=np.array(names), embeddings=x_NF)
    else:
        lines = [",".join(map(str, [name, *x_F.tolist()]))
                 for name, x_F in zip(names, x_NF, strict=True)]
        path.write_text("\n".join(["name," + "x," * (width - 1) + "x", *lines]) + "\n")
    return dict(zip(names, x_NF, strict=True))


# what each clip is called in the table: by a speaker, a file's place, a clip's id
CORPORA = {
    "voxceleb2": (corpora.voxceleb2, {
        "id00001.a.00001": "id00001/a/00001.mp4", "id00002.a.00001": "id00002",
        "id00003.a.00001": "id00003.a.00001"}, {"id00001.b.00001"}),
    "hdtf": (corpora.hdtf, {"Ann_0": "Ann_0.mp4", "Bob_0": "Bob", "Radio1_0": "Radio1_0"},
             {"Ann_1"}),
    "talkvid": (corpora.talkvid, {"c0": "c0.mp4", "c2": "c2", "c3": "person-1"}, {"c1"}),
    "seamless": (corpora.seamless, {
        "V00_S0001_I00000001-000000/0": "V00_S0001_I00000001_P0001",
        "V00_S0001_I00000001-000000/1": "V00_P0002",
        "V00_S0001_I00000002-000000/0": "V00_S0001_I00000002/V00_P0001",
        "V00_S0001_I00000002-000000/1": "V00_P0002"}, set())}


@pytest.mark.parametrize("kind", CORPORA)
def test_tables_of_named_corpora(kind, tmp_path):
    write, called, lacking = CORPORA[kind]
    source, out, file = tmp_path / "source", tmp_path / "out", tmp_path / "table.npz"
    source.mkdir()
    options = write(source)
    file = file.with_suffix(".csv" if kind == "hdtf" else ".npz")
    given = table(file, [*dict.fromkeys(called.values()), "somebody else"])
    clips, refused, _ = made(kind, source, out, max_bad=.9, face_embeddings=str(file), **options)
    assert {id for id, why in refused.items() if why == "no face embedding"} == lacking
    assert clips.keys() == called.keys()
    for id, name in called.items():
        np.testing.assert_array_equal(clips[id]["face_embedding"], given[name])
        if id.endswith(("/0", "/1")):
            other = called[f"{id[:-1]}{1 - int(id[-1])}"]
            np.testing.assert_array_equal(clips[id]["partner_face_embedding"], given[other])
    before = prepare.load(kind).made_of({"source": source, "face_embeddings": file, **options})
    moved = shutil.move(file, tmp_path / f"moved{file.suffix}")  # the same, elsewhere
    asked = {"source": source, "face_embeddings": str(moved), **options}
    assert prepare.load(kind).made_of(asked) == before
    table(moved, [*given])
    assert prepare.load(kind).made_of(asked) != before


def test_files_of_a_named_corpus(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    options = corpora.hdtf(source)
    for name, value in (("Ann", 1), ("Ann_1", 2), ("Bob", 3), ("RD_Radio1", 4)):
        face(source / f"{name}.face.npy", value)
    clips, _, _ = made("hdtf", source, tmp_path / "out", face_embeddings=WIDTH, **options)
    assert {id: clip["face_embedding"][0] for id, clip in clips.items()} == {
        "Ann_0": 1, "Ann_1": 2, "Bob_0": 3, "Radio1_0": 4}
    face(source / "Bob.face.npy", 3, width=WIDTH + 1)
    with pytest.raises(UserError, match="not a face embedding of this model.*Bob.face.npy"):
        made("hdtf", source, tmp_path / "again", face_embeddings=WIDTH, **options)


def test_a_table_of_recordings_and_conversations(tmp_path):
    source, file = tmp_path / "source", tmp_path / "table.csv"
    for k, name in enumerate(("ann/one", "ann/two", "ben/one_audio", "cy/one")):
        talks.write(source / f"{name}.wav", talks.speech(5.5, k))
    given = table(file, ["ann", "ann/two.wav", "ben.one"])
    options = OPTIONS | {"face_embeddings": str(file)}
    prepare.prepare("clips", source=source, out=tmp_path / "out", **options)
    assert refused(tmp_path / "out" / "quarantine.jsonl").keys() == {"cy.one"}
    called = {"ann.one": "ann", "ann.two": "ann/two.wav", "ben.one": "ben.one"}
    clips = store.open_dataset(tmp_path / "out" / "clips")
    for split in clips.splits:
        for row in clips.source(split):
            name = called[row["id"].rpartition("-")[0]]
            np.testing.assert_array_equal(row["face_embedding"], given[name])
    prepare.prepare("clips", source=source, out=tmp_path / "out", **options)  # nothing to do
    table(file, [*given, "cy"])
    with pytest.raises(UserError, match="other options"):
        prepare.prepare("clips", source=source, out=tmp_path / "out", **options)

    source = tmp_path / "talks"
    for k, talk in enumerate(("one", "two", "three")):
        for who, channel in zip(("ann", "ben"), talks.channels(seed=100 * k).T, strict=True):
            talks.write(source / talk / f"{who}.wav", channel)
    given = table(file, ["one/ann", "two/ann.wav", "ben"])
    prepare.prepare("conversations", source=source, out=tmp_path / "both", **options,
                    max_bad=0.7)
    assert refused(tmp_path / "both.quarantine.jsonl").keys() == {"three"}
    clips = store.open_dataset(tmp_path / "both")
    for split in clips.splits:
        for row in clips.source(split):
            talk = row["id"].partition("-")[0]
            pair = [given[{"one": "one/ann", "two": "two/ann.wav"}[talk]], given["ben"]]
            pair = pair if row["id"].endswith("/0") else pair[::-1]
            np.testing.assert_array_equal(row["face_embedding"], pair[0])
            np.testing.assert_array_equal(row["partner_face_embedding"], pair[1])


@pytest.mark.parametrize(("text", "words"), [
    ("a,1,2\nb,1\n", "not a face embedding.*line 2.*a name and 2 numbers"),
    ("a,1,2\nb,1,x\n", "not a face embedding.*line 2"),
    ("a,1,2\nb,nan,1\n", "not a face embedding.*, b.*NaN"),
    ("a,1,2\nb,0,0\n", "not a face embedding.*, b.*zeros"),
    ("a/b.mp4,1,2\na_b,1,3\n", "two face embeddings of one name.*a_b"),
    ("name,1,2\n", "a table without face embeddings"),
    ("", "a table without face embeddings")])
def test_a_table_that_is_none(text, words, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        given_faces.read_table(str(path))


def test_other_files_that_are_no_tables(tmp_path):
    path = tmp_path / "table.npz"
    for arrays in ({"names": ["a"]}, {"names": ["a", "b"], "embeddings": np.ones((1, 2))},
                   {"names": [1], "embeddings": np.ones((1, 2))}):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match="not a table of face embeddings"):
            given_faces.read_table(str(path))
    path.write_bytes(b"PK?")
    with pytest.raises(UserError, match="not a table of face embeddings"):
        given_faces.read_table(str(path))
    for wrong in (tmp_path / "absent.csv", tmp_path, "512.5"):
        with pytest.raises(UserError, match="no table of face embeddings"):
            given_faces.asked(str(wrong))
