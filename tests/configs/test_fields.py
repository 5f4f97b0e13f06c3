"""Fields declared once: their defaults, documents, and what a config may not be."""

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from avjax import fields
from avjax.errors import UserError
from avjax.fields import Recipe, Section, field
from avjax.systems import registry
from configs import base
from launch import config_report, schema
from launch.flags import load_config
from tests.configs.resolved import EXPERIMENTS, load, path

VARIANTS = [path(name, variant) for name, variants in EXPERIMENTS.items() for variant in variants]


class Net(Section):
    width: int = field(8, "Channels.", minimum=1, maximum=64)
    kind: str = field("a", "Which.", choices=("a", "b"))


class Config(Section):
    name: str = field("toy", "The toy.")
    net: Net = field(None, "The net.", resume="free")
    rate: float = field(0.5, "A rate.", above=0, below=1)
    sizes: tuple[int, ...] = field((4, 2), "Of the levels.", minimum=1)
    parts: tuple[tuple[str, str], ...] = field((), "Pairs.")
    recipe: Recipe = field(None, "How it is made.")
    deep: bool = field(False, "Whether it is.", resume="free")

    @staticmethod
    def relations(c, need):
        need(len(c.sizes) == 2 or not c.deep, "sizes", "two where deep is True", hint="add one")
        need(c.net.width >= 2 * c.sizes[0], "net.width", f">= {2 * c.sizes[0]}")


def test_defaults_are_a_fresh_config():
    c = Config.make(rate=0.25, net=dict(width=16))
    assert (c.rate, c.net.width, c.net.kind, c.sizes) == (0.25, 16, "a", (4, 2))
    c.net.width = 9
    assert Config.make().net.width == 8
    with pytest.raises(KeyError, match="rte"):
        Config.make(rte=1)
    Config.check(FrozenConfigDict(c))


@pytest.mark.parametrize("change, message", [
    ({"net.width": 0}, "out of range; where: config.system.net.width; expected: 1 to 64; found: 0"),
    ({"net.kind": "c"}, r"unknown kind; where: .*net.kind; expected: a \| b; found: 'c'"),
    ({"rate": 1.0}, r"config.system.rate; expected: > 0 and < 1; found: 1.0"),
    ({"rate": "x"}, r"wrong type; where: config.system.rate; expected: a number; found: 'x'"),
    ({"rate": True}, "wrong type.*rate"),
    ({"deep": 1}, "wrong type.*deep; expected: True or False; found: 1"),
    ({"net": 3}, "wrong type.*config.system.net; expected: section"),
    ({"sizes": (4, 0)}, "out of range.*sizes; expected: >= 1"),
    ({"sizes": (4, 1.5)}, "wrong type.*sizes; expected: a list of whole numbers"),
    ({"parts": (("a",),)}, r"wrong type.*parts; expected: a list of \(text, text\)"),
    ({"recipe": 3}, "wrong type.*recipe; expected: a mapping or None"),
    ({"sizes": (1, 1, 1), "deep": True}, "not valid; .*sizes; expected: two where.*hint: add one"),
    ({"sizes": (5, 1)}, "config.system.net.width; expected: >= 10; found: 8"),
    ({"rate": None}, "wrong type"),
])
def test_what_cannot_be_is_a_line(change, message):
    config = Config.make().to_dict()
    for key, value in change.items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    with pytest.raises(UserError, match=message):
        Config.check(ConfigDict(config))


def test_a_missing_field_is_a_line_and_lists_count_as_tuples():
    config = ConfigDict(Config.make().to_dict() | {"sizes": [4, 2], "parts": [["a", "b"]]})
    Config.check(config)
    del config["deep"]
    with pytest.raises(UserError, match="lacks a field; where: config.system.deep"):
        Config.check(config)


def test_resume_is_inherited_from_the_section():
    found = {e.key: e.resume for e in fields.describe(Config, Config.make())}
    assert found["net"] == found["net.width"] == found["deep"] == "free"
    assert found["rate"] == fields.resume_of(Config, "rate") == "fixed"
    assert fields.resume_of(Config, "net.gone") == "free"  # of an older version's config.json
    assert fields.resume_of(Config, "gone") == "fixed"


# What could differ on resume before the fields said so: prefixes of keys.
FREE = ("stages", "mesh.", "dcn.", "plan.", "data.dir", "data.threads", "evaluate.", "sample.",
        "stream.", "name", "train.log_every", "train.checkpoint_every", "train.keep_",
        "train.best_", "train.evaluate_every", "train.loss_examples", "train.init_",
        "train.nan_policy", "train.max_skips", "train.profile_", "train.wandb", "train.local_",
        "train.peak_flops", "train.steps", "train.watchdog_seconds", "train.save_timeout",
        "train.barrier_timeout", "train.heartbeat_timeout", "optimizer.whole_params")


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_same_fields_may_change_on_resume_as_ever(schedule):
    config = load_config("configs/head_vae.py", {"optimizer.schedule": schedule})
    for entry in schema.entries(config):
        if not entry.is_section:
            free = entry.key.startswith(FREE) and (entry.key != "train.steps"
                                                   or schedule == "constant")
            assert schema.may_change(config, entry.key) == free, entry.key


@pytest.mark.parametrize("name", VARIANTS)
def test_every_field_of_a_shipped_config_is_valid_and_documented(name):
    config = load(name)
    if name != "configs/base.py":
        schema.validate(config)
    seen = set()
    for entry in schema.entries(config):
        assert len(entry.doc.split()) > 1 and entry.doc.endswith((".", "]")), \
            f"no document: {entry}"
        assert entry.key not in seen
        seen.add(entry.key)
    assert {"train.steps", "optimizer.name", "mesh.fsdp"} <= seen


def test_every_system_declares_its_fields_and_presets():
    for name in registry.names():
        declared = registry.schema(name)
        assert declared.make().name == name
        module = __import__(declared.__module__, fromlist=["tiny"])
        declared.check(module.tiny())


@pytest.mark.parametrize("changes, message", [
    ({"optimizer.name": "adamm"}, "unknown name; where: config.optimizer.name; expected: adamw"),
    ({"optimizer.schedule": "cosin"}, "unknown schedule"),
    ({"optimizer.schedule": "rsqrt", "optimizer.warmup_steps": 0}, "warmup_steps.*>= 1"),
    ({"optimizer.accumulate": 0}, "accumulate"), ({"train.nan_policy": "stpo"}, "stop | skip"),
    ({"train.best_mode": "low"}, "min | max"), ({"train.steps": -5}, "train.steps; expected: >= 0"),
    ({"data.batch_size": 0}, "batch_size"), ({"data.segment": 0}, "segment"),
    ({"data.train_split": "a,b"}, "train_split"), ({"mesh.fsdp": 0}, "config.mesh.fsdp"),
    ({"mesh.fsdp": -1}, "at most one axis of -1"), ({"dcn.data": 0}, "config.dcn.data"),
    ({"evaluate.splits": ("valid,test",)}, "names of splits, each by itself"),
    ({"evaluate.benchmark": "pupets"}, "unknown benchmark; .*puppets"),
    ({"evaluate.benchmark": "puppets", "evaluate.splits": ()}, "a split where benchmark is set"),
    ({"train.init_parts": ("ab",)}, r"init_parts; expected: a list of \(text, text, text\)"),
    ({"train.local_dir": "/tmp/x", "train.local_every": 0}, "local_every"),
    ({"system.d_model": 0}, "config.system.d_model"), ({"system.name": "head_vea"}, "head_vae"),
])
def test_a_bad_value_is_found_before_any_file_is_opened(changes, message, monkeypatch):
    config = load_config("configs/head_vae.py", changes)
    registry.schema("head_vae")  # imports open files

    def no_files(*args, **kwargs):
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr("builtins.open", no_files)
    with pytest.raises(UserError, match=message):
        schema.validate(config)


def test_a_config_without_a_system_and_a_system_without_fields(monkeypatch):
    config = base.get_config()
    with pytest.raises(UserError, match="has no system; where: config.system.name; .*avflow"):
        schema.validate(config)
    config.system = ConfigDict(dict(name="avflow", mine=3))
    monkeypatch.setattr(registry, "schema", lambda name: None)
    schema.validate(config)
    mine = {e.key: e for e in schema.entries(config)}["system.mine"]
    assert (mine.value, mine.type, mine.doc) == (3, "int", "")
    assert "(not documented)" in config_report.listing(schema.entries(config))
