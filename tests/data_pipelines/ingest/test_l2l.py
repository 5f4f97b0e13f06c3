"""Learning to Listen as its owners lay it out."""

import json
import shutil
import tarfile

import numpy as np
import pytest

from data_pipelines import prepare as preparing
from data_pipelines.ingest.l2l import prepare as reader
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest import code_trees as trees
from tests.data_pipelines.ingest.reading import clips_of, made


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """conan in its tar, fallon on disk with defects; ({folder/split/listener: arrays}, root)."""
    root = tmp_path_factory.mktemp("l2l")
    found = {}
    for split, count in (("train", 70), ("test", 3)):  # 70: more than a block
        found["conan", split] = trees.listening(root / "aside/conan" / split, 0, count)
    with tarfile.open(root / "conan_data.tar", "w") as archive:
        archive.add(root / "aside/conan", "conan")
    shutil.rmtree(root / "aside")
    odd = root / "fallon/train"
    found["fallon", "train"] = trees.listening(odd, 1, 3)
    faces = np.load(odd / "p1_list_faces_clean_deca.npy")
    faces[0, :2], faces[1, :40] = np.nan, np.inf
    trees.save(odd / "p1_list_faces_clean_deca.npy", faces)
    names = np.load(odd / "p0_speak_files_clean_deca.npy")
    trees.save(odd / "p0_speak_files_clean_deca.npy", names.astype(object), allow_pickle=True)
    trees.listening(root / "trevor/train", 0, 2)
    trees.save(root / "trevor/train/p1_speak_faces_clean_deca.npy",
               np.zeros((1, 64, 184), np.float32))
    trees.listening(root / "kimmel/test", 0, 0)
    trees.listening(root / "stephen/train", 0, 65)
    path = root / "stephen/train/p0_list_faces_clean_deca.npy"  # two blocks, cut short
    path.write_bytes(path.read_bytes()[:-4])
    (root / "devi2/test").mkdir(parents=True)
    trees.listening(root / "devi2/test", 0, 2)
    (root / "devi2/test/p1_speak_audio_clean_deca.npy").unlink()
    return root, found


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "l2l"
    return out, *made("l2l", tree[0], out)


def test_every_defect_is_named(prepared):
    _, clips, refused, told = prepared
    assert refused == {"fallon-train-p1-000001": "most frames are missing",
                       "trevor-train-p0-000000": "numbers of clips differ",
                       "kimmel-test-p0-000000": "no clips",
                       "stephen-train-p0-000000": "an array is cut short",
                       "devi2-test-p0-000000": "a file is missing"}
    assert clips["fallon-train-p1-000000"]["mended"] == [
        "frames that are not finite, interpolated"]
    assert clips["fallon-train-p1-000002"]["origin"] == ""  # its names are pickled objects
    assert told[reader.UNNAMED] == 2  # and kimmel's, which are no text
    assert told["clips of train"] == 70 + 2 and told["clips of test"] == 3


def test_who_listens_is_paired_with_who_speaks(prepared, tree):
    """Expression comes first, then the pose; clip i of p0 listening is clip i of p1 speaking."""
    _, clips, _, _ = prepared
    for split, i in (("train", 69), ("test", 0)):
        clip, arrays = clips[f"conan-{split}-p0-{i:06d}"], tree[1]["conan", split]
        assert clip["split"] == split
        assert (clip["speaker"], clip["partner_speaker"]) == ("conan-p0", "conan-p1")
        for prefix, name in (("", "p0_list_faces"), ("partner_", "p1_speak_faces")):
            whole = np.concatenate([clip[prefix + k] for k in ("face", "rotation", "jaw")], 1)
            np.testing.assert_array_equal(whole, arrays[name][i, :, :56].astype(np.float32))
        np.testing.assert_array_equal(clip["partner_spectrogram"],
                                      arrays["p1_speak_audio"][i].astype(np.float32))
        assert json.loads(clip["origin"]) == ["video1", str(64 * i), str(64 * i + 63)]


def test_dims_conversions_have_the_pose_first(tmp_path):
    arrays = trees.listening(tmp_path / "vico/train", 0, 1, width=56)
    trees.listening(tmp_path / "vico/test", 0, 1, width=56)
    clips, _, _ = made("l2l", tmp_path, tmp_path / "out", order="pose")
    clip = clips["vico-train-p0-000000"]
    whole = np.concatenate([clip[k] for k in ("rotation", "jaw", "face")], 1)
    np.testing.assert_array_equal(whole, arrays["p0_list_faces"][0].astype(np.float32))


def test_a_killed_job_goes_on(prepared, tree, tmp_path, monkeypatch):
    read, seen, kills = reader.Listing.read, [], iter([True])

    def killed(self, item):
        seen.append(tuple(item[:4]))
        for i, clip in enumerate(read(self, item)):
            if i == 3 and next(kills, False):  # in the middle of a block
                raise KeyboardInterrupt
            yield clip

    arguments = dict(source=str(tree[0]), out=str(tmp_path / "again"), progress=False)
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(reader.Listing, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare("l2l", **arguments)
    preparing.prepare("l2l", **arguments)
    assert clips_of(tmp_path / "again").keys() == prepared[1].keys()
    assert len(seen) == len(set(seen)) + 1  # the block that it was killed in
