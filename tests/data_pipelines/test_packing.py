"""Row k is a pure function of the seed and k; every example is in every epoch; nothing is cut or
lost."""

import collections
import dataclasses
import types

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.api import Spec
from avjax.systems.talker.rows import T2AV, TTS, TalkerRows
from data_pipelines.loading import loader, packing
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

PATCH, DELAY, AUDIO, MOTION, VOICE = 4, 2, 3, 5, 6
ROWS = TalkerRows(tokens=60, patches=30, utterances=4, patch=PATCH, delay=DELAY, audio_dim=AUDIO,
                  motion_dim=MOTION,
                  voice_dim=VOICE, max_frames=100)
FEATURES = {"id": Feature((), "str", "name"), "tokens": Feature((None,), "int32", "text"),
            "audio": Feature((None, AUDIO), "float32", "latents", "", 25.0),
            "motion": Feature((None, MOTION), "float32", "motion", "", 25.0),
            "voice": Feature((VOICE,), "float32", "who")}
SPEC = {"tokens": Spec(("batch", "tokens"), "int32", "text"),
        "audio": Spec(("batch", "time", AUDIO), "float32", "latents", rate=25.0),
        "motion": Spec(("batch", "time", MOTION), "float32", "motion", rate=25.0),
        "voice": Spec(("batch", VOICE), "float32", "who")}
SYSTEM = types.SimpleNamespace(example_spec=SPEC, rows=ROWS)
COUNT = 21  # of which every third has no motion


def example(i):
    """Every number tells its example and frame. Lengths 5..44 frames, audio and motion up to two
    apart."""
    frames = 5 + (i * 17) % 40
    motion = 0 if i % 3 == 0 else frames - i % 3
    values = 1000.0 * (i + 1) + np.arange(frames)[:, None]
    return {"id": f"e{i}", "tokens": np.arange(3 + i % 5, dtype=np.int32) + 10 * i,
            "audio": np.repeat(values, AUDIO, 1).astype(np.float32),
            "motion": np.repeat(-values[:motion], MOTION, 1).astype(np.float32),
            "voice": np.full(VOICE, i, np.float32)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return store.write_dataset(tmp_path_factory.mktemp("packing") / "data", name="demo",
                               description="for tests", features=FEATURES,
                               splits={"train": (example(i) for i in range(COUNT))}, recipes={})


def packed(dataset, seed=3, rows=ROWS):
    return packing.PackedRows(dataset.source("train"),
                              dataset.lengths("train", ("tokens", "audio", "motion")), rows, seed,
                              "here")


class Moving(TalkerRows):
    """Only examples with motion take anything."""

    def cost(self, lengths):
        return super().cost(lengths) if lengths["motion"] else dict.fromkeys(self.capacity, 0)


def test_lengths_are_stored(dataset):
    lengths = dataset.lengths("train", ("audio", "motion"))
    assert lengths["audio"].tolist() == [len(example(i)["audio"]) for i in range(COUNT)]
    assert lengths["motion"].tolist() == [len(example(i)["motion"]) for i in range(COUNT)]


def test_every_epoch_holds_every_example_and_no_row_overflows(dataset):
    rows = packed(dataset)
    orders = []
    for epoch in range(3):
        members = [m for k in range(*_bounds(rows, epoch)) for m in rows.members(k)]
        counts = collections.Counter(members)
        # 14 examples with motion, 7 without: those are read twice
        assert counts == {i: 2 if i % 3 == 0 else 1 for i in range(COUNT)}
        orders.append(tuple(members))
    assert len(set(orders)) == 3
    for k in range(*_bounds(rows, 0)):
        costs = [ROWS.cost({n: len(example(i)[n]) for n in ("tokens", "audio", "motion")})
                 for i in rows.members(k)]
        assert all(sum(c[n] for c in costs) <= size for n, size in ROWS.capacity.items())


def _bounds(rows, epoch):
    k = 0
    while len(rows._ends) <= epoch + 1:
        rows.members(k)
        k += 1
    return rows._ends[epoch], rows._ends[epoch + 1]


def test_rows_do_not_depend_on_the_order_they_are_asked_for(dataset):
    one, other = packed(dataset), packed(dataset)
    expected = [one[k] for k in range(25)]
    for k in (24, 3, 11, 0):
        for name, value in other[k].items():
            np.testing.assert_array_equal(value, expected[k][name])


def test_examples_that_take_nothing_are_in_no_row(dataset):
    """Nor read; the rows are those of a dataset without them."""
    moving = Moving(**dataclasses.asdict(ROWS))
    rows, alone = packed(dataset, rows=moving), packed(dataset,
                                                       rows=dataclasses.replace(moving,
                                                                                balance=False))
    there = [i for i in range(COUNT) if i % 3]
    for k in range(*_bounds(rows, 1)):
        assert set(rows.members(k)) <= set(there) and rows.members(k) == alone.members(k)
    costs = [tuple(ROWS.cost({n: len(example(i)[n])
                              for n in ("tokens", "audio", "motion")}).values()) for i in there]
    planned = packing.plan(np.array(costs), np.array(list(ROWS.capacity.values())),
                           np.random.default_rng([3, 0, 0]))
    assert [rows.members(k) for k in range(len(planned))] == [[there[i] for i in row]
                                                              for row in planned]
    with pytest.raises(UserError, match="no example to train on.*here.*tokens or patches or "
                                        "utterances.*7 that take nothing"):
        packing.PackedRows(range(7),
                           {n: x[::3] for n,
                            x in dataset.lengths("train", ("tokens", "audio", "motion")).items()},
                           moving, 3, "here")


def test_packing_is_tight():
    rng = np.random.default_rng(0)
    costs = rng.integers(5, 40, (2000, 1))
    rows = packing.plan(costs, np.array([128]), rng)
    assert sorted(np.concatenate(rows)) == list(range(2000))
    assert costs.sum() / (128 * len(rows)) > 0.93


def test_a_row_holds_its_examples_unchanged(dataset):
    rows = packed(dataset)
    for k in range(8):
        row, members = rows[k], rows.members(k)
        assert row["segment"].max() == row["patch_segment"].max() == len(members)
        for segment, i in enumerate(members, 1):
            expected = example(i)
            at = row["segment"] == segment
            motion_patches = len(expected["motion"]) // PATCH or bool(len(expected["motion"]))
            slots = max(-(-len(expected["audio"]) // PATCH), motion_patches + DELAY
                        if motion_patches else 0)
            assert at.sum() == 1 + len(expected["tokens"]) + slots
            assert row["position"][at].tolist() == list(range(at.sum()))
            tokens = row["tokens"][at]
            assert tokens[0] == (T2AV if len(expected["motion"]) else TTS)
            np.testing.assert_array_equal(tokens[1:1 + len(expected["tokens"])], expected["tokens"])
            patches = row["patch_segment"] == segment
            assert row["patch_index"][patches].tolist() == list(range(slots))
            assert row["patch_slot"][patches].tolist() == np.flatnonzero(at)[1
                                                                             + len(
                                                                                 expected[
                                                                                     "tokens"]):].tolist()
            for name, frames in (("audio", len(expected["audio"])),
                                 ("motion", motion_patches * PATCH)):
                got = row[name][patches].reshape(slots * PATCH, -1)
                assert row[f"{name}_valid"][patches].sum() == min(frames, len(expected[name]))
                np.testing.assert_array_equal(got[:frames][:len(expected[name])],
                                              expected[name][:frames])
            np.testing.assert_array_equal(row["speaker"][segment - 1], expected["voice"])
        padding = row["patch_segment"] == 0
        assert (row["patch_slot"][padding] == ROWS.tokens).all() and not row["audio"][padding].any()


@pytest.mark.parametrize("hosts", [1, 2])
def test_batches_resume_anywhere_on_any_number_of_hosts(dataset, hosts):
    def batches(start, count, hosts):
        loaders = [loader.make_loader(dataset, "train", SYSTEM, batch_size=4, segment=0 + 1, seed=5,
                                      host=h, num_hosts=hosts) for h in range(hosts)]
        for one in loaders:
            one.set_state({"next_index": start})
        out = [[next(one) for one in loaders] for _ in range(count)]
        for one in loaders:
            one.close()
        return [{n: np.concatenate([share[n] for share in shares]) for n in shares[0]}
                for shares in out]

    whole, part = batches(0, 9, 1), batches(6, 3, hosts)
    for expected, got in zip(whole[6:], part, strict=True):
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])


def test_long_clips_are_cut_at_random_and_together():
    rows = TalkerRows(tokens=60, patches=30, utterances=1, patch=PATCH, delay=DELAY,
                      audio_dim=AUDIO, motion_dim=MOTION,
                      voice_dim=VOICE, max_frames=12)
    starts = set()
    for seed in range(8):
        row = rows.build([example(16)], np.random.default_rng(seed))
        assert row["audio_valid"].sum() == 12
        audio, motion = row["audio"][0, 0, 0], row["motion"][0, 0, 0]
        assert audio == -motion
        starts.add(float(audio))
    assert len(starts) > 3


def test_examples_larger_than_a_row_are_named(dataset):
    small = TalkerRows(tokens=20, patches=6, utterances=2, patch=PATCH, delay=DELAY,
                       audio_dim=AUDIO, motion_dim=MOTION,
                       voice_dim=VOICE, max_frames=100)
    with pytest.raises(UserError, match=r"of 21 examples are larger than a row.*example "
                                        r"'e1'.*tokens <= 20.*hint"):
        loader.make_loader(dataset, "train", types.SimpleNamespace(example_spec=SPEC, rows=small),
                           batch_size=2, segment=1,
                           seed=0)


def test_streams_of_different_length_are_refused():
    bad = example(4) | {"motion": example(4)["motion"][:-3]}
    with pytest.raises(UserError, match="audio and motion differ in length.*'e4'"):
        ROWS.build([bad], np.random.default_rng(0))
