"""Networks of the wav2vec 2.0 family under transformers' names: there and back, and its config."""

import json

import jax
import numpy as np
import pytest

from avjax.encoders.published import transformers_wav2vec2 as transformers
from avjax.encoders.published.stated import stated
from avjax.encoders.published.wav2vec2 import import_params
from avjax.encoders.wav2vec2 import config_of
from tests.golden_files import config as golden_config
from tests.golden_files import some, under

PAIR = "encoder.pos_conv_embed.conv.parametrizations.weight.original"


@pytest.mark.parametrize("kind", ["xlsr", "hubert", "wav2vec2_ctc"])
def test_equals_what_transformers_saved(kind, tmp_path):
    record = some(kind)
    state = under(record, "sd/")
    params = import_params(state)
    out = transformers.export_params(params)
    assert {n: x.shape for n, x in out.items()} == {n: x.shape for n, x in state.items()}
    for name, value in state.items():
        if PAIR not in name:
            np.testing.assert_array_equal(out[name], value)
    jax.tree.map(np.testing.assert_array_equal, import_params(out), params)
    magnitude, direction = (next(x for n, x in out.items() if n.endswith(f"{PAIR}{k}"))
                            for k in "01")
    norm = np.sqrt((direction ** 2).sum((0, 1), keepdims=True))
    np.testing.assert_allclose(magnitude, norm, rtol=1e-6)  # so that the weight is the direction

    sizes = golden_config(record)
    network = config_of(params, sizes["num_attention_heads"])
    for normalise in (True, False):
        config = transformers.config(network, params, normalise)
        common = {k: v for k, v in sizes.items() if k in config and k != "architectures"}
        assert len(common) >= 12 and config | common == config
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert config_of(params, found=stated(tmp_path)) == network
        assert stated(tmp_path).normalise is normalise


def test_wavlm_of_its_own_code(tmp_path):
    params = import_params(under(some("wavlm_ecapa"), "sd/feature_extract.model."))
    out = transformers.export_params(params)
    assert "encoder.layers.3.attention.gru_rel_pos_linear.weight" in out
    assert out["encoder.layers.0.attention.gru_rel_pos_const"].shape == (1, 4, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, import_params(out), params)
    network = config_of(params)
    config = transformers.config(network, params, True)
    assert (config["model_type"], config["num_buckets"]) == ("wavlm", 32)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert config_of(params, found=stated(tmp_path)) == network
