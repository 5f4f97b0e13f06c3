"""Every reader of a named corpus: shared by several workers, and killed and started again, the
dataset is the one that a single undisturbed process makes."""

import errno
import functools
import json
import shutil

import pytest
import soundfile

from avjax.errors import StorageError, UserError
from data_pipelines import prepare as preparing
from data_pipelines.ingest.common import corpus
from data_pipelines.media import MediaError
from data_pipelines.store import columns
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest import code_trees, fisher_tree, seamless_tree, small_films
from tests.data_pipelines.ingest.reading import refusals

SIZE = 16


def ljspeech(root):
    (root / "wavs").mkdir()
    (root / "metadata.csv").write_text("".join(f"LJ001-000{k}|Text {k}|Text {k}\n"
                                               for k in range(5)))
    for k in range(4):  # the fifth has no wav
        soundfile.write(root / f"wavs/LJ001-000{k}.wav", small_films.tone(0.7 + k / 10, 22050),
                        22050)
    return {}


def voxceleb2(root):
    film = small_films.film(root / "dev/mp4/id00001/a/00001.mp4", 2.1)
    for place in ("dev/mp4/id00001/b/00001", "dev/mp4/id00002/a/00001", "test/mp4/id00003/a/00001"):
        (root / place).parent.mkdir(parents=True)
        shutil.copy(film, root / f"{place}.mp4")
    (root / "dev/mp4/id00001/b/00002.mp4").write_bytes(b"")
    return {"size": SIZE, "rate": 5.0}


def hdtf(root):
    film = small_films.film(root / "Ann_0.mp4", 2.1)
    for name in ("Ann_1", "Bob_0", "Radio1_0"):
        shutil.copy(film, root / f"{name}.mp4")
    (root / "Bob_1.mp4").write_bytes(b"")
    return {"size": SIZE, "rate": 5.0}


def talkvid(root):
    film = small_films.film(root / "c0.mp4", 2.1)
    entries = []
    for k in range(4):
        if k:
            shutil.copy(film, root / f"c{k}.mp4")
        entries.append({"id": f"c{k}", "start-time": 0.1, "end-time": 2.2, "info": {
            "Person ID": str(k // 2), "Video Link": f"https://youtu.be/v{k}"}})
    (root / "clips.json").write_text(json.dumps([*entries, entries[0]]))
    return {"size": SIZE, "rate": 5.0, "show": "middle"}


def seamless(root):
    for split, interaction in (("train", 1), ("dev", 2)):
        name = f"V00_S0001_I{interaction:08d}"
        seamless_tree.write_tar(
            root / "improvised" / split / "0000" / f"000{interaction}.tar",
            {f"{name}_P0001": seamless_tree.side(0), f"{name}_P0002": seamless_tree.side(1)})
    return {"columns": "sound"}


def audio2photoreal(root):
    for number in range(1, 10):
        code_trees.scene(root / "PXB184", number, 40, tokens=False)
    (root / "PXB184/scene02_body_pose.npy").unlink()
    code_trees.statistics(root / "PXB184/data_stats.pth")
    return {}


def avflow50h(root):
    code_trees.fifty_hours(root)
    return {}


def l2l(root):
    for split in ("train", "test"):
        code_trees.listening(root / "conan" / split, 0, 3)
    return {}


def fisher(root):
    tree = fisher_tree.Tree(root)
    for k in range(3):
        tree.call(f"0000{k}", pins=(f"100{k}", f"200{k}"))
    tree.call("00009", sound=b"")
    tree.tables()
    return {"max_bad": 0.5}


CORPORA = [ljspeech, voxceleb2, hdtf, talkvid, seamless, audio2photoreal, avflow50h, l2l, fisher]
ELSEWHERE = {"vico"}  # needs faces: test_vico.py


def test_every_reader_is_here():
    readers = {name for name in preparing.names() if isinstance(
        made_of := preparing.load(name).made_of, functools.partial)
        and made_of.func is corpus.made_of}
    assert readers == {one.__name__ for one in CORPORA} | ELSEWHERE


@pytest.mark.parametrize("reader", CORPORA, ids=lambda one: one.__name__)
def test_shared_or_killed_it_is_the_same_dataset(reader, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    options = reader(source)
    prepare = functools.partial(preparing.prepare, reader.__name__, source=str(source),
                                progress=False, **options)
    told = prepare(out=tmp_path / "one")
    many = prepare(out=tmp_path / "many", parallel=Workers())

    read, items = corpus._clips, []

    def counted(kill, reader_of, item):
        items.append(json.dumps(item, default=str))
        if len(items) == kill:
            raise KeyboardInterrupt
        yield from read(reader_of, item)

    monkeypatch.setattr(store, "SHARD_BYTES", 1)  # every clip is a shard, whole or not begun
    monkeypatch.setattr(corpus, "_clips", functools.partial(counted, 2))
    with pytest.raises(KeyboardInterrupt):
        prepare(out=tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    monkeypatch.setattr(corpus, "_clips", functools.partial(counted, 0))
    prepare(out=tmp_path / "killed")
    # what was being read, and what could not be used just before it, at most
    assert len(items) - len(set(items)) <= 2

    one = store.open_dataset(tmp_path / "one")
    for name in ("many", "killed"):
        other = store.open_dataset(tmp_path / name)
        assert other.ids == one.ids and other.recipes == one.recipes
        assert refusals(other.dir) == refusals(one.dir)
        for split in one.splits:
            for a, b in zip(one.source(split), other.source(split), strict=True):
                assert all(a[k] == b[k] if isinstance(a[k], str) else
                           a[k].tobytes() == b[k].tobytes() for k in a)
    assert told == many
    assert not list(tmp_path.glob(".*.partial"))


def test_an_empty_split_is_known_before_train_is_read(tmp_path):
    read = []

    def reader(item):
        read.append(item["id"])
        raise store.Unusable("no sound")

    def listed(source):
        return corpus.Corpus("toy", "A toy.", columns.of_clip() | columns.of_speaker(audio=22050),
                             {split: [{"id": split}] for split in ("train", "valid")}, reader)

    with pytest.raises(UserError, match="empty split; where: valid.*no sound"):
        corpus.prepare(listed, tmp_path, tmp_path / "out", {}, max_bad=1.0, progress=False)
    assert read == ["valid"]


def test_what_is_the_fault_of_an_item_and_what_is_not(tmp_path):
    own = tmp_path / "own.wav"
    for error, reason in ((MediaError("silent", own), "silent"), (ValueError("odd"), "unreadable"),
                          (store.Unusable("too short"), "too short"),
                          (FileNotFoundError(errno.ENOENT, "gone", str(own)), "unreadable")):
        with pytest.raises(store.Unusable) as caught, corpus.left_out("a", [own]):
            raise error
        assert (caught.value.id, caught.value.reason) == ("a", reason)
    for error, raised in ((UserError("a package is missing"), UserError),
                          (MediaError("unreadable", own), StorageError),
                          (FileNotFoundError(errno.ENOENT, "gone", "other"), FileNotFoundError)):
        with pytest.raises(raised) as caught, corpus.left_out("a", [own]):
            if raised is StorageError:  # whatever it is called
                raise error from OSError(errno.EMFILE, "too many open files")
            raise error
        assert not isinstance(caught.value, store.Unusable)


class Workers:
    """What a runner promises: every part at least once, in any order."""

    parts = 2

    def for_each(self, function, items):
        items = list(items)
        for item in [*reversed(items), items[0]]:
            function(item)
