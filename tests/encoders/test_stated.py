"""What checkpoints state beside their weights: in a Namespace, in omegaconf's objects, in JSON."""

import json
import pickle

import pytest

from avjax.encoders.published.stated import NOTHING, Stated, stated
from avjax.errors import UserError
from tests.weights.test_foreign import New
from tests.weights.torch_zips import Global, dumps, zip_pickle

LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
STRIDES = (5, 2, 2, 2, 2, 2, 2)
MODEL = {"encoder_attention_heads": 8, "conv_feature_layers": LAYERS, "layer_norm_first": True}


def record(module, name, state):
    return New(Global(module, name), (), [(state, pickle.BUILD)])


def namespace(**values):
    return record("argparse", "Namespace", values)


def node(value):
    """As omegaconf keeps one: a config is a record of records."""
    if isinstance(value, dict):
        return record("omegaconf.dictconfig", "DictConfig",
                      {"_metadata": None, "_content": {k: node(v) for k, v in value.items()}})
    return value if isinstance(value, New) else record(
        "omegaconf.nodes", "AnyNode", {"_val": value, "_parent": None})


def of(tmp_path, tree) -> Stated:
    return stated(zip_pickle(tmp_path / "x.pt", dumps(tree | {"model": {}})))


@pytest.mark.parametrize("tree", [
    {"args": namespace(**MODEL, normalize=False)},
    {"args": None, "cfg": {"model": MODEL, "task": {"normalize": False}}},
    {"args": None, "cfg": node({"model": MODEL | {"normalize": "${task.normalize}"},
                                "task": {"normalize": False}})},
    # fine-tuned: of the network inside
    {"cfg": node({"model": {"normalize": True, "w2v_args": node({"model": MODEL, "task": {
        "normalize": False}})}})},
    {"args": namespace(normalize=True, w2v_args=namespace(**MODEL, normalize=False))},
    {"cfg": MODEL | {"normalize": False}}],
    ids=["namespace", "dicts", "omegaconf", "fine-tuned", "fine-tuned namespace", "wavlm"])
def test_what_a_checkpoint_states(tmp_path, tree):
    assert of(tmp_path, tree) == Stated(8, STRIDES, True, False)


def test_what_is_not_stated(tmp_path):
    for tree in ({}, {"args": None, "cfg": None}, {"cfg": "text"}, {"cfg": node({})},
                 {"args": record("os", "system", "touch bait")},
                 {"cfg": {"normalize": "???", "encoder_attention_heads": "${model.heads}"}}):
        assert of(tmp_path, tree) == NOTHING
    assert of(tmp_path, {"cfg": {"conv_feature_layers": "[(1,1,2)] * 99999999999"}}) == Stated(
        conv_strides=(2,))  # not evaluated
    for key, value in (("encoder_attention_heads", -4), ("encoder_attention_heads", "12"),
                       ("normalize", "maybe"), ("max_distance", 0),
                       ("encoder_attention_heads", True), ("conv_feature_layers", "[(1, 2, 0)]")):
        with pytest.raises(UserError, match="impossible values.*found: "):
            of(tmp_path, {"cfg": {key: value}})


def test_config_json_beside_the_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    assert stated(file) == NOTHING
    config = {"num_attention_heads": 12, "conv_stride": list(STRIDES),
              "do_stable_layer_norm": False, "max_bucket_distance": 800}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stated(file) == stated(tmp_path) == Stated(12, STRIDES, False, None, 800)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="unreadable config"):
        stated(file)
    (tmp_path / "config.json").write_text('{"experiment": 1}')
    assert stated(file) == NOTHING
