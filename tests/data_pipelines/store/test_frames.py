"""Frames apart from their records: the same numbers, read in part, safe from kills, joined and
merged like records."""

import dataclasses
import errno
import functools
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from avjax.errors import StorageError, UserError
from data_pipelines.store import dataset as store
from data_pipelines.store import frames, merge, resume
from data_pipelines.store.schema import Feature

FEATURES = {"id": Feature((), "str", "name"), "mel": Feature((None, 2), "float32", "mel", "", 50.0),
            "latents": Feature((None, 2, 3, 4), "float16", "latents", "", 25.0, apart=True)}
LENGTHS = (5, 0, 9, 1, 12, 7)


def example(i):
    n = LENGTHS[i]
    rng = np.random.default_rng(i)
    return {"id": f"e{i}", "mel": np.full((n + 1, 2), i, np.float32),
            "latents": rng.standard_normal((n, 2, 3, 4)).astype(np.float16)}


def items(indices=range(len(LENGTHS))):
    return [functools.partial(example, i) for i in indices]


def write(out, **changes):
    return store.write_dataset(out, name="demo", description="", features=FEATURES, recipes={},
                               splits={"train": items()}, progress=False, **changes)


@pytest.fixture
def many_shards(monkeypatch):
    """A shard an example; small ones are joined again."""
    monkeypatch.setattr(store, "SHARD_BYTES", 300)


def check(dataset):
    source = dataset.source("train", lazy=True)
    assert len(source) == len(LENGTHS)
    for i, whole in enumerate(dataset.source("train")):
        expected = example(i)["latents"]
        np.testing.assert_array_equal(whole["latents"], expected)
        assert isinstance(whole["latents"], np.ndarray)
        np.testing.assert_array_equal(source[i]["latents"], expected)
    dataset.verify()


def test_what_is_indexed_is_what_numpy_gives(tmp_path, monkeypatch):
    dataset = write(tmp_path / "data")
    check(dataset)
    lazy, whole = dataset.source("train", lazy=True)[4]["latents"], example(4)["latents"]
    assert lazy.shape == whole.shape and lazy.dtype == whole.dtype and len(lazy) == 12
    read = []
    real = frames.Frames._read
    monkeypatch.setattr(frames.Frames, "_read", lambda self, first, count: read.append(count)
                        or real(self, first, count))
    for index in (3, -1, slice(2, 7), slice(None, None, -5), [1, 1, 4], np.arange(3, 6),
                  (slice(1, 4), 1), (np.array([5, 2]), 1), (7, 0, 2), np.array([], int),
                  np.array([0, 1, 2, 9])):
        np.testing.assert_array_equal(lazy[index], whole[index])
    # 1, 1, 5, 3 runs of 1, 3, 3, ...: no index read all twelve
    assert max(read) == 5 and sum(read) == 1 + 1 + 5 + 3 + 3 + 3 + 3 + 2 + 1 + 4


def test_records_do_not_hold_them_and_tfds_reads_the_rest(tmp_path, many_shards):
    dataset = write(tmp_path / "data")
    check(dataset)
    beside = sorted(p.name for p in dataset.dir.glob("*.latents"))
    assert len(beside) > 2
    assert sum((dataset.dir / name).stat().st_size for name in beside) == sum(LENGTHS) * 48
    builder = tfds.builder_from_directory(str(dataset.dir))
    assert set(builder.info.features) == {"id", "mel"}
    rows = list(builder.as_data_source("train"))
    assert [len(row["mel"]) for row in rows] == [n + 1 for n in LENGTHS]


def test_a_kill_loses_an_open_shard_only_and_half_a_file_counts_as_none(tmp_path, many_shards):
    out, made = tmp_path / "data", []

    def job(fail_at):
        def one(i):
            if i == fail_at:
                raise KeyboardInterrupt
            made.append(i)
            return example(i)

        with resume.Partial(out, {"a": 1}) as partial:
            return store.write_dataset(
                partial, name="demo", description="", features=FEATURES, recipes={},
                splits={"train": [functools.partial(one, i) for i in range(len(LENGTHS))]},
                progress=False)

    with pytest.raises(KeyboardInterrupt):
        job(4)
    data = tmp_path / ".data.partial" / "data"
    last = sorted(data.glob("*.latents"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    made.clear()
    check(job(None))
    assert made == [1, 2, 3, 4, 5]  # the shard with the torn file, and what followed


def test_a_job_begun_in_another_layout_is_refused_by_that_name(tmp_path, many_shards):
    """As versions did that had all frames in their records."""
    def job(features, items):
        with resume.Partial(tmp_path / "data", {"a": 1}) as partial:
            store.write_dataset(partial, name="demo", description="", features=features,
                                recipes={}, splits={"train": items}, progress=False)

    def killed():
        raise KeyboardInterrupt

    within = FEATURES | {"latents": dataclasses.replace(FEATURES["latents"], apart=False)}
    with pytest.raises(KeyboardInterrupt):
        job(within, [*items([0]), killed])
    with pytest.raises(UserError, match="in another layout.*bring the version of avjax"):
        job(FEATURES, items())
    assert list((tmp_path / ".data.partial" / "data").iterdir())  # what was made is kept


def test_parts_are_merged_with_what_is_beside_them(tmp_path, many_shards):
    for k in range(3):
        with resume.Partial(merge.Part(tmp_path / "data", k, 3), {"a": 1}) as partial:
            dataset = store.write_dataset(partial, name="demo", description="", features=FEATURES,
                                          recipes={}, splits={"train": items()}, progress=False)
    check(dataset)


def test_a_file_that_was_made_again_or_stale_is_opened_again(tmp_path, monkeypatch):
    before = write(tmp_path / "data").source("train", lazy=True)[4]["latents"]
    np.asarray(before)
    shutil.rmtree(tmp_path / "data")
    other = {"id": "x", "mel": np.zeros((1, 2), np.float32),
             "latents": np.ones((12, 2, 3, 4), np.float16)}
    again = store.write_dataset(tmp_path / "data", name="demo", description="", features=FEATURES,
                                recipes={}, splits={"train": [other]}, progress=False)
    lazy = again.source("train", lazy=True)[0]["latents"]
    assert (np.asarray(lazy) == 1).all()
    number = frames._opened()(str(lazy._path), lazy._content).number
    real = os.preadv

    def stale(file, *args):
        if file == number:
            raise OSError(errno.ESTALE, "stale")
        return real(file, *args)

    monkeypatch.setattr(os, "preadv", stale)
    held = frames._opened()(str(lazy._path), lazy._content)  # or its number is given out again
    assert (lazy[3:5] == 1).all() and held.number == number


def test_a_folder_whose_checksums_leave_files_out_is_not_whole(tmp_path):
    dataset = write(tmp_path / "data")
    for left_out in ("lengths.npz", *(p.name for p in dataset.dir.glob("*array_record*"))):
        (dataset.dir / "checksums.json").write_text(json.dumps(
            {k: v for k, v in dataset.checksums.items() if k != left_out}))
        with pytest.raises(UserError, match=f"not whole.*{left_out}"):
            store.open_dataset(dataset.dir)


def test_a_short_or_missing_file_is_named(tmp_path):
    dataset = write(tmp_path / "data")
    lazy = dataset.source("train", lazy=True)[5]["latents"]
    [path] = dataset.dir.glob("*.latents")
    content = path.read_bytes()
    path.write_bytes(content[:-60])
    with pytest.raises(UserError, match=f"{path.name}"):
        lazy[5:]
    with pytest.raises(UserError, match=path.name):
        store.open_dataset(dataset.dir)
    path.unlink()
    with pytest.raises((StorageError, UserError), match=path.name):
        np.asarray(lazy)
