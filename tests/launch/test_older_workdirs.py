"""Workdirs that were begun before a field of their config existed."""

import json

import pytest
from ml_collections import ConfigDict

from avjax.checkpoint import loading
from avjax.systems import api, registry
from launch import training
from launch.flags import load_config
from launch.jobs import generate

GONE = {"talker_quickstart": ("system.spelling_weight", "system.regression_weight",
                              "optimizer.frozen_dtype", "data.mixture", "stages"),
        "tavid": ("system.visual.driver", "system.visual.unet.remat", "system.visual.audio",
                  "system.speaker.colours", "optimizer.frozen_dtype")}


def older(recorded: dict, keys) -> dict:
    for key in keys:
        *groups, name = key.split(".")
        group = recorded
        for inner in groups:
            group = group[inner]
        del group[name]
    return recorded


@pytest.mark.parametrize("name", GONE)
def test_they_have_the_defaults_of_what_came_since(name, tmp_path):
    config = load_config(f"configs/{name}.py")
    now = training.plain(config)
    recorded = older(training.plain(config), GONE[name])
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    found = generate.load_config(tmp_path)
    assert training.plain(found)["system"] == now["system"]
    assert found.optimizer.frozen_dtype == "float32" and not found.data.mixture
    api.build(found.system)

    step = tmp_path / "checkpoints" / "3"  # a checkpoint's record
    (step / "state").mkdir(parents=True)
    (step / "meta").mkdir()
    (step / "meta" / "metadata").write_text(json.dumps({"config": recorded}))
    meta = loading.load_meta(tmp_path, 3)
    assert meta["step"] == 3
    assert training.plain(ConfigDict(meta["config"]))["system"] == now["system"]


def test_a_system_that_is_not_here_is_left_as_it_is():
    assert registry.completed({"name": "of_another", "width": 3}) == {"name": "of_another",
                                                                      "width": 3}
    assert registry.completed({}) == {}
