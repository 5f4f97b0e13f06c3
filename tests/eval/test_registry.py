"""Every metric is declared once: what is computed is declared, shown and defined, and what is
declared can be computed."""

import pathlib
import sys

import numpy as np
import pytest

from data_pipelines import decode
from eval import metrics, packages, registry
from eval.benchmarks import clips, dialogue, talker_puppets
from eval.report import page, tables
from eval.run.in_loop import InLoopEvaluator
from tests.eval import degenerate, real_faces, toys
from tests.eval import test_dialogue_benchmark as conversations
from tests.eval import test_reactions as talks

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"
JERK = '''
"""Third differences of the face codes."""
import numpy as np
from eval.registry import declare

def jerk(case):
    return {"jerk_e": float(np.abs(np.diff(case.signals.motion("e")[0], 3, axis=0)).mean())}

declare("jerk_e", "down", "mean third difference of face codes", family="motion", score=jerk,
        recipe=lambda benchmark: {"order": 3}, needs=("motion", "face"), in_loop=True,
        of_shuffled=True)
'''


class Clips(talker_puppets.Benchmark):
    """Its clips are what the codecs make of them."""

    has_words = False

    def clip_lips(self, split, index):
        return self.truth(split, index).lips

    def clip_audio(self, split, index):
        return self.truth(split, index).waveform


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """{benchmark: (it, its summary of one example's truth)}, one of every kind."""
    def folder(name):
        return tmp_path_factory.mktemp(name) / "data"

    tasks = toys.write_tasks_corpus(folder("tasks"))
    codes = toys.write_codes_corpus(folder("codes"))
    found = {
        "puppets": toys.benchmark(toys.write_corpus(folder("puppets"))),
        "tasks": Clips(toys.config(), toys.Decoder(24000), tasks, toys.TasksSystem()),
        "codes": clips.Benchmark(toys.config(), decode.Decoder.from_dataset(codes, iterations=2),
                                 codes, toys.TasksSystem(32, 40)),
        "dialogue": dialogue.Benchmark(
            conversations.config(), conversations.ToyDecoder(),
            conversations.write(folder("dialogue")), conversations.ToySystem()),
        "listening": talks.benchmark_of(talks.write(tmp_path_factory.mktemp("listening")))[1],
        "text": toys.text_benchmark(folder("text"))}
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        found["faces"] = real_faces.benchmark(tmp_path_factory.mktemp("faces"), patch)
        for name, benchmark in found.items():
            truth = benchmark.truth("valid", 0)
            truth.computed_s = 0.5
            frames = (benchmark.frames("valid", 0, truth) | benchmark.kept("valid", 0, truth))
            out[name] = benchmark, benchmark.summarise([benchmark.score("valid", 0, truth)],
                                                       [frames])
    return out


def results_of(benchmark, summary):
    return {"summary": {"valid": {"truth": summary}}, "rows": [{"split": "valid"}], "targets": {},
            "models": [], "benchmark": benchmark.name, "params": "", "recipes": benchmark.recipes}


def test_what_is_computed_is_declared_shown_and_defined(scored, tmp_path):
    declared = {m.name: m for m in registry.all_metrics()}
    for benchmark, summary in scored.values():
        assert summary.keys() <= declared.keys() & benchmark.recipes.keys()
        results = results_of(benchmark, summary)
        table = [line.split() for line in tables.table(results).splitlines()]
        assert summary.keys() <= {words[0] for words in table if words}
        text = page.write(tmp_path, results, []).read_text()
        assert all(declared[name].meaning.split("'")[0] in text for name in summary)


def test_what_is_declared_can_be_computed(scored):
    computed = {name for _, summary in scored.values() for name in summary}
    # those of a vocoder are scored in tests/launch/test_vocoder_training.py, those of published
    # networks in tests/eval/networks
    assert computed == {m.name for m in registry.all_metrics()
                        if "resynthesis" not in m.needs and not m.networks
                        and packages.found(m.packages)}


def test_rows_are_stored_under_the_same_names_as_before(scored):
    """Rows that were stored before metrics were declared are still valid: these are the names and
    definitions that they were stored under."""
    of_packages = {m.name for m in registry.all_metrics() if m.packages}
    assert set(scored["puppets"][0]._row_recipe()["recipes"]) - of_packages == {
        "mel_L1", "MCD", "MCD_audio", "F1_lips", "F1_lips_clip", "WER", "var_e", "RTF",
        # of no older rows: those are made again
        "AV_offset", "AV_within_1", "AV_correlation", "F1_smiles", "CER", "WER_mean", "CER_mean",
        *(f"{m}_{part}" for m in ("FD", "FK", "Div", "BC") for part in "eh"),
        *(f"{m}_{part}_{of}" for m, of in (
            ("FD", "pooled"), ("BC", "gap"), ("BC", "bailando"), ("BC", "said"), ("BC", "motion"))
          for part in "eh")}
    recipes = scored["dialogue"][0]._row_recipe()["recipes"]
    assert set(recipes) == {"F1_lips", "FD", "listening", "turn-taking", "mel_L1", "retrieval",
                            "motion", "MCD", "MCD_audio", "RTF",  # from here on of no older rows
                            "AV_offset", "AV_within_1", "AV_correlation"}
    assert recipes["FD"]["pooling"] == "per speaker and dialogue, then mean"
    assert recipes["listening"]["SID"] == {"e": 40, "h": 20}


def test_metrics_that_share_a_row_entry_of_dialogues_share_a_definition(scored):
    benchmark = scored["dialogue"][0]
    for family in ("listening", "turn-taking", "retrieval"):
        assert all(benchmark.recipes[m.name] == benchmark.recipes[family]
                   for m in benchmark.metrics if m.family == family)


def test_the_loop_logs_what_is_declared_for_it(scored):
    names = {m.name for m in registry.all_metrics() if m.in_loop}
    assert names == {"F1_lips", "F1_lips_dtw", "FD_e", "FD_h", "FD_m", "mel_L1", "mel_L1_dtw",
                     "Div_e", "Div_h", "Div_m", "length_error", "stop_within_2",
                     "phoneme_error", "token_error"}
    assert {m.name for m in registry.all_metrics() if m.of_shuffled} == {
        "FD_e", "FD_m", "mel_L1", "mel_L1_dtw", "token_error"}


@pytest.fixture
def own_metric(tmp_path, monkeypatch):
    """A metric in a file of a folder of a user's own."""
    (tmp_path / "jerk.py").write_text(JERK)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    registry.load.cache_clear()
    yield
    registry.load.cache_clear()
    registry.forget("jerk_e")
    sys.modules.pop("eval.metrics.jerk")


def test_a_new_metric_is_one_file(own_metric, scored):
    dataset = scored["puppets"][0].dataset
    benchmark = toys.benchmark(dataset, full=False)
    assert benchmark.recipes["jerk_e"] == {"order": 3}
    evaluator = InLoopEvaluator(toys.config(in_loop_examples=2), toys.System(), benchmark, every=1)
    assert "jerk_e_of_shuffled" in evaluator.metrics
    truth = benchmark.truth("valid", 0)
    row = benchmark.score("valid", 0, truth)
    assert row["jerk_e"] == np.abs(np.diff(truth.face_NF, 3, axis=0)).mean()
    assert benchmark.recipe_hash != scored["puppets"][0].recipe_hash  # rows are scored again
    summary = benchmark.summarise([row], [benchmark.frames("valid", 0, truth)])
    assert "  jerk_e " in tables.table(results_of(benchmark, summary))
    assert "| `jerk_e` | down | mean third difference of face codes |" in registry.markdown()


def test_docs_are_those_of_the_declarations():
    assert DOCS.read_text() == registry.markdown(), \
        "avjax evaluate --list > docs/metrics.md"


@pytest.mark.parametrize("wrong", [{"meaning": ""}, {"better": "sideways"}, {"needs": ("luck",)}])
def test_a_declaration_without_meaning_direction_or_known_needs(wrong):
    right = {"name": "x", "better": "up", "meaning": "m", "family": "lips",
             "recipe": lambda benchmark: {}}
    registry.Metric(**right)
    with pytest.raises(ValueError, match="metric 'x'"):
        registry.Metric(**right | wrong)
    with pytest.raises(ValueError, match="two metrics are called 'FD_e'"):
        registry.declare(**right | {"name": "FD_e"})


def test_toys_have_the_interface_of_the_real_decoder():
    for toy, real in ((toys.Decoder, decode.Decoder), (toys.StreamDecoder, decode.StreamDecoder),
                      (conversations.ToyDecoder, decode.Decoder)):
        public = {name for name in vars(toy) if not name.startswith("_")}
        assert public <= set(dir(real)), toy


@pytest.mark.parametrize("change", [degenerate.silent, degenerate.still, degenerate.short])
def test_what_is_undefined_is_no_number(scored, change, monkeypatch):
    """Every metric of an example of which little can be said, beside itself."""
    for benchmark, _ in scored.values():
        benchmark.truth("valid", 0)
        if {"clip", "both"} <= benchmark.offers:
            assert benchmark.normalisers  # of whole clips
        signals = change(benchmark, benchmark.source("valid")[0])
        monkeypatch.setattr(benchmark, "truth", lambda split, index, found=signals: found)
        for name, value in degenerate.summary(benchmark, signals).items():
            if degenerate.undefined(change, name):
                assert value is None or np.isnan(value), (benchmark.name, name)
            elif name in degenerate.DEFINED:
                assert np.isfinite(value), (benchmark.name, name)


def test_nothing_has_no_number(scored):
    for benchmark, _ in scored.values():
        for examples in ([], [{}]):
            for name, entry in benchmark.summarise(examples, examples).items():
                assert not entry["n"] and np.isnan(entry["value"]), name
