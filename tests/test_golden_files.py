"""Recordings of other folders: what they lack is skipped by name; what ours lacks is an error."""

import numpy as np
import pytest

from tests import golden_files
from tests.golden_files import HERE, cases, golden, matching, numbered, recordings, some, under


@pytest.fixture
def other(tmp_path, monkeypatch):
    np.savez(tmp_path / "net_small.npz", **{"sd/w": np.ones(2), "out_0": np.ones(1),
                                            "out_1": np.zeros(1), "rate16/x": 1})
    monkeypatch.setenv("AVJAX_GOLDEN_DIR", str(tmp_path))
    return recordings("net")[0][1]


def skipped(call) -> str:
    with pytest.raises(pytest.skip.Exception) as caught:
        call()
    return str(caught.value)


def test_what_another_folder_lacks_is_skipped_by_name(other, tmp_path):
    assert skipped(lambda: other["hidden"]) == f"{tmp_path} has no net_small.npz: hidden"
    assert skipped(lambda: under(other, "train/")) == f"{tmp_path} has no net_small.npz: train/*"
    assert skipped(lambda: under(other,
                                 "sd/")["bias"]) == f"{tmp_path} has no net_small.npz: sd/bias"
    assert skipped(lambda: (other | {"more": 1})["hidden"]).endswith("net_small.npz: hidden")
    assert "clip_" in skipped(lambda: numbered(other, "clip_"))
    assert skipped(lambda: some("absent")) == f"{tmp_path} has no absent*.npz"
    for params in (golden("absent"), cases("absent"), cases("net", key=("a/", "b/"))):
        (case,) = params
        assert case.marks[0].name == "skip" and str(tmp_path) in case.marks[0].args[0]
    assert cases("net", key=("a/", "b/"))[0].marks[0].args[0].endswith("net*.npz with a/* or b/*")


def test_counts_come_from_the_file(other):
    assert [x[0] for x in numbered(other, "out_")] == [1, 0]
    assert matching(other, r"rate(\d+)/x") == ["16"]
    assert [case.id for case in golden("net", key="sd/")] == ["net_small.npz"]
    assert some("net").keys() == other.keys()


def test_our_own_folder_must_have_everything(monkeypatch):
    monkeypatch.delenv("AVJAX_GOLDEN_DIR", raising=False)
    assert golden_files.folder() == HERE
    with pytest.raises(FileNotFoundError, match="absent"):
        golden("absent")
    with pytest.raises(KeyError, match="metrics.npz: absent"):
        some("metrics")["absent"]
