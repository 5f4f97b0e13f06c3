"""A training on a mixture: from the command line to records, a resume, an evaluation."""

import json

import pytest

from avjax.errors import UserError
from launch import data, flags, overrides, preflight, schema, training
from launch.jobs import stages
from launch.targets import jobs as targets
from tests.launch.walks import config, write_clips
from tests.workdirs import records


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    names = {"large": {}, "small": {"seed": 1}}
    return {name: str(write_clips(folder / name, **how).dir) for name, how in names.items()}


def mixed(folders, weights=(0.7, 0.3), names=("large", "small"), **changes):
    c = config("", **{"train.evaluate_every": 0} | changes)
    with c.unlocked():
        c.data.mixture = tuple((folders[name], "train", weight)
                               for name, weight in zip(names, weights, strict=True))
    return c


def test_counts_are_told_recorded_and_survive_a_resume(folders, tmp_path, one_device, capsys):
    run = tmp_path / "run"
    training.run_training(mixed(folders, **{"train.steps": 2}), run)
    told = capsys.readouterr().err
    assert "large.train: 6 examples, 70.0% of the rows, 1 epochs in 2 steps" in told
    assert "small.train: 6 examples, 30.0% of the rows, 0.333 epochs in 2 steps" in told
    training.run_training(mixed(folders), run)
    counted = [(r["step"], r["large.train/examples"], r["small.train/examples"],
                r["small.train/epochs"]) for r in records(run, "data")]
    # 4 rows a step, 7 of 10 from the large one
    assert [c[:3] for c in counted] == [(1, 3, 1), (2, 6, 2), (3, 9, 3), (4, 12, 4)]
    assert counted[-1][3] == pytest.approx(4 / 6)
    straight = tmp_path / "straight"
    training.run_training(mixed(folders), straight)
    batches = [[r["batch_id"] for r in records(w, "train")] for w in (run, straight)]
    losses = [[r["loss"] for r in records(w, "train")] for w in (run, straight)]
    assert batches[0] == batches[1] and losses[0] == losses[1]

    recorded = json.loads((run / "config.json").read_text())["data"]["mixture"]
    assert recorded == [[folders["large"], "train", 0.7], [folders["small"], "train", 0.3]]
    with pytest.raises(UserError, match="another config.*data.mixture"):
        training.run_training(mixed(folders, weights=(0.6, 0.4), **{"train.steps": 5}), run)
    # the first source is decoded with
    assert json.loads((run / "recipes.json").read_text())["pose"]["seed"] == 0
    assert data.main_folder(mixed(folders).data) == folders["large"]
    assert "first of the 2 sources" in data.said(mixed(folders).data)
    moved = mixed(folders, names=("large", "large"), **{"train.steps": 4})
    training.check_resumable(moved, run)  # a folder may lie elsewhere now


@pytest.mark.parametrize("text, expected", [
    ("(('a','train',0.7),('b','train',0.3))", (("a", "train", 0.7), ("b", "train", 0.3))),
    ("[['a', 'train', 1], ['b', 'x', 2, 'first']]", (["a", "train", 1], ["b", "x", 2, "first"])),
    ("()", ()),
    ("None", ()),
])
def test_a_mixture_on_the_command_line(text, expected):
    c = config("")
    overrides.apply(c, [f"data.mixture={text}"])
    schema.validate(c)
    assert c.data.mixture == expected
    if len(expected) > 1:
        overrides.apply(c, ["data.mixture[1][2]=5"])
        assert c.data.mixture[1][2] == 5 and c.data.mixture[0][2] == expected[0][2]


@pytest.mark.parametrize("mixture, words", [
    ((("a", "train", 0),), "finite weight above 0 of 'a', train"),
    ((("a", "train", -1.0),), "finite weight above 0"),
    ((("a", "train", float("inf")),), "finite weight above 0"),
    ((("a", "train", float("nan")),), "finite weight above 0"),
    ((("a", "train", 1), ("a", "train", 2)), "every source once.*is there twice"),
    ((("a", "train", 1), ("./a/", "train", 2, "")), r"every source once.*'\./a/', train, is there"),
    ((("", "train", 1),), "a folder in every source"),
    ((("a", "", 1),), "name of a split"),
    (("a", "train", 1), "wrong type.*a list of"),
    ((("a", "train"),), "wrong type"),
    ((("a", "train", "1"),), "wrong type"),
])
def test_sources_that_cannot_be_are_one_line(mixture, words):
    c = config("").copy_and_resolve_references()
    with c.unlocked():
        c.data.mixture = mixture
    with pytest.raises(UserError, match=words):
        schema.validate(c)


def test_either_a_folder_or_a_mixture(folders):
    c = mixed(folders).copy_and_resolve_references()
    with c.unlocked():
        c.data.dir = folders["large"]
    with pytest.raises(UserError, match=r"mixture; expected: \(\) where dir = .*config.data.dir="):
        schema.validate(c)


def test_folders_and_splits_are_looked_at_before_anything(folders, tmp_path):
    with pytest.raises(UserError, match="no dataset here.*nowhere"):
        preflight.check(mixed(folders | {"small": str(tmp_path / "nowhere")}), tmp_path / "run")
    c = mixed(folders)
    with c.unlocked():
        c.data.mixture = (*c.data.mixture, (folders["large"], "trian", 1))
    with pytest.raises(UserError, match=r"unknown split.*mixture\[2\].*train or valid.*'trian'"):
        preflight.check(c, tmp_path / "run")
    with pytest.raises(UserError, match=r"read from disks.*mixture\[1\].*gs://b/x"):
        preflight.check(mixed(folders | {"small": "gs://b/x"}), tmp_path / "run")
    with pytest.raises(UserError, match=r"read from disks.*mixture\[0\]"):
        targets._check_data("gs://b/x", "config.data.mixture[0]")


def test_a_stage_trains_on_a_mixture(folders, tmp_path, one_device):
    sources = (("{workdir}/data/large", "train", 1), (folders["small"], "train", 1))
    changes = {"data.mixture": sources, "data.dir": "", "train.steps": 1,
               "train.evaluate_every": 0, "system.d_ff": 16, "system.dropout": 0.0,
               "data.batch_size": 4, "data.segment": 16, "mesh.data": 1}
    workdir = tmp_path / "run"
    (workdir / "data").mkdir(parents=True)
    (workdir / "data" / "large").symlink_to(folders["large"])
    stage = {"kind": "train", "config": "configs/head_vae.py", "workdir": "{workdir}/vae",
             "overrides": changes}
    preflight.check_stages((stage,), workdir)
    stages.run_stages((stage,), workdir)
    recorded = json.loads((workdir / "vae" / "config.json").read_text())
    assert [s[1:] for s in recorded["data"]["mixture"]] == [["train", 1], ["train", 1]]
    assert flags.fill(recorded["data"]["mixture"][0][0], workdir).endswith("large")
