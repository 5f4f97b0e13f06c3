"""Systems with several tasks that decide lengths themselves: variants, what each is scored on,
lengths, alignment."""

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.inference import generator
from data_pipelines import decode
from eval.benchmarks import clips
from eval.report import page, tables
from eval.run import rows, runner
from eval.run.in_loop import InLoopEvaluator
from tests.eval import toys


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toys.write_tasks_corpus(tmp_path_factory.mktemp("corpus") / "features")


@pytest.fixture(scope="module")
def slow_speaker(dataset, tmp_path_factory):
    """(benchmark, results, folder) of a system that says everything right, but 1.25 times as
    long."""
    out, bench = tmp_path_factory.mktemp("slow"), toys.tasks_benchmark(dataset)
    results = toys.evaluate(bench, sampler(), params(1.25), out, splits=("valid",),
                            progress=False)
    return bench, results, out


def sampler(batch_size=4):
    return generator.Generator(toys.TasksSystem(), batch_size=batch_size, seed=0)


def params(pace=1.0, noise=0.0):
    return {"pace": jnp.float32(pace), "noise": jnp.float32(noise)}


def examples(dataset):
    source = dataset.source("valid")
    return [(name, source[i]) for i, name in enumerate(source.ids)]


def test_each_task_is_scored_on_what_it_makes(slow_speaker):
    summary = slow_speaker[1]["summary"]["valid"]
    assert tuple(summary) == ("both", "voice", "face", "dub", "truth", "shuffled", "mean")
    sound = {"mel_L1", "mel_L1_dtw", "MCD"}
    motion = {"F1_lips", "F1_lips_dtw", "FD_e", "FD_h", "Div_e", "FD_e_pooled"}
    beats, length = {"BC_e", "BC_h_gap"}, {"length_error", "length_error_signed", "stop_within_2"}
    for variant, has in (("both", sound | motion | beats | length), ("voice", sound | length),
                         ("face", motion | beats), ("dub", sound | beats),
                         ("truth", sound | motion | beats | length)):
        assert has <= summary[variant].keys(), variant
        assert not (sound | motion | beats | length) - has & summary[variant].keys(), variant


def test_given_streams_are_the_truths_own(slow_speaker):
    summary = slow_speaker[1]["summary"]["valid"]
    assert summary["face"]["F1_lips"]["value"] == summary["face"]["F1_lips_dtw"]["value"] == 1
    assert summary["face"]["BC_e_gap"]["value"] == pytest.approx(0, abs=1e-6)
    assert summary["dub"]["mel_L1"]["value"] == summary["dub"]["mel_L1_dtw"]["value"] == 0


@pytest.mark.parametrize("kept", [1, 0])
def test_training_clips_without_motion_do_not_end_an_evaluation(dataset, monkeypatch, kept):
    """Most motion of the training clips may be left out (`speech_only`), or all of it."""
    bench = toys.tasks_benchmark(dataset)
    order = bench.select("train", 0)
    bench._has_frames("train")[order[:len(order) - kept], bench.streams.index("motion")] = False
    without = {dataset.ids["train"][i] for i in order[:len(order) - kept]}
    read = bench.read
    monkeypatch.setattr(bench, "read", lambda example: read(
        example | {"motion": example["motion"][:0]} if example["id"] in without else example))
    assert len(bench.training) == (kept or len(order))
    streams = {name: dataset.source("valid")[0][name] for name in ("audio", "motion")}
    gap = bench.score("valid", 0, bench.model(streams, "both", "valid", 0))["BC_e_gap"]
    assert gap == 0 if kept else np.isnan(gap)


def test_what_was_made_up_for_an_example_is_not_scored(dataset, monkeypatch):
    bench, example = toys.tasks_benchmark(dataset), dataset.source("valid")[0]
    streams = {"audio": example["audio"], "motion": np.zeros_like(example["motion"])}
    assert bench.model(streams, "dub", "valid", 0).scored == {"audio"}
    monkeypatch.setitem(bench.truth("valid", 0).streams, "motion", example["motion"][:0])
    assert not bench.model(streams, "dub", "valid", 0).scored


def test_another_pace_costs_raw_metrics_and_not_aligned_ones(slow_speaker):
    summary = slow_speaker[1]["summary"]["valid"]
    both, shuffled = summary["both"], summary["shuffled"]
    assert both["F1_lips"]["value"] < 0.8 < 0.95 < both["F1_lips_dtw"]["value"]
    assert both["mel_L1_dtw"]["value"] < 0.3 * both["mel_L1"]["value"]
    # the baseline gains from the same freedom, and is still far off
    assert shuffled["mel_L1_dtw"]["value"] < shuffled["mel_L1"]["value"]
    assert both["mel_L1_dtw"]["value"] < 0.3 * shuffled["mel_L1_dtw"]["value"]
    assert shuffled["F1_lips_dtw"]["value"] < 0.9


def test_lengths(dataset, slow_speaker):
    summary = slow_speaker[1]["summary"]["valid"]
    assert summary["both"]["length_error"]["value"] == pytest.approx(0.25, abs=0.01)
    assert summary["both"]["length_error_signed"]["value"] == pytest.approx(0.25, abs=0.01)
    assert summary["both"]["stop_within_2"]["value"] == 0 and summary["truth"]["stop_within_2"][
        "value"] == 1
    assert summary["truth"]["length_error"]["value"] == 0
    source, bench = dataset.source("valid"), slow_speaker[0]
    others = [len(source[bench.other("valid", i)]["audio"]) / len(source[i]["audio"]) - 1
              for i in range(4)]
    assert summary["shuffled"]["length_error_signed"]["value"] == pytest.approx(np.mean(others))
    short = bench.model({"audio": source[0]["audio"][:-8]}, "voice", "valid", 0)
    shorter = bench.model({"audio": source[0]["audio"][:-9]}, "voice", "valid", 0)
    assert bench.score("valid", 0,
                       short)["stop_within_2"] == 1 and bench.score("valid", 0,
                                                                    shorter)["stop_within_2"] == 0
    assert bench.score("valid", 0, short)["length_error_signed"] < 0


def test_targets_of_absent_tasks_are_not_asked(slow_speaker):
    bench, results, _ = slow_speaker
    summary = results["summary"]["valid"]
    assert bench.targets(summary) == []  # other tasks' names
    renamed = {"t2av": summary["both"], "a2v": summary["face"],
               **{k: summary[k] for k in ("truth", "shuffled", "mean")}}
    met = {(t["metric"], t["met"]) for t in bench.targets(renamed)}
    assert {("a2v F1_lips", True), ("t2av mel_L1_dtw", True), ("t2av F1_lips_dtw", True)} <= met
    assert ("t2av stop_within_2", False) in met and not any("tts" in name for name, _ in met)


def test_more_tasks_reuse_the_rows(dataset, tmp_path):
    def run(*tasks):
        results = toys.evaluate(toys.tasks_benchmark(dataset, full=False, tasks=tasks), sampler(),
                                params(), tmp_path,
                                splits=("valid",), progress=False)
        return results, len((tmp_path / rows.ROWS_FILE).read_text().splitlines())

    some, count = run("face")
    assert tuple(some["summary"]["valid"]) == ("face", "truth", "shuffled",
                                               "mean") and count == 4 * 4
    every, count = run()
    assert every["models"] == ["both", "voice", "face", "dub"] and count == 7 * 4
    assert every["summary"]["valid"]["face"] == some["summary"]["valid"]["face"]
    with pytest.raises(UserError, match="unknown task.*both or voice or face or dub.*'lips'"):
        toys.tasks_benchmark(dataset, tasks=("lips",))


def test_streams_depend_neither_on_company_nor_on_padding(dataset):
    """Prompts of 3 to 93 ids, so that alone each is padded otherwise than in company."""
    together = dict(sampler(4)(params(1.1, 0.3), examples(dataset), "both"))
    alone = {}
    for example in examples(dataset):
        alone |= dict(sampler(1)(params(1.1, 0.3), [example], "both"))
    for name, example in examples(dataset):
        assert len(together[name]["audio"]) == round(1.1
                                                     * len(
                                                         example[
                                                             "audio"])) and "stop" not in together[
                                                                 name]
        for stream, value in together[name].items():
            np.testing.assert_allclose(alone[name][stream], value, atol=1e-5)


def test_noise_is_the_same_in_every_task(dataset):
    voice = dict(sampler()(params(1, 0.3), examples(dataset), "voice"))
    dub = dict(sampler()(params(1, 0.3), examples(dataset), "dub"))
    for name in voice:
        np.testing.assert_allclose(voice[name]["audio"], dub[name]["audio"], atol=1e-5)
        assert voice[name].keys() == {"audio"}


def test_one_compilation_a_task_and_bucket(dataset):
    one = sampler(2)
    for task in ("voice", "voice", "dub"):
        list(one(params(), examples(dataset), task))
    assert len(one.system.traces) == len(set(one.system.traces)) and {t for t,
                                                                      *_ in one.system.traces} == {
                                                                          "voice", "dub"}
    with pytest.raises(UserError, match="unknown task.*'sing'"):
        list(one(params(), examples(dataset), "sing"))


def test_table_and_report_show_every_variant(dataset, slow_speaker, tmp_path):
    bench, results, _ = slow_speaker
    text = tables.table(results)
    header = next(line for line in text.splitlines() if "metric" in line)
    assert all(v in header for v in bench.variants) and max(map(len, text.splitlines())) < 125
    row = next(line for line in text.splitlines() if line.split()[:1] == ["F1_lips_dtw"])
    assert len(row.split()) == 2 + 7 and row.split()[3] == "-"
    shown = runner.samples(bench, sampler(), params(1.25), ("valid",), 1)
    html = page.write(tmp_path, results, shown).read_text()
    assert html.count("<video") == 4 and html.count("<audio") == 1  # the voice has no face
    assert html.count("class=model") >= 4 and "stop_within_2" in html


def test_in_loop_names_tasks(dataset):
    evaluator = InLoopEvaluator(toys.config(in_loop_examples=2), toys.TasksSystem(),
                                toys.tasks_benchmark(dataset, full=False), every=10)
    metrics, shown = evaluator.run(params(1.25), 10)
    assert metrics["face/F1_lips"] == 1 and metrics["both/mel_L1_dtw_of_shuffled"] < 0.4
    assert metrics["voice/length_error"] == pytest.approx(0.25, abs=0.02)
    assert "voice/F1_lips" not in metrics
    assert {"both/spectrogram", "face/face", "dub/spectrogram"} <= shown["images"].keys()
    assert shown["audio"].keys() == {"both/generated", "voice/generated", "dub/generated", "truth"}


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """(benchmark, sampler) of motion that nothing here can take apart."""
    dataset = toys.write_codes_corpus(tmp_path_factory.mktemp("codes"))
    system = toys.TasksSystem(32, 40)
    decoder = decode.Decoder.from_dataset(dataset, iterations=2)
    return (clips.Benchmark(toys.config(in_loop_examples=5, tasks=("both", "face")), decoder,
                            dataset, system),
            generator.Generator(system, batch_size=4, seed=0))


@pytest.fixture(scope="module")
def scored_codes(codes, tmp_path_factory):
    out = tmp_path_factory.mktemp("codes")
    return toys.evaluate(*codes, params(noise=1.0), out, splits=("valid",), progress=False)


def test_motion_without_a_face_code_is_scored_as_it_is(codes, scored_codes):
    bench, results, summary = codes[0], scored_codes, scored_codes["summary"]["valid"]
    motion = {"FD_m", "FK_m", "FD_m_pooled", "Div_m", "BC_m", "BC_m_gap"}
    for variant in ("both", "face", "truth", "shuffled", "mean"):
        assert motion <= summary[variant].keys(), variant
        assert not [m for m in summary[variant]
                    if m.startswith(("F1", "BC_e", "BC_h", "FD_e", "FD_h", "var", "stop"))]
    assert {m for v in summary.values() for m in v} <= results["recipes"].keys()
    assert results["recipes"]["FD_m"]["fps"] == results["recipes"]["BC_m"]["fps"] == 25
    # the face is the truth's, frame by frame; one clip has none
    face, shuffled = summary["face"], summary["shuffled"]
    assert face["FD_m"]["value"] < 1e-6 < 1 < shuffled["FD_m"]["value"] and face["FD_m"]["n"] == 4
    assert face["BC_m_gap"]["value"] < 1e-6 and shuffled["FD_m"]["n"] == 4
    moving = np.concatenate([row["motion"] for row in bench.dataset.source("valid")])
    assert face["Div_m"]["value"] == pytest.approx(moving.std(0, ddof=1).mean(), rel=1e-5)
    assert "FD_m" in tables.table(results)


@pytest.mark.slow
def test_motion_without_a_face_code_is_shown_as_curves(codes, scored_codes, tmp_path):
    bench, one = codes
    text = page.write(tmp_path, scored_codes,
                      runner.samples(bench, one, params(), ("valid",), 1)).read_text()
    assert "<video" not in text and "motion curves" in text
    metrics, shown = InLoopEvaluator(bench.config, one.system, bench, every=10).run(params(), 10)
    assert metrics[
        "face/FD_m_of_shuffled"] < 1e-6 and "both/Div_m" in metrics and "face/motion" in shown[
            "images"]


def test_another_sentence_has_what_is_scored(codes):
    bench = codes[0]
    mute = bench.source("valid").ids.index("valid/4")
    for index in range(5):
        other = bench.other("valid", index)
        assert other != index and (other != mute), index
    assert bench.baseline("shuffled", "valid", mute).scored == {"audio"}
    seeds = [clips.Benchmark(toys.config(seed=s), bench.decoder, bench.dataset, codes[1].system)
             for s in range(20)]
    assert {b.other("valid", 0) for b in seeds} == {1, 2, 3}
