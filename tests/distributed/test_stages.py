"""A stage that extracts features is shared by all hosts, and goes on with another number of
them."""

import json
import signal

import numpy as np
import pytest

from data_pipelines import extract
from data_pipelines.store import dataset as store
from data_pipelines.store import merge
from launch.jobs import stages
from tests.data_pipelines.test_extract import clip, write_clips
from tests.distributed.hosts import Job
from tests.workdirs import steps

OPTIONS = {"tokens": "units", "units": 8}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("stage") / "clips",
                       train=[clip(i, 1.2 + 0.1 * i) for i in range(12)])


def assert_same(found, expected):
    found.verify()
    assert found.ids == expected.ids and found.recipes == expected.recipes
    for split in expected.splits:
        for a, b in zip(expected.source(split), found.source(split), strict=True):
            assert all(np.array_equal(a[key], b[key]) for key in a), split


def test_hosts_extract_a_part_each_and_others_go_on_with_it(tmp_path, data, clips):
    out = tmp_path / "features"
    stage = {"kind": "extract", "clips": str(clips.dir), "out": str(out),
             "progress": False} | OPTIONS
    shared = tmp_path / ".features.partial"
    with Job(2, tmp_path / "run", data, "train.steps=1", "train.heartbeat_timeout=8",
             f"stages=({stage},)") as run:
        run.until(lambda: len(list(shared.glob("part-*-of-00002"))) == 2 or out.exists())
        assert not out.exists(), "both are at it before either is done"
        run.kill(signal.SIGKILL, host=1)
        assert run.wait() == [75, -signal.SIGKILL], run.logs()
    assert merge.begun(out) == 2 and not out.exists() and steps(tmp_path / "run") == []
    with Job(3, tmp_path / "run", data, "train.steps=1", f"stages=({stage},)", "mesh.data=3",
             "data.batch_size=3") as run:
        run.ends()
    assert not shared.exists() and steps(tmp_path / "run") == [1] and merge.begun(out) is None
    alone = extract.extract(clips.dir, tmp_path / "alone", progress=False, **OPTIONS)
    assert_same(store.open_dataset(out), alone)


def test_parts_that_are_whole_are_not_begun_again(tmp_path, monkeypatch):
    """Whoever makes the last one puts all together and removes their folders, while others may be
    at work in them."""
    shared, made = tmp_path / ".features.partial", []
    monkeypatch.setattr(stages, "_run", lambda kind, arguments,
                        where: made.append(arguments["out"].index))
    # all are whole: one of them is enough to put them together
    for whole, left in ((None, [0, 1]), (0, [1]), (1, [0])):
        if whole is not None:
            (shared / f"part-0000{whole}-of-00002").mkdir(parents=True)
            (shared / f"part-0000{whole}-of-00002"
             / merge.JOURNAL).write_text(json.dumps({"whole": True}) + "\n")
        shared.mkdir(exist_ok=True)
        (shared / "parts.json").write_text(json.dumps({"arguments": {}, "parts": 2}))
        stages._extract("features", {"out": str(tmp_path / "features")}, "stages")
        assert made == left, whole
        made.clear()
