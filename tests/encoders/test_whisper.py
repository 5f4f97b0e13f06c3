"""Whisper's encoder and log-mel against recorded numbers; both published namings; long sound."""

import jax
import numpy as np
import pytest

from avjax.encoders import whisper
from avjax.encoders.published.whisper import import_params
from avjax.errors import UserError
from avjax.signal import whisper_mel
from tests.golden_files import cases, config, relative_error, under

TO_OPENAI = (("layers.", "blocks."), ("self_attn.q_proj", "attn.query"),
             ("self_attn.k_proj", "attn.key"), ("self_attn.v_proj", "attn.value"),
             ("self_attn.out_proj", "attn.out"), ("self_attn_layer_norm", "attn_ln"),
             ("final_layer_norm", "mlp_ln"), ("fc1", "mlp.0"), ("fc2", "mlp.2"),
             ("embed_positions.weight", "positional_embedding"))


def heads(gold) -> int:
    return config(gold)["encoder_attention_heads"]


@pytest.mark.parametrize("gold", cases("whisper_encoder"))
def test_log_mel(gold):
    log_mel = jax.jit(whisper_mel.log_mel, static_argnums=1)
    ours = log_mel(padded(gold["wav"], 2 * len(gold["sd/embed_positions.weight"])))
    assert relative_error(ours.T, gold["log_mel"][0]) < 1e-4
    wav = gold["window30/wav"].astype(np.float32) / 32767
    for bands in (128, 80):
        ours = np.asarray(log_mel(padded(wav, 3000), bands))
        recorded = gold[f"window30/log_mel{bands}_cols"]
        assert relative_error(ours[gold["window30/cols"]].T, recorded) < 1e-4
        assert abs(ours.sum(dtype=np.float64) / gold[f"window30/log_mel{bands}_sum"] - 1) < 1e-5


def padded(wav, frames):
    return np.pad(wav, (0, frames * whisper_mel.HOP - len(wav)))


@pytest.mark.parametrize("gold", cases("whisper_encoder"))
def test_encoder(gold):
    params = import_params(under(gold, "sd/"))
    sizes = whisper.config_of(params, heads(gold))
    with jax.default_matmul_precision("float32"):
        out = whisper.encode(params, sizes, gold["log_mel"].transpose(0, 2, 1), with_layers=True)
    recorded = {"conv1": gold["conv1_out"].transpose(0, 2, 1),
                "conv2": gold["conv2_out"].transpose(0, 2, 1), "encoder_in": gold["encoder_in"],
                "layers": gold["layer_out"], "out": gold["last_hidden_state"]}
    for name, value in recorded.items():
        assert relative_error(out[name], value) < 1e-4, name
    network = whisper.Whisper.from_state_dict(under(gold, "sd/"), num_heads=heads(gold))
    made = network(gold["wav"])  # cut to the sound
    assert made.shape == (-(-len(gold["wav"]) // 320), network.width)
    assert relative_error(made, gold["last_hidden_state"][0, :len(made)]) < 1e-4


@pytest.mark.parametrize("gold", cases("whisper_encoder"))
def test_other_names_and_long_sound(gold):
    state = under(gold, "sd/")
    openai = {"decoder.blocks.0.attn.query.weight": np.ones((2, 2))}
    for name, value in state.items():
        if name.startswith("layer_norm"):
            name = "ln_post" + name.removeprefix("layer_norm")
        for theirs, ours in TO_OPENAI:
            name = name.replace(theirs, ours)
        openai[f"encoder.{name}"] = value
    of_two = [whisper.Whisper.from_state_dict(s, num_heads=heads(gold)) for s in (state, openai)]
    window = of_two[0].config.window
    wav = np.random.default_rng(0).standard_normal(2 * window + 321).astype(np.float32)
    made, again = (network(wav) for network in of_two)
    np.testing.assert_array_equal(made, again)
    assert made.shape == (-(-len(wav) // 320), of_two[0].width)
    step = int(window * 5 / 6) // 320
    first, second = of_two[0](wav[:window]), of_two[0](wav[step * 320:][:window])
    meet = (window // 320 + step) // 2
    np.testing.assert_array_equal(made[:meet], first[:meet])
    np.testing.assert_array_equal(made[meet], second[meet - step])


@pytest.mark.parametrize("gold", cases("whisper_encoder"))
def test_other_weights_are_refused(gold):
    state = dict(under(gold, "sd/"))
    state["layers.1.fc1.weight"] = state["layers.1.fc1.weight"][:, :-1]
    del state["layers.0.self_attn_layer_norm.bias"]
    state["adapter"] = np.ones(3)
    with pytest.raises(UserError, match=r"not the weights of a Whisper encoder.*missing.*attn_ln.*"
                                        r"adapter.*layers.1.fc1.weight"):
        import_params(state)
    with pytest.raises(UserError, match="attention heads is unknown.*width 32"):
        whisper.Whisper.from_state_dict(under(gold, "sd/"))
