"""What a config names must exist before anything takes long."""

import json

import pytest

from avjax.errors import StorageError, UserError
from launch import data, flags, preflight, train, training
from launch.jobs import stages
from tests.launch.walks import TINY, config, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data") / "clips").dir


def checked(clips, tmp_path, stage=(), **overrides):
    c = config(clips, **overrides)
    with c.unlocked():
        c.stages = tuple(stage)
    train.check_config(c, tmp_path / "run")


def test_what_is_whole_passes(clips, tmp_path):
    checked(clips, tmp_path)
    made = {"kind": "prepare", "dataset": "puppets", "out": "{workdir}/clips", "minutes": 1.0}
    sub = {
        "kind": "train",
        "config": "configs/head_vae.py",
        "workdir": "{workdir}/vae",
        "overrides": TINY | {"data.dir": "{workdir}/clips"},
    }
    features = {
        "kind": "extract",
        "clips": "{workdir}/clips",
        "out": "{workdir}/features",
        "head": "vae",
        "head_vae": "{workdir}/vae",
    }
    checked(
        clips,
        tmp_path,
        (made, sub, features),
        **{"data.dir": "{workdir}/features", "train.init_from": "{workdir}/vae"},
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (
            {"evaluate.splits": ("vaild",)},
            "unknown split.*config.evaluate.splits.*train or valid.*'vaild'",
        ),
        ({"data.train_split": "trian"}, "unknown split.*train or valid.*'trian'"),
        ({"evaluate.tasks": ("sing",)}, "unknown task.*evaluate.tasks.*'sing'"),
        ({"evaluate.benchmark": "pupets"}, "unknown benchmark.*puppets.*'pupets'"),
        ({"sample.tasks": ("sing",)}, "unknown task.*sample.tasks"),
        ({"sample.audio": "none.wav"}, "no such file.*sample.audio.*none.wav"),
        (
            {"train.wandb": "project"},
            "Weights & Biases is not installed.*--config.train.wandb=None",
        ),
        ({"train.local_dir": "gs://b/x"}, "folder of this host"),
        ({"optimizer.frozen": ("nope",)}, "matches no parameter"),
        ({"train.init_from": "nowhere"}, "config.train.init_from.*no checkpoint here"),
        (
            {"train.init_parts": (("a", "nowhere", ""),)},
            "config.train.init_parts.*no checkpoint here",
        ),
        ({"data.dir": "nowhere"}, "no dataset here"),
    ],
)
def test_what_a_config_names_must_exist(clips, tmp_path, monkeypatch, overrides, words):
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=words):
        checked(clips, tmp_path, **overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "stage, words",
    [
        ({"kind": "prepair", "out": "x"}, r"unknown stage; where: config.stages\[1\]"),
        ({"kind": "prepare", "dataset": "puppets"}, "without an output"),
        ({"kind": "prepare", "out": "x"}, "without a dataset"),
        ({"kind": "prepare", "dataset": "pupets", "out": "x"}, r"stages\[1\].*unknown dataset"),
        (
            {"kind": "prepare", "dataset": "puppets", "out": "x", "minuets": 3},
            r"stages\[1\].*no --minuets",
        ),
        (
            {"kind": "extract", "clips": "{workdir}/clips", "out": "x", "sead": 1},
            "wrong arguments of a extract stage.*sead",
        ),
        (
            {"kind": "extract", "clips": "{workdir}/clisp", "out": "x"},
            r"no such file or folder.*stages\[1\].clips",
        ),
        (
            {
                "kind": "extract",
                "clips": "{workdir}/clips",
                "features": "tavid",
                "vocoder": "bigvgan.pt",
                "out": "x",
            },
            r"no such file or folder; where: config.stages\[1\].vocoder",
        ),
        (
            {"kind": "extract", "clips": "{workdir}/clips", "features": "tavdi", "out": "x"},
            "unknown features",
        ),
        (
            {"kind": "extract", "clips": "{workdir}/clips", "tokens": "fones", "out": "x"},
            r"stages\[1\].*unknown tokens.*phones or units",
        ),
        ({"kind": "train", "workdir": "x", "config": "configs/nope.py"}, "no such config"),
        (
            {
                "kind": "train",
                "workdir": "x",
                "config": "configs/head_vae.py",
                "overrides": {"train.stepz": 1},
            },
            "nearest valid key",
        ),
        (
            {"kind": "train", "workdir": "x", "config": "configs/head_vae.py", "stepz": 1},
            "wrong arguments of a train stage",
        ),
        (
            {
                "kind": "train",
                "workdir": "x",
                "config": "configs/head_vae.py",
                "overrides": {"train.init_from": "nope"},
            },
            r"config.stages\[1\].config.train.init_from",
        ),
    ],
)
def test_a_later_stage_is_looked_at_before_the_first_one_runs(clips, tmp_path, stage, words):
    first = {"kind": "prepare", "dataset": "puppets", "out": "{workdir}/clips"}
    with pytest.raises(UserError, match=words):
        checked(clips, tmp_path, (first, stage))


def test_what_a_stage_was_made_of_may_be_gone_once_it_is_whole(clips, tmp_path):
    source = tmp_path / "source"
    stage = {"kind": "prepare", "dataset": "clips", "source": str(source), "out": "{workdir}/clips"}
    with pytest.raises(
        UserError, match=r"no such file or folder; where: config.stages\[0\].source"
    ):
        checked(clips, tmp_path, (stage,))
    (tmp_path / "run" / "clips").mkdir(parents=True)
    checked(clips, tmp_path, (stage,))


def test_a_stage_that_trains_may_take_the_experiments_seed(tmp_path, monkeypatch):
    c = flags.load_config("configs/talker_two_stage.py", {"seed": 3})
    train.check_config(c, tmp_path / "run")
    ran = []
    monkeypatch.setattr("launch.jobs.stages._run", lambda kind, given, where: ran.append(given))
    stages.run_stages(stages.seeded(c.stages[-1:], c.seed), tmp_path / "run")
    assert ran[0]["overrides"]["seed"] == 3
    ((folder, *source),) = ran[0]["overrides"]["data.mixture"]
    assert folder == f"{tmp_path}/run/../common/data/features"
    assert source == ["train", 1.0, "speech"]
    # what was made with one seed is not taken for another's
    (tmp_path / "run" / "speech").mkdir()
    with pytest.raises(UserError, match="other arguments.*seed"):
        stages.run_stages(stages.seeded(c.stages[-1:], 4), tmp_path / "run")


def test_data_that_a_begun_run_never_read_is_a_wrong_path(clips, tmp_path):
    run, away = tmp_path / "run", str(tmp_path / "away")
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"data": {"dir": str(clips)}}))
    with pytest.raises(UserError, match="no dataset here.*away"):
        checked(clips, tmp_path, **{"data.dir": away})
    (run / "config.json").write_text(json.dumps({"data": {"dir": away}}))
    with pytest.raises(StorageError, match="no dataset here.*away"):
        checked(clips, tmp_path, **{"data.dir": away})


def test_data_that_a_stage_made_is_looked_at_before_the_first_step(clips, tmp_path, one_device):
    run = tmp_path / "run"
    for overrides, words in (
        ({"evaluate.splits": ("vaild",)}, "unknown split.*'vaild'.*--config.evaluate.splits=None"),
        (
            {"train.best_metric": "F1"},
            "best_metric; expected: valid/kl or valid/loss.*; found: 'F1'",
        ),
    ):
        with pytest.raises(UserError, match=words):
            training.run_training(config(clips, **overrides), run)
        assert not run.exists()
    unread = config(clips, **{"evaluate.splits": ("vaild",), "train.evaluate_every": 0})
    preflight.check_splits(unread, data.open_parts(unread.data))


def test_a_workdir_that_is_further_is_left_as_it_is(clips, tmp_path, one_device):
    run = tmp_path / "run"
    (run / "checkpoints" / "6").mkdir(parents=True)
    cosine = {"optimizer.schedule": "cosine", "train.steps": 6}
    text = json.dumps(training.plain(config(clips, **cosine)))
    (run / training.CONFIG_FILE).write_text(text)
    with pytest.raises(UserError, match="further than that.*at least 6.*; found: 4"):
        training.run_training(config(clips, **{"train.steps": 4}), run)
    with pytest.raises(
        UserError, match=f"train.steps=8.*another --workdir with --config.train.init_from={run}"
    ):
        training.run_training(config(clips, **cosine | {"train.steps": 8}), run)
    assert (run / training.CONFIG_FILE).read_text() == text and {p.name for p in run.iterdir()} == {
        "checkpoints",
        "config.json",
    }


def test_stages_of_two_jobs_that_share_a_dataset_wait_for_each_other(tmp_path):
    stage = ({"kind": "prepare", "dataset": "puppets", "out": str(tmp_path / "clips")},)
    with stages.sole_makers(stage, tmp_path / "a"):
        assert [p.name for p in tmp_path.iterdir()] == [".clips.lock"]
    assert not list(tmp_path.iterdir())
