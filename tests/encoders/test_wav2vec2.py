"""The wav2vec 2.0 family against recordings of the published implementations, and against itself
where padded."""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from avjax.encoders import wav2vec2
from avjax.encoders.published.wav2vec2 import import_params
from avjax.encoders.wav2vec2 import CTC_LABELS, Wav2Vec2, Wav2Vec2CTC, bucket, config_of
from avjax.errors import UserError
from avjax.nn import attention_kernels
from tests.golden_files import config as golden_config
from tests.golden_files import golden

TOLERANCE = 1e-4
recordings = pytest.mark.parametrize(("name", "record"),
                                     [case for prefix in ("wav2vec2_ctc", "xlsr", "hubert")
                                      for case in golden(prefix)])


def state_of(record):
    return {k.removeprefix("sd/"): record[k] for k in record if k.startswith("sd/")}


def model_of(record):
    heads = golden_config(record)["num_attention_heads"]
    params = import_params(state_of(record))
    return Wav2Vec2(config_of(params, heads)), params


def run(model, params, x_BN, lengths_B=None, with_layers=True):
    return jax.jit(lambda p, x,
                   n: model.apply({"params": p}, x, n,
                                  with_layers=with_layers))(params, x_BN, lengths_B)


@recordings
def test_equals_the_published_network(name, record):
    model, params = model_of(record)
    c, published = model.config, golden_config(record)
    assert c.pre_norm == published["do_stable_layer_norm"] and c.conv_norm == published[
        "feat_extract_norm"]
    assert list(c.conv_strides) == published["conv_stride"] and c.norm_eps == published[
        "layer_norm_eps"]
    assert c.position_groups == published[
        "num_conv_pos_embedding_groups"] and c.conv_bias == published["conv_bias"]
    out = run(model, params, record["x"] if "x" in record else record["wav"])
    np.testing.assert_allclose(np.moveaxis(out["conv_features"], 1, 2), record["conv_features"],
                               atol=TOLERANCE)
    np.testing.assert_allclose(out["encoder_in"], record["encoder_in"], atol=TOLERANCE)
    np.testing.assert_allclose(out["layers"], record["layer_out"], atol=TOLERANCE)
    if "last_hidden_state" in record:
        np.testing.assert_allclose(out["last_hidden"], record["last_hidden_state"], atol=TOLERANCE)
    if "logits" in record:
        np.testing.assert_allclose(out["logits"], record["logits"], atol=TOLERANCE)
    if "units" in record:
        frames_TD = np.asarray(out["layers"][int(record["kmeans_layer"]), 0])
        distance_TK = np.square(frames_TD[:, None] - record["centroids"]).sum(-1)
        np.testing.assert_array_equal(distance_TK.argmin(1), record["units"])


@pytest.mark.parametrize(("name", "record"), golden("xlsr"))
def test_padded_batch_equals_the_published_network(name, record):
    model, params = model_of(record)
    out = run(model, params, record["batch/x"], record["batch/lengths"])
    np.testing.assert_array_equal(out["frames"], record["batch/frame_lengths"])
    for ours, theirs, frames in zip(out["last_hidden"], record["batch/last_hidden_state"],
                                    record["batch/frame_lengths"], strict=True):
        np.testing.assert_allclose(ours[:frames], theirs[:frames], atol=TOLERANCE)


@pytest.mark.parametrize(("name", "record"), golden("wav2vec2_ctc"))
def test_valid_frames_do_not_depend_on_padding(name, record):
    model, params = model_of(record)
    x_BN = (record["x"] if "x" in record else record["wav"])[:1]
    noise = np.random.default_rng(0).normal(size=(1, 5000)).astype(np.float32)
    long = run(model, params, np.concatenate([x_BN, noise], 1), np.array([x_BN.shape[1]]),
               False)["last_hidden"]
    short = record["layer_out"][-1, :1]
    assert long.shape[1] > short.shape[1]
    np.testing.assert_allclose(long[:, :short.shape[1]], short, atol=TOLERANCE)


def test_blocked_attention_equals_whole(monkeypatch):
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 4, 23, 8)).astype(np.float32)
    valid_BT = np.arange(23) < np.array([[23], [17]])
    scores = np.where(valid_BT[:, None, None], np.einsum("bhqk,bhtk->bhqt", q, k) / np.sqrt(8),
                      -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqt,bhtk->bhqk", weights, v)
    for block in (512, 10):  # 10 does not divide 23
        monkeypatch.setattr(attention_kernels, "HEAD_BLOCK", block)
        found = attention_kernels.attend_by_head(q, k, v, valid_BT)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def torchaudio_names(state):
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("wav2vec2.").replace("lm_head.", "aux.")
        name = name.replace("feature_projection.", "encoder.feature_projection.")
        if name.startswith("encoder.") and not name.startswith("encoder.feature_projection"):
            name = "encoder.transformer." + name.removeprefix("encoder.")
        renamed[name.replace("parametrizations.weight.original0", "weight_g")
                .replace("parametrizations.weight.original1", "weight_v")] = value
    return renamed


@pytest.mark.parametrize(("name", "record"), golden("wav2vec2_ctc"))
@pytest.mark.parametrize("naming", [dict, torchaudio_names])
def test_ctc_from_a_checkpoint_file(name, record, naming, tmp_path):
    path = tmp_path / "wav2vec2.safetensors"
    state = naming(state_of(record))
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, path)
    heads = golden_config(record)["num_attention_heads"]
    ctc = Wav2Vec2CTC.from_checkpoint(path, num_heads=heads)
    expected = record["logits_from_unnormalised_wav"]
    keep = [i for i in range(expected.shape[-1]) if i not in (1, 2, 3)]
    for wav, logits in zip(record["wav"], expected[..., keep], strict=True):
        np.testing.assert_allclose(ctc(wav), logits, atol=TOLERANCE)
    normalised = Wav2Vec2CTC.from_checkpoint(path, num_heads=heads, normalise=True)
    np.testing.assert_allclose(normalised(record["wav"][0]), record["logits29"][0], atol=TOLERANCE)
    least = ctc.config.min_samples()
    with pytest.raises(UserError, match=f"too short.*{least} samples.*found: shape "
                                        f"\\({least - 1},\\)"):
        ctc(np.zeros(least - 1, np.float32))
    with pytest.raises(UserError, match="attention heads is unknown"):
        Wav2Vec2CTC.from_checkpoint(path)


@pytest.mark.parametrize(("name", "record"), golden("wav2vec2_ctc"))
def test_long_audio_is_chunked(name, record, monkeypatch):
    model, params = model_of(record)
    ctc = Wav2Vec2CTC(model.config, params)
    wav = np.resize(record["wav"], 2 * 16000 + 300)
    frames = model.config.num_frames(16000)
    monkeypatch.setattr(wav2vec2, "CHUNK_SECONDS", 1)
    logits = ctc(wav)  # 2 chunks of 16000 samples, and 300 samples that give no frame
    assert logits.shape == (2 * frames, record["logits29"].shape[-1])
    np.testing.assert_allclose(logits[:frames], ctc(wav[:16000]), atol=2e-5)
    np.testing.assert_allclose(logits[frames:], ctc(wav[16000:32000]), atol=2e-5)


@pytest.mark.parametrize(("name", "record"), golden("wav2vec2_ctc"))
def test_foreign_weights_are_refused(name, record):
    state = state_of(record)
    layers = golden_config(record)["num_hidden_layers"]

    def refused(other, *told):
        with pytest.raises(UserError, match="not the weights of a wav2vec 2.0") as error:
            import_params(other, "file.pt")
        assert all(words in str(error.value) for words in told), str(error.value)

    refused(state | {"encoder.gate": np.zeros(3), "encoder.other.3": np.zeros(3)},
            "left over: encoder.gate, encoder.other.3;")
    refused({k: v for k, v in state.items() if not re.search(r"encoder\.layers\.0\.|pos_conv", k)},
            "encoder.layers.0.attention.q_proj.weight", "encoder.layers.0.final_layer_norm.bias",
            "missing: ", "encoder.pos_conv_embed.conv.bias", "encoder.pos_conv_embed.conv.weight")
    refused({k: v for k, v in state.items() if ".k_proj." not in k} | {
        "wav2vec2.encoder.layers.1.attention.q_proj.weight": np.zeros((3, 5)),
        "lm_head.weight": np.zeros((32, 7)), "more": np.zeros(1)},
        f"missing: encoder.layers.[0-{layers - 1}].attention.k_proj.bias",
        "left over: more |", "wav2vec2.encoder.layers.1.attention.q_proj.weight (3, 5) instead of",
        "lm_head.weight (32, 7) instead of (32, ")
    refused({k: v for k, v in state.items() if "conv_layers.2" not in k},
            "missing: feature_extractor.conv_layers.2.conv.weight")
    assert import_params(state, num_layers=1)["layers"]["query"]["kernel"].shape[0] == 1


OTHER_NAMES = {  # transformers' name -> theirs, in this order
    "fairseq": (
        (r"(conv_layers\.\d+)\.conv\.", r"\1.0."), (r"(conv_layers\.0)\.layer_norm\.", r"\1.2."),
        (r"(conv_layers\.[1-9])\.layer_norm\.", r"\1.2.1."),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"pos_conv_embed\.conv\.", "pos_conv.0."), (r"\.attention\.", ".self_attn."),
        (r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
        (r"feed_forward\.intermediate_dense", "fc1"), (r"feed_forward\.output_dense", "fc2")),
    "fairseq2": (
        (r"^feature_extractor\.conv_layers\.", "encoder_frontend.feature_extractor.layers."),
        (r"^feature_projection\.layer_norm\.", "encoder_frontend.post_extract_layer_norm."),
        (r"^feature_projection\.projection\.", "encoder_frontend.model_dim_proj."),
        (r"^encoder\.pos_conv_embed\.", "encoder_frontend.pos_encoder."),
        (r"attention\.out_proj", "self_attn.output_proj"),
        (r"\.attention\.", ".self_attn."),
        (r"(encoder\.layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
        (r"\.final_layer_norm", ".ffn_layer_norm"),
        (r"feed_forward\.intermediate_dense", "ffn.inner_proj"),
        (r"feed_forward\.output_dense", "ffn.output_proj"))}


@pytest.mark.parametrize("naming", OTHER_NAMES)
@recordings
def test_other_namings_are_the_same_network(name, record, naming):
    state = {re.sub(r"^(wav2vec2|hubert)\.", "", n): value for n, value in state_of(record).items()}
    renamed = {}
    for ours, value in state.items():
        theirs = ours
        for pattern, replacement in OTHER_NAMES[naming]:
            theirs = re.sub(pattern, replacement, theirs)
        theirs = theirs.replace("lm_head.", "proj.")
        renamed[theirs.replace("parametrizations.weight.original0",
                               "weight_g").replace("parametrizations.weight.original1",
                                                   "weight_v")] = value
    assert len(set(renamed) - set(state)) > len(state) / 3
    extra = {"mask_emb": np.zeros(3), "masker.temporal_mask_embed": np.zeros(3),
             "final_proj.weight": np.zeros((2, 2))}
    jax.tree.map(np.testing.assert_array_equal, import_params(renamed | extra),
                 import_params(state))


def test_labels_and_buckets():
    assert len(CTC_LABELS) == 29 and CTC_LABELS[:6] == "-|ETAO" and CTC_LABELS[-5:] == "'XJQZ"
    assert [bucket(s) // 16000 for s in (1, 16000, 16001, 5 * 16000,
                                         100 * 16000)] == [1, 1, 2, 6, 100]
    assert wav2vec2.Wav2Vec2Config().num_frames(100 * 16000) == 4999
    assert wav2vec2.Wav2Vec2Config().min_samples() == 400
