"""WavLM with ECAPA-TDNN against a recording of its own code; how other files are refused."""

import jax
import numpy as np
import pytest

from avjax.encoders.voices.published import ENCODER
from avjax.encoders.voices.wavlm_ecapa import WavlmEcapa
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.weights.torch_writer import write_torch_zip
from tests.golden_files import config as golden_config
from tests.golden_files import relative_error, some, under

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def record():
    return some("wavlm_ecapa")


def write(record, path, **changed):
    """The recorded network as wavlm_large_finetune.pth holds it, with its config (the published
    file's sizes are the defaults) and what only its training needed; a None leaves an array out."""
    state = {n: np.ascontiguousarray(x) for n, x in under(record, "sd/").items()}
    state["loss_calculator.projection.weight"] = np.ones((7, 24), np.float32)
    state[f"{ENCODER}mask_emb"] = np.ones(32, np.float32)
    state |= {name.replace("__", "."): x for name, x in changed.items()}
    write_torch_zip(path, {"model": {n: x for n, x in state.items() if x is not None},
                           "cfg": golden_config(record)["wavlm"]})
    return str(path)


@pytest.fixture(scope="module")
def encoder(record, tmp_path_factory):
    return WavlmEcapa(write(record, tmp_path_factory.mktemp("voice") / "finetune.pth"))


def test_equals_the_published_network(record, encoder):
    """Of the bare recordings: the encoder normalises them, and pads them to a second."""
    found = encoder.many([*map(encoder.prepared, record["wav"])])
    assert relative_error(found, record["embedding"]) < TOLERANCE
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(unit[0] @ unit[1], record["cosine"][0], atol=TOLERANCE)
    assert encoder.recipe["width"] == found.shape[1] and encoder.arrays() == {}


def test_an_utterance_is_as_it_would_be_alone(record, encoder, tmp_path):
    """Beside a longer one, on another device: the published network knows no padding."""
    spread = WavlmEcapa(write(record, tmp_path / "finetune.pth"),
                        mesh=make_mesh({"data": 2}, jax.devices()[:2]))
    wavs = [encoder.prepared(x) for x in (*record["wav"], record["wav"][0][:7000])]
    assert relative_error(spread.many(wavs)[:2], record["embedding"]) < TOLERANCE
    assert relative_error(spread.many(wavs), encoder.many(wavs)) < 1e-5


def test_every_array_of_another_network_is_told(record, tmp_path):
    path = write(record, tmp_path / "finetune.pth", layer2__SE_Connect__linear1__bias=None,
                 bn__running_var=None, layer5__conv__weight=np.ones((2, 2), np.float32),
                 pooling__linear1__weight=np.ones((8, 47, 1), np.float32),
                 feature_weight=np.ones(4, np.float32),
                 **{f"{ENCODER}encoder.layers.2.fc1.bias": None,
                    f"{ENCODER}encoder.layers.1.fc2.weight": np.ones((3, 72), np.float32)})
    with pytest.raises(UserError, match="not the weights of WavLM with ECAPA") as error:
        WavlmEcapa(path)
    told = str(error.value)
    assert "\n" not in told and path in told
    for part in (f"{ENCODER}encoder.layers.2.feed_forward.intermediate_dense.bias",
                 "layer2.SE_Connect.linear1.bias", "bn.running_var", "layer5.conv.weight",
                 "pooling.linear1.weight (8, 47, 1) instead of (8, 48, 1)",
                 "(3, 72) instead of (32, 72)"):
        assert part in told, part
    with pytest.raises(UserError, match=r"feature_weight \(4,\) instead of \(5\)"):
        WavlmEcapa(write(record, tmp_path / "finetune.pth", feature_weight=np.ones(4, np.float32)))
    write_torch_zip(tmp_path / "plain.pt", {"model": under(record, f"sd/{ENCODER}")})
    with pytest.raises(UserError, match="not the weights of WavLM with ECAPA.*wavlm_large"):
        WavlmEcapa(tmp_path / "plain.pt")


@pytest.mark.parametrize(("audio", "message"), [
    (np.arange(15900.0), "too little sound.*1 s of speech.*0.99 s"),
    (np.zeros(16000), "too little sound.*1.00 s, silent"),
    (np.full(16000, np.nan), "too little sound")])
def test_a_reference_that_has_no_voice(encoder, audio, message):
    with pytest.raises(UserError, match=message):
        encoder(audio)
