"""WavLM against a recording of its own code, under all of its published names."""

import re

import jax
import numpy as np
import pytest

from avjax.encoders import relative_bias, units
from avjax.encoders.published.stated import Stated
from avjax.encoders.published.wav2vec2 import import_params
from avjax.encoders.speech_frames import Wav2Vec2Frames
from avjax.encoders.wav2vec2 import Wav2Vec2, config_of
from avjax.errors import UserError
from avjax.nn import attention_kernels
from tests.golden_files import config as golden_config
from tests.golden_files import golden, under
from tests.weights.torch_zips import dumps, tensor, zip_pickle

TOLERANCE = 1e-4
recordings = pytest.mark.parametrize(("name", "record"), golden("wavlm", "hidden_states"))


def network_of(record):
    """(state dict, config, parameters)."""
    state = under(record, "sd/feature_extract.model.")
    params = import_params(state)
    farthest = golden_config(record)["wavlm"]["max_distance"]
    return state, config_of(params, found=Stated(relative_distance=farthest)), params


def run(config, params, x_BN, lengths_B=None):
    return jax.jit(lambda p, x, n: Wav2Vec2(config).apply({"params": p}, x, n, with_layers=True))(
        params, x_BN, lengths_B)


@recordings
def test_equals_the_published_network(name, record):
    _, config, params = network_of(record)
    sizes = golden_config(record)["wavlm"]
    assert config.num_heads == sizes["encoder_attention_heads"]  # off the bias table's shape
    assert config.relative_buckets == sizes["num_buckets"]
    out = run(config, params, record["x"])
    # the inputs of the layers, and the last one's output, normed
    for found, states in zip([out["encoder_in"], *out["layers"][:-1], out["last_hidden"]],
                             record["hidden_states"], strict=True):
        np.testing.assert_allclose(found, states, atol=TOLERANCE)


@recordings
def test_bias_of_every_offset(name, record):
    sizes = golden_config(record)["wavlm"]
    np.testing.assert_array_equal(
        relative_bias.buckets(record["rel_pos"], sizes["num_buckets"], sizes["max_distance"]),
        record["rel_bucket"])
    _, config, params = network_of(record)
    frames = record["position_bias"].shape[-1]
    bias_HR = np.asarray(relative_bias.of_offsets(params["relative_bias"], frames,
                                                  config.relative_distance))
    offset_TT = np.arange(frames)[None] - np.arange(frames)[:, None] + frames - 1
    np.testing.assert_allclose(bias_HR[:, offset_TT], record["position_bias"], atol=1e-6)


@recordings
def test_blocks_and_padding_change_nothing(name, record, monkeypatch):
    monkeypatch.setattr(attention_kernels, "HEAD_BLOCK", 10)  # does not divide the frames
    _, config, params = network_of(record)
    x_BN = np.pad(record["x"], ((0, 0), (0, 4000)), constant_values=3)
    lengths_B = np.full(len(x_BN), record["x"].shape[1])
    out = run(config, params, x_BN, lengths_B)["last_hidden"]
    frames = record["hidden_states"].shape[2]
    assert out.shape[1] > frames
    np.testing.assert_allclose(out[:, :frames], record["hidden_states"][-1], atol=TOLERANCE)


TRANSFORMERS = (
    (r"(conv_layers\.\d+)\.0\.", r"\1.conv."), (r"(conv_layers\.\d+)\.2\.1\.", r"\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"pos_conv\.0\.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"pos_conv\.0\.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"pos_conv\.0\.", "pos_conv_embed.conv."),
    (r"self_attn\.relative_attention_bias", "attention.rel_attn_embed"),
    (r"self_attn\.grep_linear", "attention.gru_rel_pos_linear"),
    (r"self_attn\.grep_a", "attention.gru_rel_pos_const"), (r"\.self_attn\.", ".attention."),
    (r"self_attn_layer_norm", "layer_norm"), (r"fc1", "feed_forward.intermediate_dense"),
    (r"fc2", "feed_forward.output_dense"), (r"^", "wavlm."))


def transformers_names(state):
    out = {}
    for name, value in state.items():
        for pattern, replacement in TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def torchaudio_names(state):
    out = {}
    for name, value in transformers_names(state).items():
        name = re.sub(r"^wavlm\.(encoder|feature_projection)\.",
                      lambda m: "encoder." + ("transformer." if m[1] == "encoder" else
                                              "feature_projection."), name)
        out[name.removeprefix("wavlm.")] = value
    for name in [n for n in out if re.search(r"attention\.q_proj", n)]:
        joint = name.replace(".q_proj.", ".attention.in_proj_")
        out[joint] = np.concatenate([out.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"])
    return {re.sub(r"attention\.out_proj", "attention.attention.out_proj", n): v
            for n, v in out.items()}


@recordings
@pytest.mark.parametrize("naming", [transformers_names, torchaudio_names])
def test_other_namings_are_the_same_network(name, record, naming):
    state, _, params = network_of(record)
    renamed = naming(state)
    assert len(set(renamed) - set(state)) > len(state) / 2
    jax.tree.map(np.testing.assert_array_equal, import_params(renamed), params)


@recordings
def test_frames_of_its_own_checkpoint(name, record, tmp_path):
    state, _, _ = network_of(record)
    storages, model = {}, {}
    for k, (entry, value) in enumerate(state.items()):
        strides = [s // 4 for s in np.ascontiguousarray(value).strides]
        model[entry] = tensor(value.shape, tuple(strides), count=value.size, key=str(k))
        storages[str(k)] = np.ascontiguousarray(value, np.float32).tobytes()
    path = zip_pickle(tmp_path / "WavLM-Large.pt",
                      dumps({"cfg": golden_config(record)["wavlm"], "model": model}), storages)
    frames = Wav2Vec2Frames.from_checkpoint(path, layer=2)
    assert frames.recipe["normalise"] and frames.recipe["network"]["relative_distance"] == \
        golden_config(record)["wavlm"]["max_distance"]
    found = frames(list(record["wav"]))  # not normalised yet
    for ours, theirs in zip(found, record["hidden_states"][2], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    centroids = record["hidden_states"][2][0, ::5]
    np.save(tmp_path / "kmeans.npy", centroids)
    made = units.published(path, tmp_path / "kmeans.npy", layer=2)(list(record["wav"]))
    distance = ((record["hidden_states"][2][:, :, None] - centroids) ** 2).sum(-1)
    np.testing.assert_array_equal(made, distance.argmin(-1))
    with pytest.raises(UserError, match="not a network for units.*found: layer 35"):
        Wav2Vec2Frames.from_checkpoint(path)
