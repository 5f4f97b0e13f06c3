"""launch.evaluate end to end on a toy corpus, and its one-line errors."""

import json
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.systems import api
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines import decode
from data_pipelines.store import made_from
from eval import registry
from eval.benchmarks.named import declaration
from eval.report import history, page
from eval.run import runner
from eval.sensitivity import alterations
from launch import evaluate as command
from launch.jobs import evaluate as job
from launch.jobs.scoring import modes
from tests import evaluate_flags
from tests.eval import toys
from tests.launch.walks import write_clips


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """(config, system) of a toy experiment whose dataset lies in the workdir; the checkpoint reader
    is replaced."""
    toys.write_corpus(tmp_path / "data" / "features")
    config = toys.config(splits=("valid",), max_examples=3, batch_size=2)
    config.data.dir = "{workdir}/data/features"
    config.name = "toy & co"
    system = toys.System()
    monkeypatch.setattr(api, "build", lambda _: system)
    monkeypatch.setattr(decode.Decoder, "from_dataset",
                        classmethod(lambda cls, dataset, vocoder: toys.Decoder()))
    meta = {"step": 7, "recipes": {"mel": {"kind": "toy"}}}
    monkeypatch.setattr(checkpoints, "load", lambda *_: (system.init(None), meta))
    return config, system


@pytest.fixture
def unshown(monkeypatch):
    """No report, for which examples are made again and drawn."""
    monkeypatch.setattr(page, "write", lambda *_: None)


@pytest.mark.slow
def test_writes_results_and_report(toy, tmp_path, capsys):
    config, _ = toy
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(5):
            file.write(json.dumps({"step": step, "kind": "train", "loss": 1.0 / (1 + step)}) + "\n")
    results = job.evaluate(config, tmp_path, splits=("valid", "other"), progress=False)
    assert results["step"] == 7 and len(results["rows"]) == 5
    assert json.loads((tmp_path
                       / runner.RESULTS_FILE).read_text())["summary"].keys() == {"valid", "other"}
    text = (tmp_path / page.REPORT_FILE).read_text()
    ranked = results["ranked"]["examples"]
    shown = sum(len(set(of["model"].values())) for of in ranked.values())
    assert text.count("<video") == 2 * shown and shown > 3
    assert text.count("<h3>best") == text.count("<h3>worst by ") == 2
    assert "toy &amp; co" in text and "training curves" in text
    assert "http" not in text.split("<style>")[0] and "src='data:" in text  # nothing else needed
    out = capsys.readouterr().out
    assert "F1_lips" in out and "target: F1_lips >= 0.95: met" in out and "report.html" in out
    need = "not measured: needs syncnet_v2.model ("
    assert need in out and need in text and "LSE_C" in results["not_measured"]


def test_another_networks_file_is_told_before_anything_is_made(toy, tmp_path, monkeypatch):
    config, _ = toy
    (tmp_path / "judges").mkdir()
    write_torch_zip(tmp_path / "judges" / "syncnet_v2.model", {"w": np.zeros(2, np.float32)})
    config.evaluate.networks = str(tmp_path / "judges")
    monkeypatch.setattr(runner, "Run", lambda *_, **__: pytest.fail("must not begin"))
    with pytest.raises(UserError, match="not SyncNet's weights.*syncnet_v2.model.*left over: w"):
        job.evaluate(config, tmp_path, progress=False)


def test_given_parameters_are_scored_without_a_checkpoint(toy, unshown, tmp_path, monkeypatch):
    config, system = toy
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("must not be read"))
    bad = jax.tree.map(lambda x: x * 0, system.init(None))
    results = job.evaluate(config, tmp_path, bad, out=tmp_path / "elsewhere", progress=False)
    assert not any(t["met"] for t in results["targets"]["valid"]
                   if t["metric"] in ("F1_lips", "mel_L1"))
    assert (tmp_path / "elsewhere" / runner.RESULTS_FILE).exists()
    assert not (tmp_path / runner.RESULTS_FILE).exists()


@pytest.mark.parametrize("change, message", [
    (lambda c: c.evaluate.update({"benchmark": ""}),
     "no benchmark.*clips or dialogue or listening or puppets or talker_puppets"),
    (lambda c: c.evaluate.update({"benchmark": "pupets"}),
     "unknown benchmark.*clips or dialogue or listening or puppets or talker_puppets.*pupets"),
    (lambda c: c.evaluate.update({"splits": ("test",)}), "unknown split.*train or valid or "
                                                         "other.*test"),
    (lambda c: c.data.update({"dir": "{workdir}/nowhere"}), "no dataset here"),
    (lambda c: c.evaluate.update({"batch_size": 0}), "no batch"),
])
def test_bad_configs(toy, tmp_path, change, message):
    config, _ = toy
    change(config)
    with pytest.raises(UserError, match=message):
        job.evaluate(config, tmp_path, progress=False)
    assert not (tmp_path / runner.RESULTS_FILE).exists()


def test_checkpoint_trained_on_other_features(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load",
                        lambda *_: (None, {"recipes": {"mel": {"kind": "another"}}}))
    with pytest.raises(UserError, match="recipe of 'mel' differs.*kind=another.*kind=toy"):
        job.evaluate(toy[0], tmp_path, progress=False)


def test_missing_checkpoint(toy, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(api, "build", lambda _: toy[1])
    monkeypatch.setattr(decode.Decoder, "from_dataset",
                        classmethod(lambda cls, dataset, vocoder: toys.Decoder()))
    with pytest.raises(UserError, match="no checkpoint here"):
        job.evaluate(toy[0], tmp_path, progress=False)


def test_it_lists_all_metrics_without_a_config(monkeypatch, capsys):
    monkeypatch.setattr(command, "flags", SimpleNamespace(FLAGS=SimpleNamespace(list=True)))
    command.main([])
    assert capsys.readouterr().out == registry.markdown()


@pytest.fixture
def given(toy, tmp_path, monkeypatch):
    """The command's flags."""
    return evaluate_flags.flags(monkeypatch, config=toy[0], checkpoint=str(tmp_path))


def test_failed_examples_are_told_and_end_with_3(given, unshown, monkeypatch, capsys):
    score = toys.Benchmark.score
    with monkeypatch.context() as patch:
        patch.setattr(toys.Benchmark, "score", lambda self, split, index, signals: score(
            self, split, index, signals) if index else 1 / 0)
        with pytest.raises(SystemExit) as end:
            command.main([])
    assert end.value.code == 3
    out = capsys.readouterr().out
    assert "failed, valid: valid/0 (model, truth, shuffled, mean): ZeroDivisionError" in out
    assert "results.json" in out and re.search(r"by \w+, valid, model: best valid/", out)
    command.main([])
    assert "failed, " not in capsys.readouterr().out


def test_processes_of_a_job_score_a_share_each(given, tmp_path, monkeypatch, capsys):
    """One whose others never come ends with 75, since then nobody writes the results."""
    monkeypatch.setattr(command.workers, "TOGETHER", 0.0)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    with pytest.raises(SystemExit) as end:
        command.main([])
    assert end.value.code == 75 and "nobody has begun part 0" in capsys.readouterr().err
    assert not (tmp_path / runner.RESULTS_FILE).exists()
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    command.main([])
    results = json.loads((tmp_path / runner.RESULTS_FILE).read_text())
    assert len(results["rows"]) == 3 and (tmp_path / page.REPORT_FILE).exists()
    monkeypatch.setattr(page, "write", None)  # whoever comes again finds the report
    command.main([])
    assert "report:  " in capsys.readouterr().out


def test_a_named_benchmark_takes_the_workdirs_config_and_other_data(given, unshown, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(given.config.to_dict()))
    shutil.move(tmp_path / "data" / "features", tmp_path / "held_out")
    given.config, given.benchmark = None, "puppets"
    given.data = str(tmp_path / "held_out")
    command.main([])
    found = json.loads((tmp_path / "benchmarks" / "puppets" / "results.json").read_text())
    assert found["summary"].keys() == {"valid"} and found["protocol"]["name"] == "puppets"
    assert found["published"] == {} and not (tmp_path / runner.RESULTS_FILE).exists()
    given.benchmark, given.split = "hdtf", ["train"]
    with pytest.raises(UserError, match="no metric of this benchmark.*needs syncnet_v2.model"):
        command.main([])
    given.benchmark, given.split = "puppets", ["tset"]
    with pytest.raises(UserError, match="unknown split.*tset"):
        command.main([])


def test_a_named_benchmark_has_its_metrics_and_says_which_it_lacks(toy, unshown, tmp_path):
    config, _ = toy
    one = declaration.Named("narrow", "A test's.", corpora=("clips",), splits=("valid",),
                            given="tokens", metrics={"FD_e": "", "voice_R@1": ""},
                            columns={"paper": declaration.Column("a paper", {"FD_e": 0.5})})
    found = job.evaluate(config, tmp_path, named=one, progress=False)
    assert found["summary"]["valid"]["model"].keys() == {"FD_e"}
    assert "makes voice embeddings" in found["not_measured"]["voice_R@1"]
    assert found["published"]["paper"]["values"] == {"valid": {"FD_e": 0.5}}


def test_workdir_of_a_checkpoint(tmp_path):
    assert command.workdir_of(tmp_path / "checkpoints" / "500") == tmp_path
    assert command.workdir_of(tmp_path / "checkpoints") == tmp_path
    assert command.workdir_of(tmp_path) == tmp_path


def test_history_keeps_losses_first(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "kind": "train",
                                        **{f"other{i}": i for i in range(20)}, "loss": s,
                                        "note": "text"}) + "\n" for s in range(3)))
    found = history.read_history(path, limit=4)
    assert len(found) == 4 and next(iter(found)) == "train/loss"
    np.testing.assert_array_equal(found["train/loss"][1], [0, 1, 2])
    path.write_text(path.read_text() + '{"step": 3, "ki')
    np.testing.assert_array_equal(history.read_history(path, limit=1)["train/loss"][0], [0, 1, 2])
    path.write_text("torn\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1"):
        history.read_history(path)


def test_the_clips_are_those_that_the_features_were_made_from(tmp_path):
    clips, features = write_clips(tmp_path / "clips"), write_clips(tmp_path / "features")
    stage = {"kind": "extract", "clips": "{workdir}/clips", "out": "{workdir}/features"}
    plain, staged = ConfigDict({"stages": ()}), ConfigDict({"stages": (stage,)})
    assert job.clips_of(plain, tmp_path, features) is None
    assert job.clips_of(staged, tmp_path, features).dir == clips.dir  # nothing else tells
    made_from.ask(features.dir, {"clips": clips.content}, clips.dir)
    made_from.enclose(features.dir, features.dir)
    assert job.clips_of(plain, tmp_path, features).dir == clips.dir
    features.verify()  # the record is none of its files
    shutil.rmtree(clips.dir)
    assert job.clips_of(plain, tmp_path, features) is None
    write_clips(tmp_path / "clips", seed=5)
    assert job.clips_of(staged, tmp_path, features) is None  # others by now


def test_sensitivity_needs_no_checkpoint_but_a_folder(toy, tmp_path, monkeypatch, capsys):
    config, _ = toy
    args = SimpleNamespace(config=config, sensitivity=True, checkpoint=str(tmp_path), out="",
                           split=None, vocoder="", geometry="", lip_vertices="", networks="")
    with pytest.raises(UserError, match="no folder for the results of --sensitivity"):
        command.alter(args)
    monkeypatch.setattr(alterations, "ALL", alterations.ALL[2:3])
    config.evaluate.max_examples = 1
    args.out = str(tmp_path / "altered")
    command.alter(args)
    assert "valid, motion frozen (of the time)" in capsys.readouterr().out
    assert (tmp_path / "altered" / "sensitivity.json").exists()


@pytest.mark.parametrize(("given", "message"), [
    ({"generated": ["x"], "watch": True}, "--generated and --watch.*one of the two"),
    ({"generated": ["x"], "keep_media": True}, "--generated and --keep_media.*--generated alone, "
     "or with --benchmark, --data"),
    ({"generated": ["x"], "vocoder": "x"}, "--generated and --vocoder"),
    ({"sensitivity": True, "watch": True}, "--sensitivity and --watch"),
    ({"sensitivity": True, "shard": "0/2"}, "--sensitivity and --shard"),
    ({"compare": ["a", "b"], "checkpoint": "x"}, "--compare and --checkpoint"),
    ({"list": True, "out": "x"}, "--list and --out.*with nothing"),
    ({"robustness": "prosody", "keep_media": True}, "--robustness and --keep_media"),
    ({"checkpoint": "x", "portraits": ["x"]}, "--portraits without --robustness"),
    ({"checkpoint": "x", "watch_for": 1.0}, "--watch_for without --watch")])
def test_flags_that_nobody_would_read_are_refused(monkeypatch, given, message):
    evaluate_flags.flags(monkeypatch, **given)
    with pytest.raises(UserError, match=message):
        command.main([])


def test_flags_that_are_read_together_are_not_refused():
    for given in ({}, {"checkpoint": "x", "watch": True, "watch_for": 1.0, "keep_media": True},
                  {"generated": ["x"], "benchmark": "hdtf", "data": "x", "shard": "0/2"},
                  {"robustness": "portraits", "portraits": ["x"], "checkpoint": "x"}):
        modes.check(SimpleNamespace(**evaluate_flags.DEFAULTS | given))
