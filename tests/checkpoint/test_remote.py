"""A workdir at gs://, on a Google Cloud Storage that is faked by a local server (see
fake_gcs.py)."""

import json
import time

import pytest

from avjax.checkpoint import checkpoints, remote
from avjax.checkpoint import files as checkpoint_files
from avjax.errors import UserError
from avjax.hosts import peers
from avjax.storage import paths
from avjax.telemetry import goodput
from tests.checkpoint import fake_gcs
from tests.training import toy
from tests.training.test_loop import Recorder, assert_same, run

RUN = "gs://bucket/runs/a"
KEEP_ALL = {"train.keep_last": 9, "train.checkpoint_every": 2}
# Of TensorStore: of reads that are still under way when another has failed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


store = fake_gcs.store


def lines(store, kind="train", name="bucket/runs/a/metrics.jsonl"):
    return [r for r in map(json.loads, store[name][0].decode().splitlines()) if r["kind"] == kind]


def steps(store, run="bucket/runs/a"):
    prefix = f"{run}/checkpoints/"
    return sorted({int(k[len(prefix):].split("/")[0]) for k in store if k.startswith(prefix)})


def test_a_bucket_is_a_workdir_like_another(store, tmp_path):
    whole = run(tmp_path / "whole", **{"train.steps": 8, "optimizer.ema_decay": 0.5})
    settings = {"train.checkpoint_every": 2, "train.keep_last": 2, "optimizer.ema_decay": 0.5}
    values = {3: 0.1, 6: 0.5}
    run(RUN, evaluators=[Recorder(values)], **settings | {"train.steps": 5})
    assert steps(store) == [4, 5]  # kept like anywhere else
    before, store.refused = dict(store), "/d/"
    with pytest.raises(peers.Restart, match="checkpoint cannot be read now; where: "
                                            ".*checkpoints/5; .*PERMISSION_DENIED"):
        run(RUN, evaluators=[Recorder(values)], **settings | {"train.steps": 8})
    assert store == before  # what may be whole is left alone
    store.refused = ""
    resumed = run(RUN, evaluators=[Recorder(values)],
                  **settings | {"train.steps": 8, "train.keep_last": 1})
    assert_same(whole.state, resumed.state)
    assert steps(store) == [6, 8] and checkpoints.resolve(RUN, "best").name == "6"
    assert [r["step"]
            for r in lines(store)] == list(range(1, 9)) and lines(store,
                                                                  "goodput")[-1]["starts"] == 2
    names = {k.removeprefix("bucket/runs/a/").split("/")[0] for k in store}
    assert names == {"checkpoints", "metrics.jsonl", goodput.FILE,
                     "tensorboard"} and not any(k.endswith(".tmp") for k in store)

    assert_same(checkpoints.load_params(RUN, toy.ToySystem()), whole.state["ema"])
    assert checkpoints.load_meta(RUN,
                                 6)["step"] == 6 and str(
                                     checkpoints.resolve(RUN)) == f"{RUN}/checkpoints/8"
    warm = run(tmp_path / "warm", **{"train.init_from": RUN, "train.steps": 1,
                                     "optimizer.learning_rate": 0.0})
    assert_same(warm.state["params"], whole.state["ema"])
    with pytest.raises(UserError, match="no checkpoint here; where: gs://bucket/elsewhere.*no such "
                                        "folder"):
        checkpoints.load_params("gs://bucket/elsewhere", toy.ToySystem())


@pytest.mark.parametrize("how", ["objects lost", "not committed"])
def test_torn_newest_checkpoint_in_a_bucket(store, tmp_path, how):
    whole = run(tmp_path / "whole", **KEEP_ALL)
    run(RUN, **KEEP_ALL | {"train.steps": 4})
    newest = "bucket/runs/a/checkpoints/4/"
    if how == "objects lost":
        for name in [k for k in store if k.startswith(newest) and "/d/" in k]:
            del store[name]
        torn = {name.removeprefix(newest): data for name, (data, _) in store.items()
                if name.startswith(newest)}
    else:  # killed before the end of the save
        del store[newest + "commit_success.txt"]
    resumed = run(RUN, **KEEP_ALL)
    assert_same(whole.state, resumed.state)
    said = " ".join(r["text"] for r in lines(store, "note"))
    assert "resuming from step 2" in said
    assert ("checkpoint 4 is broken" in said) == (how == "objects lost")
    assert steps(store) == [2, 4, 6]
    aside = "bucket/runs/a/checkpoints_broken/4/"
    kept = {name.removeprefix(aside): data for name, (data, _) in store.items()
            if name.startswith(aside)}
    assert kept == (torn if how == "objects lost" else {}) and ("moved to gs://"
                                                                + aside[:-1] in said) == bool(kept)


def test_an_outage_is_not_an_empty_bucket(store, monkeypatch):
    store.put("bucket/r/checkpoints/4/commit_success.txt", b"")
    store.put("bucket/r/checkpoints/6/state/d/a", b"")  # killed before the end of the save

    def fail(*args, **kwargs):
        raise OSError("Forbidden: bucket")

    assert checkpoint_files.steps_in(paths.folder("gs://bucket/r/checkpoints")) == [4]
    assert checkpoint_files.steps_in(paths.folder("gs://bucket/none/checkpoints")) == []
    for asked in ("info", "ls"):
        with monkeypatch.context() as patch:
            patch.setattr(fake_gcs.Files, asked, fail)
            with pytest.raises(checkpoint_files.Unreadable, match="Forbidden"):
                checkpoint_files.steps_in(paths.folder("gs://bucket/r/checkpoints"))


def test_other_stores_are_read_from_and_refused_to_be_written_to(store, tmp_path):
    state = run(tmp_path / "a", **{"train.steps": 3}).state
    paths.copy_in(tmp_path / "a", paths.folder("s3://bucket/copied"))
    assert_same(checkpoints.load_params("s3://bucket/copied", toy.ToySystem()), state["params"])
    before = dict(store)
    with pytest.raises(UserError, match="cannot be written there; where: s3://bucket/b/checkpoints;"
                                        " expected: a local path or gs://"):
        run("s3://bucket/b")
    assert store == before


def test_mirror_sends_what_changes_and_goes_on_with_what_was_there(store, tmp_path):
    there = paths.folder("gs://bucket/m")
    paths.write_text(there / "log", "one\n")
    mirror = remote.Mirror(there, fetch=("log", "absent"), every=1000)
    with (mirror.folder / "log").open("a") as file:
        file.write("two\n")
    (mirror.folder / "deep" / "er").mkdir(parents=True)
    (mirror.folder / "deep" / "er" / "x").write_bytes(b"\0")
    (mirror.folder / "half.tmp").touch()
    assert store["bucket/m/log"][0] == b"one\n"
    generation = store["bucket/m/log"][1]
    mirror.close()
    assert store["bucket/m/log"][0] == b"one\ntwo\n" and store["bucket/m/deep/er/x"][0] == b"\0"
    assert "bucket/m/half.tmp" not in store and not mirror.folder.exists()
    assert store["bucket/m/log"][1] > generation
    sent = dict(store)
    remote.Mirror(there, fetch=("log",), every=1000).close()
    assert store == sent  # nothing has changed


def test_a_store_that_fails_is_told_once_and_ends_nothing(store, capfd, monkeypatch):
    mirror = remote.Mirror(paths.folder("gs://bucket/m"), every=0.01)

    tried = []

    def fail(*args):
        tried.append(args)
        raise RuntimeError("503 Service Unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(remote.paths, "copy_in", fail)
        (mirror.folder / "log").write_text("x")
        while len(tried) < 4:  # the first three are told of, if any
            time.sleep(0.01)
    mirror.close()
    said = capfd.readouterr().err
    assert said.count("could not be sent") == said.count("503") == 1 and store["bucket/m/log"][
        0] == b"x"


def test_a_mirror_closed_while_it_wakes_up_does_not_sleep_again(store):
    mirror = remote.Mirror(paths.folder("gs://bucket/m"), every=1000)
    clear = mirror._wake.clear

    def closed_meanwhile():
        mirror._closed = True
        mirror._wake.set()
        clear()

    mirror._wake.clear = closed_meanwhile
    mirror.soon()
    mirror._thread.join(timeout=60)
    assert not mirror._thread.is_alive()


def test_a_copy_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    (tmp_path / "old").write_text("whole")
    (tmp_path / "new").write_text("another")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(paths.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            paths.copy_in(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "whole"
    paths.copy_in(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "another"


def test_a_bucket_at_hand_for_what_knows_local_folders_only(store, tmp_path):
    run(RUN, **KEEP_ALL | {"train.steps": 4})
    paths.write_text(paths.folder(RUN) / "config.json", "{}")
    with remote.at_hand(RUN, "best") as here:
        assert (here / "config.json").read_text() == "{}" and (here / "metrics.jsonl").exists()
        assert checkpoints.resolve(here).name == "4" and not (here / "tensorboard").exists()
        (here / "evaluation").mkdir()
        (here / "evaluation" / "results.json").write_text("[]")
    assert store["bucket/runs/a/evaluation/results.json"][0] == b"[]" and steps(store) == [2, 4]
    with remote.at_hand(tmp_path) as here:
        assert here == tmp_path
