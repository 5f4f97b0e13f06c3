"""Scores of held-out splits: right for a perfect system, independent of batches and order,
resumable to the row."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.inference import generator
from avjax.systems import api
from avjax.systems.avflow import config as avflow_config
from data_pipelines.store import dataset as store
from eval.report import tables
from eval.run import rows, runner
from eval.run.in_loop import InLoopEvaluator
from tests.eval import toys
from tests.systems.talker_tiny import random_params


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toys.write_corpus(tmp_path_factory.mktemp("corpus") / "features")


@pytest.fixture(scope="module")
def perfect(dataset, tmp_path_factory):
    """(results, folder) of a system that returns the targets."""
    out = tmp_path_factory.mktemp("perfect")
    system = toys.System()
    results = toys.evaluate(toys.benchmark(dataset),
                            generator.Generator(system, batch_size=4, seed=0),
                            system.init(None), out, splits=("valid", "other"), progress=False)
    return results, out


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """(results, folder) of a noisy system, in one process."""
    out = tmp_path_factory.mktemp("whole")
    return scores(dataset, noisy(), out), out


def scores(dataset, params, out, *, batch_size=4, seed=0, splits=("valid",), max_examples=0,
           share=rows.WHOLE):
    sampler = generator.Generator(toys.System(), batch_size=batch_size, seed=seed)
    return toys.evaluate(toys.benchmark(dataset, full=False), sampler, params, out, splits=splits,
                         progress=False, share=share, max_examples=max_examples)


def noisy(amount=0.3):
    return toys.System().init(None) | {"noise": jnp.float32(amount), "context": jnp.float32(0.1)}


def test_perfect_system_meets_every_target(perfect):
    results, _ = perfect
    model, truth = results["summary"]["valid"]["model"], results["summary"]["valid"]["truth"]
    assert model["F1_lips"]["value"] == 1 and model["mel_L1"]["value"] < 1e-6 and model["FD_e"][
        "value"] < 1e-6
    assert model["MCD"]["value"] < 1e-3 and model["BC_e_gap"]["value"] < 1e-6
    assert model["BC_e"]["value"] == pytest.approx(truth["BC_e"]["value"], abs=1e-6)
    for name in ("AV_offset", "AV_within_1", "AV_correlation"):
        assert model[name] == truth[name] and 0 < model[name]["n"] <= 6
    assert {t["metric"] for t in results["targets"]["valid"]} == {"F1_lips", "FD_e", "mel_L1",
                                                                  "MCD", "BC_h", "BC_e",
                                                                  "WER"}
    missed = [t["metric"] for t in results["targets"]["valid"] if not t["met"]]
    assert not missed


def test_baselines_are_bad(perfect):
    summary = perfect[0]["summary"]["valid"]
    assert summary["shuffled"]["mel_L1"]["value"] > 0.3 and summary["mean"]["mel_L1"]["value"] > 0.3
    assert summary["shuffled"]["F1_lips"]["value"] < 0.9
    assert summary["mean"]["Div_e"]["value"] == pytest.approx(0, abs=1e-6)
    assert summary["mean"]["BC_e"]["value"] is None or np.isnan(summary["mean"]["BC_e"]["value"])
    assert summary["mean"]["AV_offset"]["n"] == 0  # a still mouth
    assert summary["shuffled"]["AV_correlation"] != summary["truth"]["AV_correlation"]


def test_bad_system_misses_targets(dataset, tmp_path):
    results = scores(dataset, noisy(2.0), tmp_path)
    missed = {t["metric"] for t in results["targets"]["valid"] if not t["met"]}
    assert {"F1_lips", "mel_L1"} <= missed
    assert "missed" in tables.table(results)


def test_results_file_is_whole_json_with_recipes(perfect):
    results, out = perfect
    text = (out / runner.RESULTS_FILE).read_text()
    saved = json.loads(text)
    assert ": NaN" not in text and len(saved["rows"]) == 8
    for split in saved["summary"].values():
        for metric in split["model"]:
            assert metric in saved["recipes"], f"{metric} has no recipe"
    assert {r["id"] for r in saved["rows"]} == {f"valid/{i}"
                                                for i in range(6)} | {f"other/{i}"
                                                                      for i in range(2)}
    table = tables.table(results)
    assert "target: F1_lips >= 0.95: met" in table and "shuffled" in table


def test_streams_do_not_depend_on_batch_size_or_order(dataset):
    source = dataset.source("valid", ("tokens",))
    examples = [(name, source[i]) for i, name in enumerate(source.ids)]
    params = noisy()
    together = dict(generator.Generator(toys.System(), batch_size=4, seed=0)(params, examples))
    alone = dict(generator.Generator(toys.System(), batch_size=1, seed=0)(params, examples[::-1]))
    other_seed = dict(generator.Generator(toys.System(), batch_size=4, seed=1)(params, examples))
    for name, example in examples:
        assert len(together[name]["mel"]) == len(example["tokens"])
        for stream, value in together[name].items():
            np.testing.assert_allclose(alone[name][stream], value, atol=1e-5)
        assert np.abs(other_seed[name]["mel"] - together[name]["mel"]).max() > 0.1


@pytest.mark.slow
def test_avflow_samples_do_not_depend_on_batch_size_or_padding(monkeypatch):
    config = avflow_config.default()
    config.update(d_model=32, num_blocks=2, num_heads=2, d_ff=32, face_dim=4, head_dim=3,
                  token_dim=5, euler_steps=2)
    system = api.build(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x / 3, random_params(system))
    examples = [(f"e{n}", {"tokens": rng.normal(size=(n, 5)).astype(np.float32)})
                for n in (40, 60, 90, 100, 126)]
    together = dict(generator.Generator(system, batch_size=4, seed=0)(params, examples))
    alone = dict(generator.Generator(system, batch_size=1, seed=0)(params, examples[::-1]))
    monkeypatch.setattr(generator, "bucket", lambda length: 192)
    padded = dict(generator.Generator(system, batch_size=3, seed=0)(params, examples))
    for name, streams in together.items():
        for stream, value in streams.items():
            assert value.std() > 0.1
            np.testing.assert_allclose(alone[name][stream], value, atol=1e-4)
            np.testing.assert_allclose(padded[name][stream], value, atol=1e-4)


def test_scores_do_not_depend_on_what_else_is_scored(dataset, tmp_path):
    everything = scores(dataset, noisy(), tmp_path / "a", batch_size=4)
    some = scores(dataset, noisy(), tmp_path / "b", batch_size=3, max_examples=3)
    by_id = {r["id"]: r for r in everything["rows"]}
    assert len(some["rows"]) == 3
    for row in some["rows"]:
        for variant in ("model", "truth", "shuffled", "mean"):
            assert row[variant]["mel_L1"] == pytest.approx(by_id[row["id"]][variant]["mel_L1"],
                                                           rel=1e-5)
            assert row[variant]["FD_e"] == pytest.approx(by_id[row["id"]][variant]["FD_e"],
                                                         rel=1e-4, abs=1e-9)



def without_seconds(folder):
    """results.json as it is on disk, but for how long it took."""
    found = json.loads((folder / runner.RESULTS_FILE).read_text())
    return found | {"seconds": None, "summary": untimed(found)}


def untimed(results):
    """The summary without RTF, which no other run repeats."""
    return {split: {variant: {name: entry for name, entry in of.items() if name != "RTF"}
                    for variant, of in variants.items()}
            for split, variants in results["summary"].items()}


def test_the_real_time_factor_is_that_of_batches_that_were_compiled_before(dataset, tmp_path,
                                                                           monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(generator.time, "perf_counter", lambda: float(next(clock)))
    results = scores(dataset, noisy(), tmp_path, batch_size=1)
    entry = results["summary"]["valid"]["model"]["RTF"]
    frames = {row["id"]: row["model"]["frames"] for row in results["rows"]}
    assert 0 < entry["n"] < len(frames)  # a second each, of up to that many seconds of media
    assert 30 / max(frames.values()) < entry["value"] < 30 / min(frames.values())
    assert "RTF" not in results["summary"]["valid"]["truth"]
    assert scores(dataset, noisy(), tmp_path, batch_size=1)["summary"] == results["summary"]


def test_shares_give_what_one_process_gives(dataset, whole, tmp_path, monkeypatch):
    """In any order; after the last one, whoever comes again scores and writes nothing."""
    assert scores(dataset, noisy(), tmp_path, share=(1, 2)) is None
    assert rows.not_begun(tmp_path, (1, 2)) == [0]
    assert not (tmp_path / runner.RESULTS_FILE).exists()
    merged = scores(dataset, noisy(), tmp_path, share=(0, 2))
    assert rows.not_begun(tmp_path, (1, 2)) == []
    assert without_seconds(tmp_path) == without_seconds(whole[1])
    assert untimed(merged) == untimed(whole[0]) and merged["rows"] == whole[0]["rows"]
    for k in range(2):
        path = tmp_path / rows.rows_file((k, 2))
        ids = {json.loads(line)["key"].split("|")[1] for line in path.read_text().splitlines()}
        assert ids == {f"valid/{i}" for i in range(k, 6, 2)}
    monkeypatch.setattr(rows.Rows, "put", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr(runner, "write_json", lambda *_: pytest.fail("written again"))
    assert scores(dataset, noisy(), tmp_path, share=(1, 2))["rows"] == merged["rows"]


def test_what_a_dead_share_left_is_finished_with_any_number_of_shares(dataset, whole, tmp_path,
                                                                      monkeypatch):
    """Rows of one process, and of other shares, count; a line that another is writing does not."""
    lines = (whole[1] / rows.ROWS_FILE).read_text().splitlines(keepends=True)
    shutil.copytree(whole[1] / rows.FRAMES_DIR, tmp_path / rows.FRAMES_DIR)
    (tmp_path / rows.ROWS_FILE).write_text("".join(lines[:9]))
    other = tmp_path / rows.rows_file((2, 3))
    other.write_text("".join(lines[9:14]) + lines[14][:30])
    added, put = [], rows.Rows.put
    monkeypatch.setattr(rows.Rows, "put", lambda self, *row: added.append(row) or put(self, *row))
    assert scores(dataset, noisy(), tmp_path, share=(0, 2)) is None
    assert scores(dataset, noisy(), tmp_path, share=(1, 2)) is not None
    assert len(added) == 4 * 6 - 14
    assert other.read_text().endswith(lines[14][:30])  # another process' file
    assert without_seconds(tmp_path) == without_seconds(whole[1])


def test_killed_job_goes_on(dataset, whole, tmp_path, monkeypatch):
    whole, _ = whole
    out = tmp_path / "killed"
    lines = []

    def killed_after(n):
        put = rows.Rows.put

        def wrapped(self, key, *row):
            if len(lines) == n:
                raise KeyboardInterrupt
            lines.append(key)
            put(self, key, *row)
        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(rows.Rows, "put", killed_after(5))
        with pytest.raises(KeyboardInterrupt):
            scores(dataset, noisy(), out)
    assert not (out / runner.RESULTS_FILE).exists()
    path = out / rows.ROWS_FILE
    assert len(path.read_text().splitlines()) == 5
    with open(path, "a") as file:
        file.write('{"key": "valid|torn", "ro')  # the line a crash tore
    lines.clear()
    with monkeypatch.context() as patch:
        patch.setattr(rows.Rows, "put", killed_after(10**6))
        resumed = scores(dataset, noisy(), out)
    assert len(lines) == 4 * 6 - 5, "rows already there were computed again"
    assert [json.loads(x)["key"]
            for x in path.read_text().splitlines()] and "torn" not in path.read_text()
    for a, b in zip(whole["rows"], resumed["rows"], strict=True):
        assert a == b
    assert untimed(whole) == untimed(resumed)


def test_other_parameters_reuse_only_the_baselines(dataset, tmp_path):
    scores(dataset, noisy(), tmp_path)
    before = len((tmp_path / rows.ROWS_FILE).read_text().splitlines())
    scores(dataset, noisy(0.5), tmp_path)
    assert len((tmp_path / rows.ROWS_FILE).read_text().splitlines()) == before + 6


def test_frames_are_read_when_they_are_asked_for(tmp_path):
    store = rows.Rows(tmp_path)
    store.put("a", {"x": 1}, {"face": np.ones((2, 3)), "none": np.zeros((0, 3))})
    row, frames = rows.Rows(tmp_path).get("a")
    assert row == {"x": 1} and list(frames) == ["face", "none"] and "pose" not in frames
    assert not any(isinstance(x, np.ndarray) for x in vars(frames).values())
    assert frames["face"].shape == (2, 3) and frames.get("pose") is None


def test_lost_frames_are_computed_again(dataset, tmp_path):
    first = scores(dataset, noisy(), tmp_path)
    for path in sorted((tmp_path / rows.FRAMES_DIR).iterdir())[:3]:
        path.write_bytes(b"torn")
    assert untimed(scores(dataset, noisy(), tmp_path)) == untimed(first)


def test_damaged_row_is_named(dataset, tmp_path):
    scores(dataset, noisy(), tmp_path)
    path = tmp_path / rows.ROWS_FILE
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(UserError, match=r"results\.rows\.jsonl:1"):
        scores(dataset, noisy(), tmp_path)


def test_shuffled_is_another_sentence_of_the_same_speaker(dataset):
    bench = toys.benchmark(dataset, full=False)
    speakers, texts = bench.labels("valid")
    for index in range(6):
        other = bench.other("valid", index)
        assert texts[other] != texts[index] and speakers[other] == speakers[index]
        assert other == toys.benchmark(dataset, full=False).other("valid", index)


def test_unknown_split_lists_the_splits(dataset, tmp_path):
    with pytest.raises(UserError, match="train or valid or other"):
        scores(dataset, noisy(), tmp_path, splits=("tset",))


def test_recipe_mismatch_is_refused(dataset):
    runner.check(toys.System({"kind": "toy"}), dataset)
    with pytest.raises(UserError, match="recipe of 'mel' differs"):
        runner.check(toys.System({"kind": "another vocoder's"}), dataset)


def test_diverged_model_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        scores(dataset, noisy(float("nan")), tmp_path)


def test_fingerprint_sees_values_and_names():
    params = noisy()
    assert runner.fingerprint(params) == runner.fingerprint(jax.tree.map(np.asarray, params))
    assert runner.fingerprint(params) != runner.fingerprint(noisy(0.31))
    assert runner.fingerprint({"a": params["w"]}) != runner.fingerprint({"b": params["w"]})


def test_buckets_are_few_and_tight():
    sizes = [api.bucket(n) for n in range(1, 2000)]
    assert all(s >= n for n, s in enumerate(sizes, 1)) and len(set(sizes)) < 12
    assert all(s <= 1.5 * n for n, s in enumerate(sizes, 1) if n > 64)


def test_in_loop_evaluator(dataset):
    config = toys.config(in_loop_examples=3)
    evaluator = InLoopEvaluator(config, toys.System(), toys.benchmark(dataset, full=False),
                                every=10)
    good, shown = evaluator.run(toys.System().init(None), 10)
    bad, _ = evaluator.run(noisy(1.0), 20)
    assert good["F1_lips"] == 1 and good["mel_L1_of_shuffled"] < 1e-5
    assert bad["mel_L1_of_shuffled"] > 0.3 and bad["FD_e"] > good["FD_e"]
    assert all(isinstance(v, float) for v in good.values())
    assert shown["images"]["face"].shape == (64, 6 * 32, 3)
    assert all(i.dtype == np.uint8 and i.ndim == 3 for i in shown["images"].values())
    wave, rate = shown["audio"]["generated"]
    assert rate == 22050 and len(wave) > 22050


def test_rows_survive_another_dataset(dataset, tmp_path):
    """A dataset with other content has another recipe hash: nothing is taken from the old one's
    rows."""
    other = toys.write_corpus(tmp_path / "features", seed=1)
    assert toys.benchmark(other,
                          full=False).recipe_hash != toys.benchmark(dataset, full=False).recipe_hash
    again = toys.benchmark(store.open_dataset(dataset.dir), full=False)
    assert again.recipe_hash == toys.benchmark(dataset, full=False).recipe_hash
