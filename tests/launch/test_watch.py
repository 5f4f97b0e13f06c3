"""avjax evaluate --watch: every checkpoint once, whatever happens to it or to the job."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from avjax.errors import UserError
from eval.run import rows, steps
from launch import evaluate as command
from launch.jobs import evaluate as jobs
from launch.jobs.scoring import watch
from tests import evaluate_flags
from tests.eval import toys
from tests.launch import watched

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A training's folder with features and without checkpoints."""
    watched.install(monkeypatch.setattr)
    toys.write_corpus(tmp_path / "features")
    return tmp_path


def run(workdir, *, idle=0.0):
    return watch.watch(watched.config(), workdir, workdir / "out", idle=idle, every=0.1)


def lines(out):
    return [json.loads(line)["key"] for line in (out / rows.ROWS_FILE).read_text().splitlines()]


def test_every_step_is_scored_once_as_it_appears(workdir, monkeypatch, capsys):
    watched.save(workdir, 1)
    assert run(workdir)
    assert "no new checkpoint in 0 s, the training's last step is 3" in capsys.readouterr().out
    evaluate, scored = jobs.evaluate, []
    monkeypatch.setattr(jobs, "evaluate",
                        lambda *args, **kw: scored.append(kw["out"].name) or evaluate(*args, **kw))
    later = threading.Timer(1.0, lambda: watched.save(workdir, 2, 3))
    later.start()
    assert run(workdir, idle=60.0)  # ends with the last step
    later.join()
    assert scored == ["step_2", "step_3"]
    assert "step 3 is the last of the training" in capsys.readouterr().out
    out = workdir / "out"
    assert len(lines(out)) == len(set(lines(out))) == 3 * 3 + 3 * 3  # baselines once
    found = [line for line in steps.read(out) if line["metric"] == "mel_L1"
             and line["variant"] == "model"]
    assert [line["step"] for line in found] == [1, 2, 3]
    assert found[0]["value"] > found[1]["value"] > found[2]["value"] > 0
    assert found[0]["low"] <= found[0]["value"] <= found[0]["high"]
    for step, line in enumerate(found, 1):
        results = json.loads((out / f"step_{step}" / "results.json").read_text())
        assert results["step"] == step
        assert results["summary"]["valid"]["model"]["mel_L1"]["value"] == line["value"]


@pytest.mark.slow
def test_killed_while_it_scores_it_goes_on(workdir, capsys):
    """kill -9 in the middle of a step; and between results and history."""
    watched.save(workdir, 1, 2, 3)
    out = workdir / "out"
    job = subprocess.Popen([sys.executable, "-m", "tests.launch.watched", str(workdir)], cwd=ROOT,
                           env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (out / rows.ROWS_FILE).exists() or len(lines(out)) < 14:
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()
    before = lines(out)
    (out / steps.FILE).unlink(missing_ok=True)
    assert run(workdir)
    assert lines(out)[:len(before)] == before and len(lines(out)) == len(set(lines(out))) == 18
    assert {line["step"] for line in steps.read(out)} == {1, 2, 3}


def test_a_checkpoint_that_goes_or_is_broken_is_left_out(workdir, monkeypatch, capsys):
    watched.save(workdir, 1, 2, 3)
    (next((workdir / "checkpoints" / "2" / "state").rglob("*manifest*"))).write_bytes(b"cut")
    evaluate = jobs.evaluate

    def deleted_meanwhile(*args, **kw):
        if kw["out"].name == "step_1":
            shutil.rmtree(kw["checkpoint"])
        return evaluate(*args, **kw)

    monkeypatch.setattr(jobs, "evaluate", deleted_meanwhile)
    score = toys.Benchmark.score
    monkeypatch.setattr(toys.Benchmark, "score", lambda self, split, index, signals: score(
        self, split, index, signals) if index else 1 / 0)
    assert not run(workdir)  # an example of the one that is left fails
    out = capsys.readouterr().out
    assert "step 1 is left out: its checkpoint is gone" in out
    assert "step 2 is left out: its checkpoint is broken" in out and "scored: 1 steps" in out
    assert {line["step"] for line in steps.read(workdir / "out")} == {3}


def test_steps_with_failed_examples_or_other_splits_are_scored_again(tmp_path):
    results = {"step": 3, "summary": {"valid": {"model": {"MCD": {"value": 1.0, "n": 2}}}},
               "failed": [{"id": "a"}]}
    path = steps.folder(tmp_path, 3) / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(results))
    assert steps.scored(tmp_path, 3, ["valid"]) is None and not steps.read(tmp_path)
    path.write_text(json.dumps(results | {"failed": []}))
    assert steps.scored(tmp_path, 3, ["valid", "other"]) is None
    assert steps.scored(tmp_path, 3, ["valid"]) and steps.scored(tmp_path, 4, ["valid"]) is None
    assert steps.read(tmp_path) == [{"step": 3, "split": "valid", "variant": "model",
                                     "metric": "MCD", "value": 1.0, "low": None, "high": None}]


def test_what_cannot_be_watched(workdir, monkeypatch):
    with pytest.raises(UserError, match="no checkpoint has been scored"):
        run(workdir)
    (workdir / "out").mkdir()
    (workdir / "out" / steps.FILE).write_text("torn\n")
    with pytest.raises(UserError, match="unreadable history"):
        steps.read(workdir / "out")
    one = workdir / "checkpoints" / "3"
    one.mkdir(parents=True)
    values = evaluate_flags.flags(monkeypatch, config=watched.config(), checkpoint=str(one),
                                  watch=True)
    with pytest.raises(UserError, match="a workdir of this machine is needed"):
        command.main([])
    values.shard = "0/2"
    with pytest.raises(UserError, match="one process watches"):
        command.main([])


def test_the_config_is_the_workdirs_own_unless_one_is_given(workdir, monkeypatch):
    config, seen = watched.config(), []
    monkeypatch.setattr(watch, "watch", lambda config, *_, **__: seen.append(config) or True)
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    values = evaluate_flags.flags(monkeypatch, checkpoint=str(workdir), watch=True)
    with pytest.raises(UserError, match="no trained system here.*config.json"):
        command.main([])
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    command.main([])
    values.config = config
    command.main([])
    assert seen[0].train.steps == config.train.steps and seen[0] is not config is seen[1]
