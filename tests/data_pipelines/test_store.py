"""Datasets on disk: what is written is read back; what is broken, foreign or half-written is
refused by name."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from avjax.errors import UserError
from data_pipelines.store import dataset as store
from data_pipelines.store import inspect, records, resume, whole
from data_pipelines.store.schema import CHECKSUMS_FILE, Feature

FEATURES = {
    "id": Feature((), "str", "name of the clip"),
    "speaker": Feature((), "str", "who"),
    "identity": Feature((8,), "float32", "identity vector"),
    "audio": Feature((None,), "int16", "speech", "1/32768", 22050.0),
    "face": Feature((None, 12), "float32", "face code", "", 30.0),
}


def make_examples(count, prefix, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        frames = int(rng.integers(20, 60))
        yield {"id": f"{prefix}{i}", "speaker": "zoë",
               "identity": rng.normal(size=8).astype(np.float32),
               "audio": rng.integers(-32768, 32767, frames * 735).astype(np.int16),
               "face": rng.normal(size=(frames, 12)).astype(np.float32)}


def write(out, **overrides):
    arguments = dict(name="demo", description="for tests", features=FEATURES,
                     recipes={"face": {"kind": "noise"}},
                     splits={"train": make_examples(20, "a"), "valid": make_examples(3, "b", 1)},
                     codecs={"face": {"mix": np.eye(3)}})
    return store.write_dataset(out, **(arguments | overrides))


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data")


def shard_of(dataset, split="train"):
    return next(dataset.dir.glob(f"demo-{split}.array_record*"))


def flip(path, at):
    data = bytearray(path.read_bytes())
    for i in range(at, at + 8):
        data[i] ^= 0xFF
    path.write_bytes(data)


def test_everything_written_is_read_back(dataset):
    dataset = store.open_dataset(dataset.dir)
    assert dataset.splits == {"train": 20, "valid": 3}
    assert dataset.features == FEATURES and dataset.recipes == {"face": {"kind": "noise"}}
    np.testing.assert_array_equal(dataset.codec("face")["mix"], np.eye(3))
    dataset.verify()
    for split, expected in (("train", make_examples(20, "a")), ("valid", make_examples(3, "b", 1))):
        source = dataset.source(split)
        for i, example in enumerate(expected):
            assert source.ids[i] == example["id"]
            assert source[i].keys() == example.keys()
            for name, value in example.items():
                np.testing.assert_array_equal(source[i][name], value)
                assert isinstance(source[i][name], str) or source[i][name].dtype == value.dtype
        with pytest.raises(IndexError):
            source[len(source)]
    assert set(dataset.source("train", ["id", "face"])[3]) == {"id", "face"}


def test_several_shards_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 200_000)
    dataset = write(tmp_path / "data")
    assert len(list(dataset.dir.glob("demo-train.array_record*"))) > 3
    assert [e["id"] for e in dataset.source("train", ["id"])] == [f"a{i}" for i in range(20)]


def test_tfds_itself_reads_the_folder(dataset):
    builder = tfds.builder_from_directory(str(dataset.dir))
    example = builder.as_data_source("valid")[0]
    np.testing.assert_array_equal(example["face"], next(make_examples(1, "b", 1))["face"])


def test_wrong_path_and_foreign_folder(tmp_path):
    with pytest.raises(UserError, match="no dataset here"):
        store.open_dataset(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="not whole"):
        store.open_dataset(tmp_path / "other")


def test_half_written_folder_is_refused(dataset):
    (dataset.dir / CHECKSUMS_FILE).unlink()
    with pytest.raises(UserError, match="not whole.*interrupted"):
        store.open_dataset(dataset.dir)


def test_missing_and_truncated_shards_are_named_when_opening(dataset):
    shard = shard_of(dataset)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"truncated.*{shard.name}.*hint"):
        store.open_dataset(dataset.dir)
    shard.unlink()
    with pytest.raises(UserError, match=f"missing.*{shard.name}.*hint"):
        store.open_dataset(dataset.dir)


def test_flipped_bytes_are_found_by_verify_and_when_read(dataset):
    shard = shard_of(dataset)
    for at in range(70, shard.stat().st_size - 70_000, 5000):
        flip(shard, at)
    opened = store.open_dataset(dataset.dir)  # the size is right: only reading can tell
    with pytest.raises(UserError, match=f"corrupt.*{shard.name}"):
        opened.verify()
    with pytest.raises(UserError, match=f"corrupt.*{shard.name}.*example [0-9]+ of split "
                                        "train.*hint"):
        list(opened.source("train"))
    list(opened.source("valid"))  # the other split is untouched


def test_one_flip_inside_a_record_never_gives_wrong_numbers(dataset):
    """Records are uncompressed, so nothing but a checksum stands between a flipped bit and the
    model."""
    shard = shard_of(dataset, "valid")
    expected = list(make_examples(3, "b", 1))
    flip(shard, shard.read_bytes().index(expected[1]["face"].tobytes()[:64]) + 16)
    source = store.open_dataset(dataset.dir).source("valid")
    np.testing.assert_array_equal(source[0]["face"], expected[0]["face"])
    with pytest.raises(UserError, match="corrupt"):
        source[1]


def test_a_shard_of_zeros(dataset):
    shard = shard_of(dataset)
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=shard.name):
        store.open_dataset(dataset.dir).source("train")[0]


def test_edited_metadata_is_refused(dataset):
    path = dataset.dir / "features.json"
    path.write_text(path.read_text().replace('"12"', '"13"'))
    with pytest.raises(UserError, match="corrupt file.*features.json"):
        store.open_dataset(dataset.dir)


def test_features_json_of_another_schema_is_refused(dataset):
    """Both files are what the checksums say, but they disagree (e.g. copied together from two
    datasets)."""
    path = dataset.dir / "features.json"
    path.write_text(path.read_text().replace('"12"', '"13"'))
    checksums = json.loads((dataset.dir / CHECKSUMS_FILE).read_text())
    checksums["features.json"] = whole.fingerprint(path)
    (dataset.dir / CHECKSUMS_FILE).write_text(json.dumps(checksums))
    with pytest.raises(UserError, match="features.json does not fit"):
        store.open_dataset(dataset.dir)


def test_unknown_names(dataset):
    with pytest.raises(UserError, match="unknown split.*train or valid.*test"):
        dataset.source("test")
    with pytest.raises(UserError, match="unknown feature.*nose"):
        dataset.source("train", ["nose"])
    with pytest.raises(UserError, match="unknown codec"):
        dataset.codec("pose")


@pytest.mark.parametrize("breakage, message", [
    (lambda e: e.pop("face"), "does not fit the schema"),
    (lambda e: e.update(face=e["face"][:, :5]), r"face.*\(None, 12\).*, 5\)"),
    (lambda e: e.update(face=e["face"].astype(np.float64)), "face.*float32.*float64"),
    (lambda e: e.update(speaker=3), "speaker.*expected: str.*int"),
    (lambda e: e.update(id="a0"), "not unique"),
])
def test_examples_that_do_not_fit_leave_nothing_behind(tmp_path, breakage, message):
    examples = list(make_examples(4, "a"))
    breakage(examples[2])
    with pytest.raises(UserError, match=message):
        write(tmp_path / "data", splits={"train": examples})
    assert not list(tmp_path.iterdir())


def test_empty_split_and_overwriting(tmp_path, dataset):
    with pytest.raises(UserError, match="empty split"):
        write(tmp_path / "other", splits={"train": []})
    with pytest.raises(UserError, match="refusing to overwrite"):
        write(dataset.dir)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_interrupt_leaves_nothing_behind(tmp_path):
    def interrupted():
        yield from make_examples(3, "a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "data", splits={"train": interrupted()})
    assert not list(tmp_path.iterdir())


def test_killed_job_leaves_nothing_that_looks_whole_and_is_cleaned_up(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    code = ("import sys, time; import tests.data_pipelines.test_store as t\n"
            "def slow():\n"
            "    yield from t.make_examples(3, 'a')\n"
            "    print('written', flush=True)\n"
            "    time.sleep(60)\n"
            f"t.write({str(tmp_path / 'data')!r}, splits={{'train': slow()}})\n")
    job = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE,
                           env={**os.environ, "PYTHONPATH": str(root)})
    assert job.stdout.readline() == b"written\n"
    job.send_signal(signal.SIGKILL)
    job.wait()
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".data.partial-")
    with pytest.raises(UserError, match="no dataset here"):
        store.open_dataset(tmp_path / "data")
    with pytest.raises(UserError, match="not whole"):
        store.open_dataset(left[0])
    write(tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_inspect_reports_counts_durations_and_breakage(dataset, capsys):
    assert inspect.main([str(dataset.dir), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    frames = [len(e["face"]) for e in make_examples(20, "a")]
    assert report["splits"]["train"]["clips"] == 20 and report["splits"]["train"]["speakers"] == {
        "zoë": 20}
    assert report["splits"]["train"]["hours"] == pytest.approx(sum(frames) / 30 / 3600)
    assert report["features"]["face"]["rate"] == 30.0 and report["checksums"] == "match"
    assert inspect.main([str(dataset.dir)]) == 0
    assert "zoë 20" in capsys.readouterr().out
    flip(shard_of(dataset), 5000)
    assert inspect.main([str(dataset.dir)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "corrupt file" in error


def test_inspect_tells_durations_of_examples_without_the_slowest_stream(tmp_path):
    examples = list(make_examples(4, "a"))
    frames = [len(e["face"]) for e in examples]
    examples[2]["face"] = examples[2]["face"][:0]  # heard and not seen
    report = inspect.summary(write(tmp_path / "data", splits={"train": examples}))
    seconds = report["splits"]["train"]["seconds"]
    assert seconds["mean"] == pytest.approx(np.mean(frames) / 30) and seconds[
        "min"] == pytest.approx(min(frames) / 30)


def test_inspect_finds_values_that_are_not_finite(tmp_path, capsys):
    examples = list(make_examples(4, "a"))
    examples[2]["face"][3, 4] = np.nan
    dataset = write(tmp_path / "data", splits={"train": examples})
    assert inspect.main([str(dataset.dir)]) == 1
    assert "'a2', feature face" in capsys.readouterr().err


def test_random_access_opens_each_shard_once_and_reads_ahead_of_nothing(tmp_path, monkeypatch):
    """It must not become what training waits for."""
    opened = []

    def reader(path, options="", **more):
        opened.append((path, options))
        return make(path, options=options, **more)

    make = records.array_record_module.ArrayRecordReader
    monkeypatch.setattr(records.array_record_module, "ArrayRecordReader", reader)
    source = write(tmp_path / "data").source("train")
    opened.clear()
    read = [source[i]["id"] for i in np.random.default_rng(0).integers(0, len(source), 200)]
    assert len(set(read)) > 10
    assert len({path for path, _ in opened}) == len(opened) > 0
    assert {options for _, options in opened} == {"readahead_buffer_size:0"}


def test_moved_folder_still_opens(dataset, tmp_path):
    shutil.move(dataset.dir, tmp_path / "elsewhere")
    assert len(list(store.open_dataset(tmp_path / "elsewhere").source("train"))) == 20


def thunks(count, prefix, made):
    def make(example):
        made.append(example["id"])
        return example

    return [functools.partial(make, e) for e in make_examples(count, prefix)]


def interrupted(out, made, arguments, after, **more):
    """A job that can be continued, stopped (as by Ctrl-C) while it makes the item after so many."""
    def stop():
        raise KeyboardInterrupt

    items = thunks(8, "a", made)
    with resume.Partial(out, arguments) as job:
        return write(job, splits={"train": items[:after] + [stop] + items[after:] if after < 8
                                  else items}, **more)


@pytest.mark.parametrize("breakage", ["nothing", "torn journal", "truncated shard", "stray file"])
def test_a_continued_job_makes_what_is_missing_and_no_more(tmp_path, monkeypatch, breakage):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)  # every example is a shard
    out, made = tmp_path / "data", []
    with pytest.raises(KeyboardInterrupt):
        interrupted(out, made, {"a": 1}, after=5)
    folder = tmp_path / ".data.partial"
    again = 3
    if breakage == "torn journal":
        with open(folder / "journal.jsonl", "a") as file:
            file.write('{"split": "train", "posi')
    elif breakage == "truncated shard":
        (folder / "data" / "train-00003.open").write_bytes(b"half")
        again = 5  # that one and what follows it
    elif breakage == "stray file":
        (folder / "data" / "train-00007.open").write_bytes(b"never committed")
    made.clear()
    dataset = interrupted(out, made, {"a": 1}, after=8)
    assert len(made) == again and list(dataset.source("train").ids) == [f"a{i}" for i in range(8)]
    dataset.verify()
    for example, expected in zip(dataset.source("train"), make_examples(8, "a"), strict=True):
        np.testing.assert_array_equal(example["face"], expected["face"])
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_job_of_other_arguments_or_encoders_is_refused_and_can_be_begun_anew(tmp_path,
                                                                               monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    out, made = tmp_path / "data", []
    with pytest.raises(KeyboardInterrupt):
        interrupted(out, made, {"seed": 1, "size": 64}, after=2)
    with pytest.raises(UserError, match=r"other arguments.*\.data\.partial.*expected: seed=1; "
                                        r"found: seed=2.*delete that folder"):
        interrupted(out, made, {"seed": 2, "size": 64}, after=8)
    with pytest.raises(UserError, match="other encoders.*found: other codecs"):
        interrupted(out, made, {"seed": 1, "size": 64}, after=8,
                    codecs={"face": {"mix": np.zeros(3)}})
    shutil.rmtree(tmp_path / ".data.partial")  # neither threw away what was made
    interrupted(out, made, {"seed": 2, "size": 64}, after=8)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_two_jobs_do_not_write_one_folder(tmp_path):
    with resume.Partial(tmp_path / "data", {}), pytest.raises(UserError,
                                                              match="another job is writing"):
        resume.Partial(tmp_path / "data", {}).__enter__()
    with resume.Partial(tmp_path / "data", {}) as job:  # free again
        assert job.once("x", lambda: {"a": np.ones(2)})["a"].sum() == 2
        assert job.once("x", lambda: 1 / 0)["a"].sum() == 2


def test_unusable_examples_are_left_out_and_told_of(tmp_path, capsys):
    def odd():
        raise store.Unusable("silent", id="a9", expected="sound", found="none")

    def items():
        return [*make_examples(3, "a"), odd,
                lambda: [*make_examples(2, "c"), store.Unusable("swapped", id="c2")]]

    with pytest.raises(UserError, match="silent.*expected: sound"):  # not asked for
        write(tmp_path / "data", splits={"train": items()})
    with pytest.raises(UserError, match=r"too many.*at most 20%; found: 2 of 7: 1 x silent, 1 x "
                                        r"swapped"):
        write(tmp_path / "data", splits={"train": items()}, max_bad=0.2)
    dataset = write(tmp_path / "data", splits={"train": items()}, max_bad=0.5)
    assert dataset.ids == {"train": ["a0", "a1", "a2", "c0", "c1"]}
    told = [json.loads(line)
            for line in (tmp_path / "data.quarantine.jsonl").read_text().splitlines()]
    assert [(t["id"], t["reason"]) for t in told] == [("a9", "silent"), ("c2", "swapped")]
    assert "left out 2 of 7: 1 x silent, 1 x swapped" in capsys.readouterr().err
    with pytest.raises(UserError, match="empty split.*1 x silent"):
        write(tmp_path / "more", splits={"train": [odd]}, max_bad=1.0)


def test_killed_at_any_moment_a_job_goes_on_with_nothing_lost_or_doubled(tmp_path):
    """Real SIGKILLs, before and after every rename, synchronisation and removal; see
    kill_points.py."""
    program = pathlib.Path(__file__).with_name("kill_points.py")
    done = subprocess.run([sys.executable, program, tmp_path, "store"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 25
