"""Batch k is a pure function of (seed, k): whatever the hosts, the threads, the interruptions."""

import collections
import dataclasses
import types
import zlib

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.api import Spec
from data_pipelines.loading import loader
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

RATE = 22050 / 256
RECIPE = {"kind": "log-mel", "n_fft": 1024}
SPEC = {
    "mel": Spec(("batch", "time", 6), "float32", "mel", rate=RATE, recipe=RECIPE),
    "face": Spec(("batch", "time", 3), "float32", "face", rate=RATE),
    "identity": Spec(("batch", 8), "float32", "identity"),
    "mask": Spec(("batch", "time"), "float32", "real frames"),
}
FEATURES = {
    "id": Feature((), "str", "name"),
    "mel": Feature((None, 6), "float32", "mel", "", RATE),
    "face": Feature((None, 3), "float32", "face", "", RATE),
    "slow": Feature((None, 3), "float32", "face at 30 Hz", "", 30.0),
    "identity": Feature((8,), "float32", "identity"),
}

def model(spec):
    """What the loader asks of a System that trains on crops."""
    return types.SimpleNamespace(batch_spec=spec,
                                 example_spec={n: s for n, s in spec.items() if n != "mask"},
                                 rows=None)


TRAIN, VALID = 23, 7  # a prime number of examples: batches of 8 straddle epochs
SEGMENT = 16


def example(i, prefix, frames=None):
    """Every number tells which example, frame and channel it is."""
    frames = frames or 10 + (7 * i) % 31
    mel = i * 1000.0 + np.arange(frames)[:, None] + np.arange(6) / 10
    return {"id": f"{prefix}{i}", "mel": mel.astype(np.float32),
            "face": -mel[:, :3].astype(np.float32),
            "slow": mel[:frames // 3 + 1, :3].astype(np.float32),
            "identity": np.full(8, i, np.float32)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return store.write_dataset(
        tmp_path_factory.mktemp("loader") / "data", name="demo", description="for tests",
        features=FEATURES,
        splits={"train": (example(i, "train") for i in range(TRAIN)),
                "valid": (example(100 + i, "valid") for i in range(VALID))},
        recipes={"mel": RECIPE})


def batches(dataset, count, *, hosts=1, start=0, split="train", seed=3, threads=2, batch_size=8):
    """`count` global batches: the hosts' shares in order."""
    loaders = [loader.make_loader(dataset, split, model(SPEC), batch_size=batch_size,
                                  segment=SEGMENT, seed=seed, host=h, num_hosts=hosts,
                                  threads=threads) for h in range(hosts)]
    try:
        if start:
            for one in loaders:
                one.set_state({"next_index": start})
        shares = [[next(one) for one in loaders] for _ in range(count)]
        assert all(one.get_state() == {"next_index": start + count} for one in loaders)
    finally:
        for one in loaders:
            one.close()
    return [{k: np.concatenate([s[k] for s in share]) for k in share[0]} for share in shares]


def same(a, b):
    assert len(a) == len(b)
    return all(x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x,
               y in zip(a, b, strict=True))


def test_batches_fit_the_spec(dataset):
    [batch] = batches(dataset, 1)
    assert batch.keys() == {*SPEC, "example"} and batch["example"].dtype == np.uint32
    for name, spec in SPEC.items():
        expected = spec.resolve(batch=8, time=SEGMENT)
        assert batch[name].shape == expected.shape and batch[name].dtype == expected.dtype


def test_crops_are_aligned_and_padding_repeats_the_last_frame(dataset):
    ids = {zlib.crc32(f"train{i}".encode()): i for i in range(TRAIN)}
    starts = set()
    for batch in batches(dataset, 12):
        for b in range(8):
            i = ids[int(batch["example"][b])]
            mel, frames = example(i, "train")["mel"], 10 + (7 * i) % 31
            start = int(batch["mel"][b, 0, 0] - i * 1000)
            real = min(SEGMENT, frames)
            np.testing.assert_array_equal(batch["mel"][b, :real], mel[start:start + real])
            np.testing.assert_array_equal(batch["mel"][b, real:],
                                          np.repeat(mel[-1:], SEGMENT - real, 0))
            np.testing.assert_array_equal(batch["face"][b], -batch["mel"][b][:, :3])
            np.testing.assert_array_equal(batch["mask"][b], np.arange(SEGMENT) < real)
            assert (batch["identity"][b] == i).all()
            starts.add((i, start))
    assert len(starts) > 2 * TRAIN  # crops do vary


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_do_not_change_batches(dataset, hosts):
    assert same(batches(dataset, 7), batches(dataset, 7, hosts=hosts))


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_do_not_change_batches(dataset, threads):
    assert same(batches(dataset, 7), batches(dataset, 7, threads=threads))


@pytest.mark.parametrize("hosts", [1, 4])
def test_resuming_on_any_number_of_hosts_continues_exactly(dataset, hosts):
    assert same(batches(dataset, 9)[5:], batches(dataset, 4, start=5, hosts=hosts))


def test_set_state_goes_back_as_well_as_forward(dataset):
    reference = batches(dataset, 6)
    with loader.make_loader(dataset, "train", model(SPEC), batch_size=8, segment=SEGMENT,
                            seed=3) as one:
        for _ in range(6):
            next(one)
        for k in (4, 0, 5):
            one.set_state({"next_index": k})
            assert same([next(one)], [reference[k]])


def test_seed_changes_order_and_crops(dataset):
    assert not same(batches(dataset, 3), batches(dataset, 3, seed=4))


def test_every_epoch_holds_every_example_once_in_another_order(dataset):
    seen = np.concatenate([b["example"] for b in batches(dataset, 3 * TRAIN)])  # 24 epochs
    epochs = seen.reshape(-1, TRAIN)
    expected = sorted(zlib.crc32(f"train{i}".encode()) for i in range(TRAIN))
    for epoch in epochs:
        assert sorted(epoch.tolist()) == expected
    assert len({tuple(e) for e in epochs.tolist()}) == len(epochs)


def test_no_example_of_another_split_is_ever_seen(dataset):
    seen = {int(e) for b in batches(dataset, 30, split="valid") for e in b["example"]}
    assert seen == {zlib.crc32(f"valid{100 + i}".encode()) for i in range(VALID)}


def test_crop_starts_are_uniform(tmp_path):
    one = store.write_dataset(tmp_path / "data", name="demo", description="", features=FEATURES,
                              recipes={"mel": RECIPE},
                              splits={"train": [example(0, "x", frames=SEGMENT + 3)]})
    starts = collections.Counter(int(x) for b in batches(one, 100) for x in b["mel"][:, 0, 0])
    assert set(starts) == {0, 1, 2, 3} and min(starts.values()) > 140


def test_a_corrupt_record_is_a_user_error_through_the_threads(tmp_path):
    dataset = store.write_dataset(tmp_path / "data", name="demo", description="", features=FEATURES,
                                  recipes={"mel": RECIPE},
                                  splits={"train": (example(i, "x") for i in range(9))})
    shard = next(dataset.dir.glob("*.array_record*"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=f"corrupt.*{shard.name}"):
        batches(store.open_dataset(dataset.dir), 3)


def test_streams_of_different_lengths_are_refused_by_name(tmp_path):
    bad = example(3, "x")
    bad["face"] = bad["face"][:-1]
    dataset = store.write_dataset(tmp_path / "data", name="demo", description="", features=FEATURES,
                                  recipes={"mel": RECIPE}, splits={"train": [bad]})
    with pytest.raises(UserError, match="differ in length.*'x3'"):
        batches(dataset, 1)


def replace(name, **changes):
    return SPEC | {name: dataclasses.replace(SPEC[name], **changes)}


@pytest.mark.parametrize("spec, message", [
    (SPEC | {"head": SPEC["face"]}, "needs feature 'head'.*hint"),
    (replace("mel", shape=("batch", "time", 80)), r"width of 'mel'.*80.*6.*hint"),
    (replace("identity", shape=("batch", 4)), "width of 'identity'"),
    (replace("face", dtype="float16"), "dtype of 'face'.*float16.*float32"),
    (replace("face", rate=30.0), "frame rate of 'face'.*30.0 Hz"),
    (replace("mel", recipe=RECIPE | {"n_fft": 2048}), "recipe of "
                                                      "'mel'.*n_fft=2048.*n_fft=1024.*hint"),
    (replace("face", recipe={"kind": "x"}), "recipe of 'face'.*no recipe"),
    (SPEC | {"slow": Spec(("batch", "time", 3), "float32", "30 Hz", rate=30.0)},
     "different time axes"),
])
def test_features_that_do_not_fit_the_model_are_refused(dataset, spec, message):
    with pytest.raises(UserError, match=message):
        loader.make_loader(dataset, "train", model(spec), batch_size=8, segment=SEGMENT, seed=0)


@pytest.mark.parametrize("arguments, message", [
    (dict(batch_size=9, num_hosts=2), "does not divide.*2 hosts.*9.*hint"),
    (dict(batch_size=0), "does not divide"),
    (dict(host=2, num_hosts=2), "no such host"),
    (dict(segment=0), "segment"),
    (dict(split="test"), "unknown split"),
])
def test_arguments_that_make_no_batch_are_refused(dataset, arguments, message):
    arguments = dict(split="train", batch_size=8, segment=SEGMENT, seed=0) | arguments
    split = arguments.pop("split")
    with pytest.raises(UserError, match=message):
        loader.make_loader(dataset, split, model(SPEC), **arguments)
