"""A mixture: exact shares, every source endless, batch k a pure function of (seed, k), what was
drawn counted without reading."""

import collections
import dataclasses
import types
import zlib

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.api import Rows, Spec
from data_pipelines.loading import loader, packing
from data_pipelines.loading.mixture import Interleaving, Part
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

RATE = 25.0
RECIPE = {"kind": "mel", "n_fft": 1024}
FEATURES = {"id": Feature((), "str", "name"), "mel": Feature((None, 2), "float32", "mel", "", RATE)}
SPEC = {"mel": Spec(("batch", "time", 2), "float32", "mel", rate=RATE, recipe=None)}
SIZES = {"large": 41, "small": 3, "third": 7}


class Pairs(Rows):
    """Two examples a row."""

    capacity = {"frames": 40}
    views = ("louder",)
    louder = False

    def cost(self, lengths):
        return {"frames": lengths["mel"]}

    def view(self, name):
        made = Pairs()
        made.louder = True
        return made

    def build(self, examples, rng):
        total = sum(float(e["mel"][0, 0]) for e in examples)
        return {"mel": np.full((1, 2), total * (1000 if self.louder else 1), np.float32)}


CROPS = types.SimpleNamespace(batch_spec=SPEC, example_spec=SPEC, rows=None)
PACKED = types.SimpleNamespace(batch_spec=SPEC, example_spec=SPEC, rows=Pairs())


def write(folder, name, *, recipe=RECIPE, features=FEATURES, more=()):
    def example(i):
        frames = 8 + (5 * i) % 12
        mel = np.full((frames, 2), i + 1, np.float32) + np.linspace(0, 0.5, frames)[:, None]
        return {"id": f"{name}{i}", "mel": mel.astype(features["mel"].dtype)} | dict(more)

    return store.write_dataset(folder / name, name="demo", description="", features=features,
                               recipes={"mel": recipe} if recipe else {}, progress=False,
                               splits={"train": (example(i) for i in range(SIZES[name]))})


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    return {name: write(folder, name) for name in SIZES}


@pytest.fixture(scope="module")
def parts(datasets):
    weights = {"large": 0.5, "small": 0.3, "third": 0.2}
    return [Part(datasets[name], "train", weight) for name, weight in weights.items()]


def read(parts, count, *, system=CROPS, hosts=1, start=0, threads=0, seed=5, batch_size=4):
    """`count` batches of all hosts from batch `start` on."""
    every = [loader.make_mixed_loader(parts, system, batch_size=batch_size, segment=6, seed=seed,
                                      host=h, num_hosts=hosts, threads=threads)
             for h in range(hosts)]
    try:
        for one in every if start else ():
            one.set_state({"next_index": start})
        shares = [[next(one) for one in every] for _ in range(count)]
        assert all(one.get_state() == {"next_index": start + count} for one in every)
    finally:
        for one in every:
            one.close()
    return [{k: np.concatenate([s[k] for s in share]) for k in share[0]} for share in shares]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True)
                                    for k in x)


def counted(batches):
    """{source: how often each of its examples was drawn}."""
    known = {zlib.crc32(f"{name}{i}".encode()): (name, i) for name, size in SIZES.items()
             for i in range(size)}
    found = collections.Counter(known[int(e)] for b in batches for e in b["example"])
    return {name: [found[name, i] for i in range(size)] for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def hundred(parts):
    return read(parts, 100)


def test_shares_are_exact_and_small_sources_are_repeated(hundred):
    """Grain's own mix ends with the smallest source, after 10 rows here."""
    drawn = counted(hundred)
    assert {name: sum(n) for name, n in drawn.items()} == {"large": 200, "small": 120, "third": 80}
    for counts in drawn.values():  # shuffled epoch by epoch: each as often as any other, or once
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("weights", [(0.7, 0.3), (7, 3), (1, 1, 1), (1e-3, 1), (0.4, 0.4, 0.2),
                                     (1 / 3, 2 / 3), (5,)])
def test_the_first_rows_have_their_shares_whatever_their_number(weights):
    order = Interleaving(weights, 2**50)
    seen = np.zeros(len(weights), int)
    for k in range(1200):
        source, index = order[k]
        assert index == seen[source]
        seen[source] += 1
        assert seen.tolist() == order.drawn(k + 1)
        assert (abs(seen - (k + 1) * np.array(weights) / sum(weights)) < 1.5).all()
    far = order.drawn(10**12)
    np.testing.assert_allclose(np.array(far) / 10**12, np.array(weights) / sum(weights), atol=1e-11)


@pytest.mark.parametrize("system", [CROPS, PACKED], ids=["crops", "packed"])
def test_hosts_threads_and_interruptions_do_not_change_batches(parts, system):
    whole = read(parts, 9, system=system)
    assert same(whole, read(parts, 9, system=system, hosts=4))
    assert same(whole, read(parts, 9, system=system, threads=2))
    assert same(whole[5:], read(parts, 4, system=system, start=5, hosts=2, threads=1))
    assert not same(whole, read(parts, 9, system=system, seed=6))


def test_one_source_is_what_it_was_before_there_were_mixtures(datasets):
    one = loader.make_loader(datasets["large"], "train", CROPS, batch_size=4, segment=6, seed=5)
    with one:
        assert same([next(one) for _ in range(5)], read([Part(datasets["large"], "train", 3.0)], 5))


def test_sources_of_one_size_do_not_march_in_step(datasets):
    twins = [Part(datasets["large"], "train"), Part(datasets["large"], "train", view="louder")]
    rows = [b["mel"][:, 0, 0] for b in read(twins, 8, system=PACKED)]
    plain, louder = (np.concatenate([r[k::2] for r in rows]) for k in range(2))
    assert (louder >= 1000).all() and (plain < 1000).all()
    assert not np.array_equal(1000 * plain, louder)


def test_what_was_drawn_is_known_without_reading(parts, hundred):
    with loader.make_mixed_loader(parts, CROPS, batch_size=4, segment=6, seed=5,
                                  threads=0) as crops:
        drawn = counted(hundred[:37])
        after = crops.drawn.after(37)
        for name, counts in drawn.items():
            assert after[f"{name}.train/examples"] == sum(counts)
            assert after[f"{name}.train/epochs"] == pytest.approx(sum(counts) / SIZES[name])
        assert set(crops.drawn.after(0).values()) == {0}
        report = crops.drawn.report(1000).splitlines()
    assert "small.train: 3 examples, 30.0% of the rows, 400 epochs in 1,000 steps" in report[2]


def test_packed_examples_are_counted_through_epochs(parts):
    with loader.make_mixed_loader(parts, PACKED, batch_size=4, segment=6, seed=5,
                                  threads=0) as packed:
        rows = packed.drawn.interleaving.drawn(4 * 50)
        for i, (part, n) in enumerate(zip(parts, rows, strict=True)):
            one = packing.PackedRows(part.dataset.source("train"),
                                     part.dataset.lengths("train", ["mel"]), PACKED.rows,
                                     loader._seed_of(5, i), "")
            members = sum(len(one.members(k)) for k in range(n))
            assert packed.drawn.after(50)[f"{part.dataset.dir.name}.train/examples"] == members
            assert members > n  # some rows hold two


@pytest.mark.parametrize("change, message", [
    (dict(recipe=RECIPE | {"n_fft": 2048}), "recipe of 'mel'.*small.*n_fft=1024.*as in "
                                            ".*large.*n_fft=2048.*hint"),
    (dict(recipe=None), "recipe of 'mel'.*found: none"),
])
def test_sources_that_differ_are_named(datasets, tmp_path, change, message):
    other = write(tmp_path, "small", **change)
    with pytest.raises(UserError, match=message):
        read([Part(datasets["large"], "train"), Part(other, "train")], 1)


def test_what_was_counted_in_a_corpus_may_differ_and_columns_that_nobody_reads(tmp_path):
    one = write(tmp_path, "large", recipe=RECIPE | {"filler": 3})
    two = write(tmp_path, "small", recipe=RECIPE | {"filler": 7}, more={"text": "x"},
                features=FEATURES | {"text": Feature((), "str", "said")})
    with loader.make_mixed_loader([Part(one, "train"), Part(two, "train")], CROPS, batch_size=4,
                                  segment=6, seed=5, threads=0) as mixed:
        next(mixed)
        assert mixed.notes == (f"columns that {one.dir} and {two.dir} do not share, and that this "
                               "system does not read: text",)
    needs = SPEC | {"text": Spec(("batch",), "str", "said")}
    with pytest.raises(UserError, match=f"needs feature 'text'.*{one.dir}"):
        read([Part(two, "train"), Part(one, "train")], 1,
             system=types.SimpleNamespace(batch_spec=SPEC, example_spec=needs, rows=None))


def test_views_are_the_system_s(datasets):
    for system, known in ((PACKED, "louder"), (CROPS, "none")):
        with pytest.raises(UserError, match=f"unknown view.*{known}.*'quiet'"):
            read([Part(datasets["large"], "train", view="quiet")], 1, system=system)


def test_one_speaker_fits_only_where_a_view_says_so(tmp_path):
    units = {"mel": Spec(("batch", "time", 2), "float32", "units", rate=RATE, speaker_axis=2)}
    alone = write(tmp_path, "small", features=FEATURES)
    alone = dataclasses.replace(alone, features=FEATURES | {
        "mel": dataclasses.replace(FEATURES["mel"], shape=(None, 1))})
    assert loader.check_features(alone, units, one_speaker=True) == ("mel",)
    with pytest.raises(UserError, match="width of 'mel'.*name which one that is"):
        loader.check_features(alone, units)
