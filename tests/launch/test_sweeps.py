"""A sweep on this machine: its record, what is run again and what is not, and the configs of
variants. Members are small scripts in place of trainings."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import jax
import pytest

from avjax.errors import UserError
from avjax.storage import lock
from avjax.systems import api
from avjax.systems.avflow import config as avflow
from avjax.systems.avflow.config import FUSIONS, parameter_count
from configs import puppets_ablations
from eval.sweep import members
from launch import ROOT, submit, sweep_record, sweeps, targets
from launch.targets import jobs, local, processes
from tests import commands

JOB = """
import os, pathlib, signal, sys, time
given = dict(argument.lstrip("-").partition("=")[::2] for argument in sys.argv[1:])
folder = pathlib.Path(given["workdir"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "begun", "a") as file:
    print(os.getpid(), file=file, flush=True)
if (folder.parent / f"wait.{folder.name}").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    time.sleep(700)  # more than any test may take
if (folder.parent / f"fail.{folder.name}").exists():
    print("much", "error: no such thing; hint: mend it", "and more", sep="\\n")
    sys.exit(2)
(folder / "results.json").write_text("{}")
"""
CONFIG = "configs/puppets_ablations.py"
SWEEP = ("config=highway,shared", "config.seed=0,1")
NAMES = [f"config={v}_seed={s}" for v in ("highway", "shared") for s in (0, 1)]


def make(root, sweep=SWEEP, config=CONFIG, overrides=()):
    args = types.SimpleNamespace(config=config, workdir=str(root), name=None, seed=None,
                                 sweep=list(sweep), env=[])
    return jobs.make("train", args, list(overrides), [], None, 1, cached=False)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the sweep in tmp_path/run; returns its exit code."""
    (tmp_path / "job.py").write_text(JOB)
    monkeypatch.setattr(local.cli, "child",
                        lambda module: [sys.executable, str(tmp_path / "job.py")])
    monkeypatch.setattr(processes, "PAUSE", 0.05)
    place = targets.Place(folder=str(tmp_path / "logs"), cwd=str(tmp_path), max_restarts=0)

    def start(sweep=SWEEP, **given):
        made = make(tmp_path / "run", sweep, **given)
        record = sweep_record.Record(tmp_path / "run", list(sweep), made)
        return submit.submit("local", made, place, ROOT, False, record), record.summary()

    return start


def begun(root):
    return {name: len((root / name / "begun").read_text().split())
            for name in NAMES if (root / name).exists()}


def test_variants_are_an_axis(tmp_path):
    made = make(tmp_path)
    assert [job.values for job in made] == [{"config": v, "seed": s} for v in ("highway", "shared")
                                            for s in ("0", "1")]
    assert [job.workdir for job in made] == [f"{tmp_path}/{name}" for name in NAMES]
    assert made[2].arguments == (f"--config={CONFIG}:shared", f"--workdir={tmp_path}/{NAMES[2]}",
                                 "--config.seed=0")
    assert len({job.name for job in made}) == 4
    assert sweeps.points(["config.optimizer.b1=.9,.8"])[0].config("X.py") == "X.py"
    with pytest.raises(UserError, match="variant is given twice.*puppets_ablations.py:shared"):
        make(tmp_path, config=f"{CONFIG}:shared")
    with pytest.raises(UserError, match="unknown variant.*highway | separate.*'none'"):
        make(tmp_path, ["config=highway,none"])


def test_a_failed_member_is_told_and_the_others_go_on(run, tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    (root / f"fail.{NAMES[1]}").touch()
    code, told = run()
    assert code == 2 and begun(root) == dict.fromkeys(NAMES, 1)
    assert "3 done, 1 failed" in told
    assert f"{NAMES[1]} failed with 2: error: no such thing; hint: mend it" in told
    (root / f"fail.{NAMES[1]}").unlink()
    assert run()[0] == 0 and begun(root) == dict.fromkeys(NAMES, 1) | {NAMES[1]: 2}
    # results that are gone are made again, other arguments are another training
    (root / NAMES[0] / "results.json").unlink()
    assert run()[0] == 0 and begun(root)[NAMES[0]] == 2 and begun(root)[NAMES[2]] == 1
    assert run(overrides=["--config.train.steps=7"])[0] == 0
    assert begun(root) == dict.fromkeys(NAMES, 2) | {n: 3 for n in NAMES[:2]}


def test_another_seed_joins_those_that_are_there(run, tmp_path):
    assert run(["config=highway", "config.seed=0"])[0] == 0
    assert run(["config=highway", "config.seed=0,1"])[0] == 0
    assert begun(tmp_path / "run") == {NAMES[0]: 1, NAMES[1]: 1}
    found = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert {name: of["train"]["state"] for name, of in found["members"].items()} == dict.fromkeys(
        NAMES[:2], "done")
    assert found["members"][NAMES[0]]["workdir"] == NAMES[0]  # the sweep's folder may be moved


def test_a_signal_ends_the_sweep_and_the_member_goes_on_next_time(run, tmp_path):
    root = tmp_path / "run"
    root.mkdir()
    (root / f"wait.{NAMES[1]}").touch()
    killer = subprocess.Popen([sys.executable, "-c", f"""
import os, pathlib, signal, time
while not (pathlib.Path({str(root)!r}) / {NAMES[1]!r} / "begun").exists():
    time.sleep(0.02)
time.sleep(0.3)
os.kill({os.getpid()}, signal.SIGTERM)
"""])
    code, told = run()
    killer.wait()
    assert code == 75 and "1 done, 1 stopped, 2 waiting" in told
    assert begun(root) == {NAMES[0]: 1, NAMES[1]: 1}
    (root / f"wait.{NAMES[1]}").unlink()
    assert run()[0] == 0 and begun(root) == dict.fromkeys(NAMES, 1) | {NAMES[1]: 2}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent")
def test_a_killed_parent_leaves_no_member_behind(tmp_path):
    (tmp_path / "job.py").write_text("from launch import cli\ncli.main(['--version'])\n" + JOB)
    (tmp_path / "wait.a").touch()
    command = [sys.executable, str(tmp_path / "job.py"), f"--workdir={tmp_path / 'a'}"]
    parent = subprocess.Popen([sys.executable, "-c", f"""
import pathlib
from launch.targets import processes
processes.run({command!r}, processes=1, environment={{}}, logs=pathlib.Path({str(tmp_path)!r}),
              cwd=pathlib.Path("."), max_restarts=0, grace=1.0)
"""], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    end = time.monotonic() + 100
    while not (tmp_path / "a" / "begun").exists() or not (tmp_path / "a" / "begun").read_text():
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.02)
    child = int((tmp_path / "a" / "begun").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while os.path.exists(f"/proc/{child}"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_as_a_command(tmp_path, monkeypatch):
    """One sweep at a time; a dry run writes nothing; a damaged record is one line."""
    (tmp_path / "run").mkdir()

    def submitted(*more):
        return commands.run("submit", "--target=local", f"--config={CONFIG}",
                            f"--workdir={tmp_path}/run", *(f"--sweep={axis}" for axis in SWEEP),
                            *more)

    done = submitted("--dry_run")
    assert done.returncode == 0 and done.stdout.count(f"--config={CONFIG}:shared") == 2, done.stderr
    assert not list((tmp_path / "run").iterdir())
    (tmp_path / "run" / "sweep.json").write_text('{"members": {"a": {}}}')
    done = submitted()
    assert done.returncode == 2 and done.stderr.startswith("error: unreadable record of a sweep")
    with lock.hold(tmp_path / "run" / ".sweep.lock", "the sweep in", tmp_path):
        done = submitted()
    assert done.returncode == 2 and "the sweep in" in done.stderr, done.stderr


def test_where_the_record_of_a_remote_sweep_lies(tmp_path):
    job = targets.Job("a", "launch.train", (), {}, workdir="gs://bucket/run/seed=0",
                      values={"seed": "0"})
    record = sweep_record.Record(tmp_path, ["config.seed=0"], [job])
    assert members.record(tmp_path)["members"]["seed=0"]["workdir"] == "gs://bucket/run/seed=0"
    assert record.of(job)["state"] == "waiting"


def test_ablations_are_equal_but_for_the_exchange():
    """In numbers of parameters, counted on the networks themselves, and in all fields but the
    widths."""
    counts, others = [], []
    for name in puppets_ablations.VARIANTS:
        c = puppets_ablations.get_config(name)
        shapes = api.abstract_params(api.build(c.system))
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
        assert counts[-1] == parameter_count(c.system) and c.system.fusion == name
        c.name = c.system.fusion = c.system.d_model = c.system.d_ff = None
        others.append(c.to_dict())
    assert max(counts) < 1.001 * min(counts) and others == others[:1] * 4
    # made once, for all members
    outputs = [stage.get("out") or stage["workdir"] for stage in others[0]["stages"]]
    assert all(out.startswith("{workdir}/../") for out in outputs)


def test_parameters_are_counted_of_any_config():
    for fusion in FUSIONS:
        c = avflow.dyadic(avflow.tiny())
        c.fusion, c.d_model, c.num_blocks, c.identity_dim = fusion, 24, 2, 5
        shapes = api.abstract_params(api.build(c))
        assert parameter_count(c) == sum(leaf.size for leaf in jax.tree.leaves(shapes))
