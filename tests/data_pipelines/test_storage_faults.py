"""Storage that fails for a moment, is full, or gives no more files: finished work is kept, and
nobody is told to delete."""

import contextlib
import errno
import io
import os
import resource

import numpy as np
import pytest

from avjax.errors import DiskFull, StorageError, UserError
from avjax.storage.failures import exit_cleanly
from data_pipelines import extract
from data_pipelines.features.avflow import extract as avflow
from data_pipelines.loading import loader
from data_pipelines.store import dataset as store
from data_pipelines.store import records, resume
from data_pipelines.store.merge import Part
from tests.data_pipelines import test_loader
from tests.data_pipelines.test_extract import clip, write_clips
from tests.data_pipelines.test_parts import assert_same
from tests.data_pipelines.test_store import FEATURES, interrupted, make_examples, thunks, write


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Four training clips, each a shard."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "SHARD_BYTES", 1)
        dataset = write_clips(tmp_path / "clips", train=[clip(i, 1.2) for i in range(4)])
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)  # every item is kept
    return dataset


def reopened(function, *args):
    """Calls a function; no file that is open already hides what it did."""
    function(*args)
    records._readers.cache_clear()


def at_call(monkeypatch, module, name, number, happens):
    """Calls `happens` before the call `number` (from 0) of a function; returns the list of its
    calls."""
    calls, function = [], getattr(module, name)

    def call(*args, **kw):
        if len(calls) == number:
            happens()
        calls.append(args)
        return function(*args, **kw)

    monkeypatch.setattr(module, name, call)
    return calls


def test_a_shard_that_is_away_for_a_moment_costs_nothing_that_is_done(clips, tmp_path, monkeypatch):
    shard, away = sorted(clips.dir.glob("clips-train*"))[2], tmp_path / "away"
    with monkeypatch.context() as patch:
        at_call(patch, avflow, "_features", 1, lambda: reopened(shard.rename, away))
        with pytest.raises(StorageError, match=f"missing.*{shard.name}") as caught:
            extract.extract(clips.dir, tmp_path / "out", progress=False)
    assert caught.value.code == 75 and "delete" not in str(caught.value)
    # still away: restartable, as this job has read it before
    with pytest.raises(StorageError, match="missing"):
        extract.extract(clips.dir, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="missing"):  # a new job: a folder that was copied in part
        extract.extract(clips.dir, tmp_path / "another", progress=False)
    away.rename(shard)
    with monkeypatch.context() as patch:
        made = at_call(patch, avflow, "_features", -1, None)
        continued = extract.extract(clips.dir, tmp_path / "out", progress=False)
    assert len(made) == 3  # of five: two were done
    assert_same(continued, extract.extract(clips.dir, tmp_path / "whole", progress=False))


def test_proven_corruption_says_so_and_keeps_what_is_done(clips, tmp_path, monkeypatch):
    shard = sorted(clips.dir.glob("clips-train*"))[2]
    whole = shard.read_bytes()
    with monkeypatch.context() as patch:
        broken = whole[:1000] + bytes(len(whole) - 1000)
        at_call(patch, avflow, "_features", 1, lambda: reopened(shard.write_bytes, broken))
        with pytest.raises(UserError, match=f"corrupt.*{shard.name}.*sha256.*delete the folder"):
            extract.extract(clips.dir, tmp_path / "out", progress=False)
    shard.write_bytes(whole)
    made = at_call(monkeypatch, avflow, "_features", -1, None)
    extract.extract(clips.dir, tmp_path / "out", progress=False)
    assert len(made) == 3


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT,
                                  errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("how", ["itself", "wrapped", "unusable", "text"])
def test_whatever_storage_does_leaves_what_is_done(tmp_path, monkeypatch, code, how):
    """An item fails by an OSError; by a UserError or an Unusable made of one; by a library's error
    with its text alone."""
    monkeypatch.setattr(store, "SHARD_BYTES", 1)

    def fail():
        try:
            raise OSError(code, os.strerror(code), "input.wav")
        except OSError as error:
            if how == "itself":
                raise
            if how == "wrapped":
                raise UserError("cannot read input.wav") from error
            if how == "unusable":
                raise store.Unusable("unreadable", id="a2") from None
        raise RuntimeError(f"open() failed: {os.strerror(code)}; opening input.wav")

    made = []
    items = thunks(4, "a", made)
    with pytest.raises((StorageError,
                        UserError)) as caught, resume.Partial(tmp_path / "data", {}) as job:
        write(job, splits={"train": [*items[:2], fail, *items[2:]]}, max_bad=0.5)
    if how != "wrapped":
        assert isinstance(caught.value, DiskFull if code in (errno.ENOSPC, errno.EDQUOT)
                          else StorageError)
    full = code in (errno.ENOSPC, errno.EDQUOT)
    assert ended(caught.value)[0] == (2 if full else 75)
    assert made == ["a0", "a1"]
    with resume.Partial(tmp_path / "data", {}) as job:
        write(job, splits={"train": items})
    assert made == ["a0", "a1", "a2", "a3"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def ended(error):
    """(exit code, what is printed) of a command that ends with `error`."""
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as caught, contextlib.redirect_stderr(io.StringIO()) as said:
        exit_cleanly(main)([])
    return caught.value.code, said.getvalue()


@pytest.mark.parametrize("error", [UserError("a bad clip"), store.Unusable("a bad clip", id="a2")])
def test_an_item_that_cannot_be_used_costs_no_other(tmp_path, monkeypatch, error):
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)
    made = []
    items = thunks(3, "a", made)

    def bad():
        raise error

    with pytest.raises(UserError, match="a bad clip"), resume.Partial(tmp_path / "data", {}) as job:
        write(job, splits={"train": [*items[:2], bad]}, progress=False)
    with resume.Partial(tmp_path / "data", {}) as job:
        write(job, splits={"train": items}, progress=False)
    assert made == ["a0", "a1", "a2"]


def test_exit_codes_and_lines(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))
    code, line = ended(full)
    assert code == 2 and line.count("\n") == 1 and line.startswith("error: the disk is full; "
                                                                   f"where: {tmp_path}/x; ")
    assert "MB are free there" in line and "hint: make room" in line
    code, line = ended(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x"))
    assert code == 75 and line.startswith(
        "restartable: too many open files; where: x") and "ulimit -n" in line
    assert ended(OSError(errno.EIO, os.strerror(errno.EIO), "x"))[0] == 75
    # nobody said where
    assert "free there" not in ended(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))[1]
    for code in (errno.EACCES, errno.EROFS):
        code, line = ended(OSError(code, os.strerror(code), "x"))
        assert code == 2 and line.startswith(
            "error: may not be read or written; where: x; ") and line.count("\n") == 1
    assert ended(UserError("a typo"))[0] == 2
    with pytest.raises(FileNotFoundError):  # not known to be anybody's fault but ours
        ended(FileNotFoundError("x"))


@pytest.mark.parametrize("threads", [0, 2])
def test_training_meets_a_missing_shard_as_restartable(tmp_path, threads):
    dataset = store.write_dataset(tmp_path / "data", name="demo", description="",
                                  features=test_loader.FEATURES,
                                  splits={"train": [test_loader.example(i, "t") for i in range(4)]},
                                  recipes={"mel": test_loader.RECIPE})
    with loader.make_loader(dataset, "train", test_loader.model(test_loader.SPEC), batch_size=2,
                            segment=8, seed=0,
                            threads=threads) as batches:
        next(dataset.dir.glob("demo-train*")).rename(tmp_path / "away")
        with pytest.raises(StorageError, match="missing.*hint: look after the disk"):
            next(batches)


@pytest.fixture
def few_files():
    """At most 24 more files may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    records._readers.cache_clear()
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 24, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    records._readers.cache_clear()


def test_more_shards_than_open_files(tmp_path, monkeypatch, few_files):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    monkeypatch.setattr(records, "_MOST_OPEN", 8)
    dataset = write(tmp_path / "data", splits={"train": make_examples(40, "a")})
    sources = [dataset.source("train") for _ in range(3)]
    for order in (range(40), reversed(range(40))):
        for i in order:
            for source in sources:
                assert source[i]["id"] == f"a{i}"
    kept = []
    with pytest.raises(OSError):
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    try:
        records._readers().cache_clear()  # eight were ours
        with pytest.raises(OSError):
            while True:
                kept.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StorageError, match="too many open files.*demo-train.*ulimit -n"):
            sources[0][20]
    finally:
        for one in kept:
            os.close(one)
    assert sources[0][20]["id"] == "a20"  # what failed is not kept


def test_small_shards_are_joined_and_the_bytes_are_those_of_one_go(tmp_path, monkeypatch):
    whole = interrupted(tmp_path / "whole", [], {"a": 1}, after=8)
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)  # a shard an item
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "data", [], {"a": 1}, after=5)
    assert len(list((tmp_path / ".data.partial" / "data").iterdir())) == 5
    joined = interrupted(tmp_path / "data", [], {"a": 1}, after=8)
    assert [p.name
            for p in joined.dir.glob("demo-train*")] == ["demo-train.array_record-00000-of-00001"]
    assert joined.checksums == whole.checksums and joined.content == whole.content
    sizes = [200_000, 90_000, 40_000, 30_000, 30_000, 50_000, 300_000, 10_000]
    monkeypatch.setattr(store, "SHARD_BYTES", 160_000)
    features = {"id": FEATURES["id"], "identity": FEATURES["audio"]}
    items = [lambda i=i, n=n: {"id": f"a{i}", "identity": np.zeros(n // 2, np.int16)} for i,
             n in enumerate(sizes)]
    with resume.Partial(tmp_path / "more", {}) as job:
        dataset = write(job, features=features, recipes={}, codecs={}, splits={"train": items})
    assert np.diff([0, *dataset.source("train")._records._ends]).tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert dataset.ids["train"] == [f"a{i}" for i in range(8)]
    assert dataset.lengths("train", ["identity"])["identity"].tolist() == [n // 2 for n in sizes]


def test_a_part_that_is_whole_outlives_an_error_of_putting_together(tmp_path):
    def odd():
        raise store.Unusable("odd", id="x")

    def run(k, max_bad):
        with resume.Partial(Part(tmp_path / "data", k, 2), {}) as job:
            return write(job, splits={"train": [*thunks(2, "a", made), odd, odd]}, max_bad=max_bad)

    made: list[str] = []
    run(1, 0.1)
    with pytest.raises(UserError, match="too many unusable"):
        run(0, 0.1)
    made.clear()
    assert run(0, 0.9) is not None and made == []


def test_disk_full_at_any_write_is_one_line_and_is_gone_on_with(tmp_path, monkeypatch):
    """Every call that could meet a full disk does so once: files opened to be written,
    synchronised, renamed."""
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)

    def job(out):
        with resume.Partial(out, {}) as one:
            one.once("codec", lambda: {"a": np.ones(3)})
            return write(one, splits={"train": thunks(3, "a", [])}, progress=False)

    expected = job(tmp_path / "whole").content
    fsync, replace = os.fsync, os.replace
    calls, at = [0], -1

    def failing(function):
        def call(*args, **kw):
            calls[0] += 1
            if calls[0] - 1 == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kw)
        return call

    monkeypatch.setattr(os, "fsync", failing(fsync))
    monkeypatch.setattr(os, "replace", failing(replace))
    while True:
        calls[0], at = 0, at + 1
        out = tmp_path / f"data{at}"
        try:
            job(out)
            break  # there is no such call
        except DiskFull as error:
            assert "the disk is full" in str(error) and f".data{at}.partial" in str(error)
        assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp"]
        assert job(out).content == expected
    assert at > 8


def test_where_something_lies_is_no_part_of_what_an_interrupted_job_was(tmp_path):
    def job(arguments):
        with resume.Partial(tmp_path / "data", arguments, paths=("weights",)) as one:
            one.once("x", lambda: {"a": np.ones(1)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job({"weights": "/then/w.pt", "seed": 1})
    with pytest.raises(KeyboardInterrupt):
        job({"weights": "/now/w.pt", "seed": 1})
    with pytest.raises(UserError, match="other arguments.*weights='/then/w.pt'; found: "
                                        "weights='/now/v.pt'"):
        job({"weights": "/now/v.pt", "seed": 1})


def test_a_shard_that_fills_the_disk_does_not_stay(tmp_path, monkeypatch):
    """ArrayRecord tells of a full disk when it writes, or only when it closes."""
    from array_record.python import array_record_module

    for fails in ("write", "close"):
        class Full(array_record_module.ArrayRecordWriter):
            def fail(self, *args):
                raise RuntimeError("write() failed: No space left on device; writing a")

        setattr(Full, fails, Full.fail)
        with monkeypatch.context() as patch:
            patch.setattr(array_record_module, "ArrayRecordWriter", Full)
            with (pytest.raises(DiskFull, match="disk is full"),
                  resume.Partial(tmp_path / "data", {}) as job):
                write(job, splits={"train": thunks(3, "a", [])})
        assert not list((tmp_path / ".data.partial" / "data").iterdir())
    with resume.Partial(tmp_path / "data", {}) as job:
        write(job, splits={"train": thunks(3, "a", [])})
