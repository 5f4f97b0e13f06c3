import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.storage import paths
from configs import head_vae
from data_pipelines.declared import Ingest
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from launch import flags, training
from launch.jobs import generate, stages
from tests import commands
from tests.launch.walks import FEATURES, TINY, config, write_clips
from tests.workdirs import records, told

ROOT = Path(__file__).parents[2]

@pytest.mark.slow
def test_training_with_the_real_loader_resumes_exactly_and_keeps_the_codecs(tmp_path, one_device):
    clips = write_clips(tmp_path / "clips").dir
    whole = training.run_training(config(clips), tmp_path / "whole")
    assert {"valid/loss", "valid/kl", "valid/reconstruction"} == whole.metrics.keys()
    training.run_training(config(clips, **{"train.steps": 2}), tmp_path / "parts")
    training.run_training(config(clips, **{"data.threads": 0}), tmp_path / "parts")
    assert told(tmp_path / "whole") == told(tmp_path / "parts")
    assert len(told(tmp_path / "whole")) == 4
    for name in ("recipes.json", "codecs/pose.npz", "config.json"):
        assert (tmp_path / "whole" / name).is_file()

    with pytest.raises(UserError) as error:
        training.run_training(config(clips, **{"system.d_ff": 32, "data.batch_size": 8}),
                              tmp_path / "whole")
    for word in ("another config", "system.d_ff=16", "system.d_ff=32", "data.batch_size=4"):
        assert word in str(error.value)
    # a cosine ends elsewhere; a constant rate does not care
    cosine = {"optimizer.schedule": "cosine"}
    training.check_resumable(config(clips, **cosine), tmp_path / "none")
    training.write_run_files(config(clips, **cosine), tmp_path / "cosine",
                             store.open_dataset(clips))
    with pytest.raises(UserError, match="train.steps"):
        training.check_resumable(config(clips, **cosine, **{"train.steps": 5}), tmp_path / "cosine")


def test_going_on_with_features_made_otherwise_is_refused(tmp_path, one_device):
    clips = write_clips(tmp_path / "clips").dir
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipes.json").write_text(json.dumps({"pose_z": {"of": "another walk"}}))
    with pytest.raises(UserError, match="recipe of 'pose_z' differs.*of=another walk.*no recipe"):
        training.run_training(config(clips), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["recipes.json"]


def test_data_that_does_not_fit_leaves_no_workdir(tmp_path, one_device):
    clips = write_clips(tmp_path / "clips", width=6).dir
    for overrides, word in (({}, "width of 'pose_z'"),
                            ({"data.train_split": "trian"}, "train or valid"),
                            ({"data.dir": str(tmp_path / "none")}, "no dataset here"),
                            ({"data.dir": ""}, "no data")):
        with pytest.raises(UserError, match=word):
            training.run_training(config(clips, **overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fake_prepare(monkeypatch):
    """A kind of raw media, "tiny", whose clips are written by a function that counts its calls."""
    calls = []

    def prepare(out, seed=0, source=""):
        calls.append(seed)
        write_clips(out, seed=seed)

    only(monkeypatch, "tiny", Ingest(prepare))
    return calls


def only(monkeypatch, name, ingest):
    """Nothing but this can be prepared."""
    monkeypatch.setattr("data_pipelines.prepare.names", lambda: [name])
    monkeypatch.setattr("data_pipelines.prepare.load", lambda dataset: ingest)


def test_stages_run_once_and_refuse_other_arguments(tmp_path, fake_prepare):
    def stage(**arguments):
        return ({"kind": "prepare", "dataset": "tiny", "out": "{workdir}/clips"} | arguments,)

    assert list(stages.run_stages(stage(seed=1), tmp_path)) == ["prepare clips"]
    assert stages.run_stages(stage(seed=1), tmp_path) == {} and fake_prepare == [1]
    with pytest.raises(UserError) as error:
        stages.run_stages(stage(seed=2), tmp_path)
    for word in ("seed=2", "seed=1", f"delete the folder {tmp_path / 'clips'}"):
        assert word in str(error.value)
    with pytest.raises(UserError, match="wrong arguments.*sead"):
        stages.run_stages(stage(sead=2, out="{workdir}/other"), tmp_path)
    with pytest.raises(UserError, match=r"config.stages\[0\].*prepare or extract or "
                                        r"train.*'prepair'"):
        stages.run_stages(stage(kind="prepair"), tmp_path)
    (tmp_path / "clips" / "checksums.json").unlink()  # no longer whole
    with pytest.raises(UserError, match="not whole"):
        stages.run_stages(stage(seed=1), tmp_path)
    (tmp_path / "foreign").mkdir()
    with pytest.raises(UserError, match="not from this job.*delete the folder"):
        stages.run_stages(stage(out="{workdir}/foreign"), tmp_path)


def workdir_with_data(workdir, source):
    """Stages of a workdir, which have run."""
    steps = ({"kind": "prepare", "dataset": "tiny", "source": str(source), "seed": 3,
              "out": "{workdir}/data/clips"},)
    stages.run_stages(steps, workdir)
    return steps


def as_older_versions_record(workdir):
    for record in workdir.rglob("*.stage.json"):
        record.write_text(record.read_text().replace("{workdir}", str(workdir)))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_workdir_goes_on(tmp_path, fake_prepare, capsys, move, older):
    (tmp_path / "media").mkdir()
    steps = workdir_with_data(tmp_path / "a", tmp_path / "media")
    if older:
        as_older_versions_record(tmp_path / "a")
    move(tmp_path / "a", tmp_path / "b" / "deep")
    assert stages.run_stages(steps, tmp_path / "b" / "deep") == {} and fake_prepare == [3]
    with pytest.raises(UserError, match="other arguments.*expected: seed=4; found: seed=3"):
        stages.run_stages((steps[0] | {"seed": 4},), tmp_path / "b" / "deep")
    (tmp_path / "other").mkdir()
    # is another folder; is no folder, or a copy
    for other in (tmp_path / "other", tmp_path / "elsewhere" / "media"):
        with pytest.raises(UserError, match=f"other arguments.*expected: source='{other}'; found: "
                                            "source="):
            stages.run_stages((steps[0] | {"source": str(other)},), tmp_path / "b" / "deep")
    # and now it is the one that was moved there
    shutil.move(tmp_path / "media", tmp_path / "elsewhere" / "media")
    steps = (steps[0] | {"source": str(tmp_path / "elsewhere" / "media")},)
    assert stages.run_stages(steps, tmp_path / "b" / "deep") == {} and fake_prepare == [3]
    shown = capsys.readouterr().err
    assert f"source has moved from {tmp_path}/media to {tmp_path}/elsewhere/media" in shown


def test_an_output_outside_the_workdir_does_not_move_with_it(tmp_path, fake_prepare):
    def steps(workdir):
        return ({"kind": "prepare", "dataset": "tiny", "source": "{workdir}/own",
                 "out": str(tmp_path / "shared")},)

    stages.run_stages(steps("a"), tmp_path / "a")
    # of another workdir, whose `own` is another one
    with pytest.raises(UserError, match="other arguments.*source"):
        stages.run_stages(steps("b"), tmp_path / "b")


@pytest.mark.parametrize("older", [False, True])
def test_the_config_of_a_moved_workdir_names_its_data(tmp_path, older):
    a, b = tmp_path / "a", tmp_path / "b"
    dataset = write_clips(a / "data" / "clips")
    wished = config("{workdir}/data/clips", **{"train.init_from": "{workdir}/vae"})
    training.write_run_files(training.fill_config(wished, a), a, dataset)
    recorded = a / "config.json"
    assert str(a) not in recorded.read_text()
    if older:
        recorded.write_text(recorded.read_text().replace("{workdir}", str(a)))
    shutil.move(a, b)
    training.check_resumable(training.fill_config(wished, b), b)
    assert store.open_dataset(generate.load_config(b).data.dir).dir == b / "data" / "clips"
    elsewhere = training.fill_config(config(tmp_path / "b" / "data" / "clips"), b)
    training.write_run_files(elsewhere, tmp_path / "c", dataset)
    # not its own: stays absolute
    assert generate.load_config(tmp_path / "c").data.dir == str(b / "data" / "clips")


def test_a_field_that_came_with_a_later_version_had_its_default(tmp_path):
    dataset = write_clips(tmp_path / "clips")
    training.write_run_files(config(dataset.dir), tmp_path, dataset)
    file = tmp_path / "config.json"
    recorded = json.loads(file.read_text())
    del recorded["system"]["kl_weight"], recorded["optimizer"]["b2"]
    file.write_text(json.dumps(recorded))
    training.check_resumable(config(dataset.dir), tmp_path)
    with pytest.raises(UserError, match="expected: system.kl_weight=0.0001; found: .*=0.5"):
        training.check_resumable(config(dataset.dir, **{"system.kl_weight": 0.5}), tmp_path)


def test_a_moved_workdir_keeps_its_name_elsewhere_and_a_copy_gets_its_own(tmp_path):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert paths.identity(a, "id.json", "one") == "one" == paths.identity(a, "id.json", "two")
    shutil.copytree(a, c)
    shutil.move(a, b)
    assert paths.identity(b, "id.json", "three") == "one"
    shutil.rmtree(c)
    shutil.copytree(b, c)
    assert paths.identity(c, "id.json", "four") == "four" == paths.identity(c, "id.json", "five")
    (b / "id.json").write_text('{"folder": "old"}')
    assert paths.identity(b, "id.json", "six") == "old"


def test_a_stage_killed_before_its_record_was_closed_is_whole_if_its_dataset_is(tmp_path,
                                                                                fake_prepare):
    stage = ({"kind": "prepare", "dataset": "tiny", "out": "{workdir}/clips"},)
    stages.run_stages(stage, tmp_path)
    record = tmp_path / "clips.stage.json"
    record.write_text(record.read_text().replace("true", "false"))
    assert stages.run_stages(stage, tmp_path) == {} and fake_prepare == [0]


def test_stages_know_what_their_outputs_were_made_of(tmp_path, fake_prepare, monkeypatch):
    monkeypatch.setattr("data_pipelines.extract.extractor", lambda name: lambda clips_dir,
                        out_dir: write_clips(out_dir))
    stage = ({"kind": "prepare", "dataset": "tiny", "out": "{workdir}/clips"},
             {"kind": "extract", "clips": "{workdir}/clips", "out": "{workdir}/features"})
    stages.run_stages(stage, tmp_path)
    assert stages.run_stages(stage, tmp_path) == {}
    shutil.rmtree(tmp_path / "clips")
    assert stages.run_stages(stage, tmp_path).keys() == {"prepare clips"}  # the same again
    shutil.rmtree(tmp_path / "clips")
    write_clips(tmp_path / "clips", seed=5)
    with pytest.raises(UserError, match="made of other data.*delete the folder "
                                        f"{tmp_path / 'features'}"):
        stages.run_stages(stage, tmp_path)


def test_stages_of_own_clips_are_prepared_again_and_may_have_moved(tmp_path, monkeypatch):
    calls = []

    def prepare(source, out):
        calls.append(source)
        (tmp_path / "mine").mkdir(exist_ok=True)

    only(monkeypatch, "clips", Ingest(prepare, takes_in_changes=True))
    for source in ("a", "a", "b"):
        stages.run_stages(({"kind": "prepare", "dataset": "clips", "source": source,
                            "out": "{workdir}/mine"},), tmp_path)
    assert calls == ["a", "a", "b"]


def test_training_stage_is_skipped_when_done_and_goes_on_when_not(tmp_path, one_device):
    clips = write_clips(tmp_path / "clips").dir
    stage = ({"kind": "train", "config": "configs/head_vae.py", "workdir": "{workdir}/vae",
              "overrides": TINY | {"data.dir": str(clips)}},)
    assert list(stages.run_stages(stage, tmp_path)) == ["train vae"]
    assert stages.run_stages(stage, tmp_path) == {}
    record = tmp_path / "vae.stage.json"
    record.write_text(record.read_text().replace("true", "false"))
    before = told(tmp_path / "vae")
    assert list(stages.run_stages(stage,
                                  tmp_path)) == ["train vae"] and told(tmp_path
                                                                          / "vae") == before


@pytest.mark.parametrize("key, nearest", [("trian.steps", "train.steps"), ("optimizer.learning_rat",
                                          "optimizer.learning_rate"),
                                          ("batch_size", "data.batch_size")])
def test_unknown_key_names_the_nearest(key, nearest):
    with pytest.raises(UserError, match=f"nearest valid key: {nearest}; found: {key}"):
        flags.load_config("configs/head_vae.py", {key: 1})


def test_config_files_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="no such config.*head_vae.py"):
        flags.load_config("configs/nope.py")
    (tmp_path / "broken.py").write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match="broken.py; found: ZeroDivisionError"):
        flags.load_config(tmp_path / "broken.py")
    with pytest.raises(UserError, match="wrong type.*train.steps"):
        flags.load_config("configs/head_vae.py", {"train.steps": "many"})


@pytest.mark.parametrize("arguments, words", [
    (["--config=configs/head_vae.py", "--config.train.stepz=3", "--workdir={}"],
     ["train.stepz", "train.steps"]),
    (["--config=configs/head_vae.py", "--config.train.steps=many", "--workdir={}"],
     ["train.steps", "many"]),
    (["--workdir={}"], ["--config=FILE.py"]),
])
def test_wrong_command_line_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    workdir = tmp_path / "run"
    done = commands.run("train", *(a.format(workdir) for a in arguments))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines(
        )) == 1 and done.stderr.startswith("error: ")
    assert all(word in done.stderr for word in words), done.stderr
    assert not workdir.exists()


def test_a_platform_without_its_plugin_is_one_line_before_anything_is_made(tmp_path):
    done = subprocess.run([sys.executable, "-m", "launch.train", "--config=configs/head_vae.py",
                           f"--workdir={tmp_path / 'run'}"], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {"JAX_PLATFORMS": "cuda"})
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith(
        "error: JAX finds no such device; where: JAX_PLATFORMS=cuda") and not list(tmp_path.iterdir(
            ))


@pytest.mark.slow
def test_command_stops_on_sigterm_with_75_and_goes_on(tmp_path):
    clips, workdir = write_clips(tmp_path / "clips").dir, tmp_path / "run"
    arguments = ("train", "--config=configs/head_vae.py", f"--workdir={workdir}",
                 f"--config.data.dir={clips}",
                 *(f"--config.{k}={v}" for k, v in TINY.items() if k != "train.steps"))
    process = commands.start(*arguments, "--config.train.steps=100000")
    deadline = time.monotonic() + 500
    while len(records(workdir)) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    done = process.wait()
    assert done.returncode == 75
    assert "signal SIGTERM: saved step" in done.stderr
    assert "Traceback" not in done.stderr
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    done = commands.run(*arguments, f"--config.train.steps={saved + 2}")
    assert done.returncode == 0, done.stderr
    assert f"resuming from step {saved}" in done.stderr and "done in" in done.stderr
    assert [r["step"] for r in told(workdir)] == list(range(1, saved + 3))


def test_warm_start_refuses_parameters_of_other_features(tmp_path, monkeypatch):
    features = FEATURES | {"id": Feature((), "str", "name")}
    dataset = store.write_dataset(tmp_path / "data", name="tiny", description="walks",
                                  features=features, progress=False,
                                  splits={"train":
                                          [{"id": "a", "pose_z": np.zeros((3, 7), np.float32)}]},
                                  recipes={"pose_z": {"kind": "pose", "seed": 1}})
    system = training.api.build(head_vae.get_config().system)

    def check(saved, **overrides):
        monkeypatch.setattr(training.checkpoints, "load_meta", lambda path: {"recipes": saved})
        training.check_warm_start(config(dataset.dir, **{"train.init_from": "stage1"} | overrides),
                                  system, dataset, tmp_path)

    check({"pose_z": {"kind": "pose", "seed": 1}, "mel": {"kind": "other"}})
    check({"pose_z": {"kind": "none"}})  # the first stage had none of it
    check({"pose_z": {"kind": "pose", "seed": 2}}, **{"train.init_other_features": True})
    with pytest.raises(UserError, match="warm start.*recipe of 'pose_z' "
                                        "differs.*stage1.*seed=2.*init_other_features"):
        check({"pose_z": {"kind": "pose", "seed": 2}})
    (tmp_path / training.CONFIG_FILE).write_text("{}")
    check({"pose_z": {"kind": "pose", "seed": 2}})  # a job that goes on has parameters of its own
