import sys

import pytest
from absl import flags as absl_flags
from ml_collections import config_flags

from avjax.errors import UserError
from configs import base
from launch import flags, overrides, sweeps
from launch.targets import jobs


def config():
    c = base.get_config()
    c.stages = (
        {"kind": "prepare", "minutes": 30.0, "out": "a", "seed": 0},
        {"kind": "train", "overrides": {"train.steps": 5, "data.dir": "b"}},
    )
    c.train.init_parts = (("text", "there", ""),)
    return c.lock()


def after(*given):
    c = config()
    overrides.apply(c, given)
    return c


@pytest.mark.parametrize(
    "given, key, value",
    [
        ("train.steps=500", "train.steps", 500),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("train.init_other_features=true", "train.init_other_features", True),
        ("train.init_other_features", "train.init_other_features", True),
        ("evaluate.splits=valid,test", "evaluate.splits", ("valid", "test")),
        ("evaluate.splits=test", "evaluate.splits", ("test",)),
        ("evaluate.splits=test,", "evaluate.splits", ("test",)),
        ("evaluate.splits=('a', 'b')", "evaluate.splits", ("a", "b")),
        ("evaluate.splits=(a,b)", "evaluate.splits", ("a", "b")),
        ("evaluate.splits=[a, b]", "evaluate.splits", ("a", "b")),
        ("evaluate.splits='a','b'", "evaluate.splits", ("a", "b")),
        ("evaluate.splits=()", "evaluate.splits", ()),
        ("evaluate.splits=", "evaluate.splits", ()),
        ("evaluate.splits=None", "evaluate.splits", ()),
        ("evaluate.splits[0]=test", "evaluate.splits", ("test",)),
        ("evaluate.splits=1,2", "evaluate.splits", ("1", "2")),
        ("optimizer.frozen=(text|visual)/.*", "optimizer.frozen", ("(text|visual)/.*",)),
        ("optimizer.frozen=a.{1,2},b", "optimizer.frozen", ("a.{1,2}", "b")),
        ("train.wandb=None", "train.wandb", ""),
        ("train.wandb='None'", "train.wandb", "None"),
        ("train.wandb=", "train.wandb", ""),
        ("sample.text=a=b, c", "sample.text", "a=b, c"),
        ("mesh={'data': 2}", "mesh.data", 2),
        ("train.init_parts[0][1]=here", "train.init_parts", (("text", "here", ""),)),
        (
            "train.init_parts=(('a', 'b', ''), ('c', 'd', ''))",
            "train.init_parts",
            (("a", "b", ""), ("c", "d", "")),
        ),
    ],
)
def test_a_value_becomes_what_the_field_holds(given, key, value):
    c = after(given)
    *groups, last = key.split(".")
    for group in groups:
        c = c[group]
    found = c[last]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "given, index, key, value",
    [
        ("stages[0].minutes=1", 0, "minutes", 1.0),
        ("stages[-2].seed=3", 0, "seed", 3),
        ("stages[0]['out']=c", 0, "out", "c"),
        ("stages[0].valid=7", 0, "valid", 7),
        ("stages[1].overrides.train.steps=9", 1, "overrides", {"train.steps": 9, "data.dir": "b"}),
        ("stages[1].overrides['data.dir']=c", 1, "overrides", {"train.steps": 5, "data.dir": "c"}),
        (
            "stages[1].overrides.train.seed=2",
            1,
            "overrides",
            {"train.steps": 5, "data.dir": "b", "train.seed": 2},
        ),
    ],
)
def test_a_stage_can_be_changed(given, index, key, value):
    found = flags.fill(after(given).stages[index], "w")[key]
    assert found == value and type(found) is type(value)
    assert len(after(given).stages) == 2 and after(given).stages[0]["kind"] == "prepare"


@pytest.mark.parametrize(
    "given, words",
    [
        (
            "evaluate.splits[1]=test",
            (r"--config.evaluate.splits\[1\]", r"expected: \[0\] to \[0\]", r"found: \[1\]"),
        ),
        ("stages[9].minutes=1", (r"no such item", r"\[0\] to \[1\]", r"\[9\]")),
        ("stages[0].minutes=soon", ("a number", "'soon'")),
        ("evaluate.tasks[0]=a", ("not empty",)),
        ("train.steps[0]=1", ("no more than train.steps",)),
        ("train.steps.more=1", ("no more than train.steps",)),
        ("train.steps=None", ("a whole number; found: 'None'",)),
        ("train.steps=1e3", ("a whole number; found: '1e3'",)),
        ("train.steps=", ("a whole number",)),
        ("train.steps", ("without a value",)),
        ("train.init_other_features=None", ("True or False",)),
        ("train.init_other_features=maybe", ("True or False; found: 'maybe'",)),
        ("mesh=3", ("'name': value",)),
        ("mesh={'date': 2}", ("unknown config key", "data")),
        ("mesh={'data': 'two'}", ("a whole number",)),
        ("evaluate.splits=a,,b", ("a list",)),
        ("train..steps=1", ("not a config key",)),
        ("stages[a]=1", ("not a config key",)),
        ("stages[0][1]=1", ("a name: kind",)),
        ("trian.steps=1", ("nearest valid key: train.steps; found: trian.steps",)),
        ("=1", ("unknown config key|not a config key",)),
    ],
)
def test_what_cannot_be_is_one_line(given, words):
    for word in words:
        with pytest.raises(UserError, match=word):
            after(given)


def test_values_of_stages_and_callers_have_the_same_rules():
    def changed(key, value):
        c = config()
        overrides.assign(c, key, value, "here")
        return c

    assert changed("optimizer.learning_rate", 1).optimizer.learning_rate == 1.0
    assert (
        changed("evaluate.splits", ["a"]).evaluate.splits == ("a",)
        and changed("train.wandb", None).train.wandb == ""
    )
    assert changed("stages[0].minutes", 1).stages[0]["minutes"] == 1.0
    for key, value in (
        ("train.steps", None),
        ("train.steps", 1.5),
        ("train.steps", True),
        ("train.init_other_features", 1),
        ("evaluate.splits", "valid"),
        ("evaluate.splits", (1,)),
        ("data.dir", 3),
        ("mesh", None),
    ):
        with pytest.raises(UserError, match="wrong type; where: here"):
            changed(key, value)


def test_the_command_line_takes_them_in_all_of_absls_forms(monkeypatch):
    parsed = absl_flags.FlagValues()
    monkeypatch.setattr(flags.flags, "FLAGS", parsed)
    config_flags.DEFINE_config_file(
        "config", None, lock_config=True, sys_argv=[""], flag_values=parsed
    )
    argv = [
        "train",
        "--config.train.steps",
        "7",
        "--config=configs/head_vae.py",
        "--noconfig.train.init_other_features",
        "--config.evaluate.splits=a",
        "-config.evaluate.splits=b",
        "--config.seed=1",
        "--config.seed=2",
    ]
    monkeypatch.setattr(sys, "argv", argv)
    assert flags.parse_flags(argv) == ["train"]
    c = parsed.config
    assert (c.train.steps, c.seed, c.train.init_other_features, c.evaluate.splits) == (
        7,
        2,
        False,
        ("a", "b"),
    )


@pytest.mark.parametrize("given", ["nan", "-inf"])
def test_a_number_that_is_none_is_refused_by_every_command(monkeypatch, given):
    parsed = absl_flags.FlagValues()
    monkeypatch.setattr(flags.flags, "FLAGS", parsed)
    absl_flags.DEFINE_float("seconds", None, "", flag_values=parsed)
    assert flags.parse_flags(["x", "--seconds=1e9"], needs_config=False) == ["x"]
    with pytest.raises(UserError, match=f"no number; where: --seconds.*found: {given}"):
        flags.parse_flags(["x", f"--seconds={given}"], needs_config=False)


def test_sweeps_take_them_too():
    first, second = sweeps.points(["config.evaluate.splits[0]=valid,test"])
    assert first.overrides == ("--config.evaluate.splits[0]=valid",)
    read = jobs.read_config("configs/head_vae.py", [*second.overrides, "--config.train.wandb=None"])
    assert read.evaluate.splits == ("test",) and read.train.wandb == ""
    with pytest.raises(UserError, match=r"no such item.*\[0\] to \[0\]"):
        jobs.read_config("configs/head_vae.py", ["--config.evaluate.splits[1]=test"])
