"""LIA-X against recordings of the published code: single layers, a portrait's encoding, and one
picture drawn. The network is 512 x 512 whatever its widths, so it is run once."""

import jax
import numpy as np
import pytest

from avjax.codecs.lia_x import codec, layers, network, weights
from avjax.errors import UserError
from avjax.weights.torch_writer import write_torch_zip
from tests.golden_files import relative_error, some, under

MODULES = {  # recorded block: how ours is called, of parameters and inputs
    "equal_conv_s2": lambda p, x: layers.conv(x, p["weight"], 2) + p["bias"],
    # recorded with a learning rate of a half, which the network has nowhere
    "equal_linear": lambda p, x: 0.5 * layers.linear(p, "m", x),
    "conv_layer_plain": lambda p, x: layers.conv_layer(p, "m", x),
    "conv_layer_1x1_no_act_no_bias": lambda p, x: layers.conv_layer(p, "m", x),
    "conv_layer_down3_even": lambda p, x: layers.conv_layer(p, "m", x, down=True),
    "conv_layer_down1_even": lambda p, x: layers.conv_layer(p, "m", x, down=True),
    "conv_layer_up3": lambda p, x: layers.conv_layer(p, "m", x, up=True),
    "upsample": lambda p, x: layers.upsample(x),
    "styled_conv": lambda p, x, s: layers.styled(p, "m", x, s),
    "styled_conv_up": lambda p, x, s: layers.styled(p, "m", x, s, up=True),
    "modulated_1x1_no_demod": lambda p, x, s: layers.modulated(p, "m", x, s, demodulate=False),
    "flow_res_block": lambda p, x, s: layers.flow_residual(p, "m", x, s),
    "to_rgb_first": lambda p, x: layers.to_rgb(p, "m", x),
    "to_rgb_skip": lambda p, x, y: layers.to_rgb(p, "m", x, y),
    "to_flow_first": lambda p, x, s, f: layers.to_flow(p, "m", x, s, f),
    "to_flow_skip": lambda p, x, s, f, y: layers.to_flow(p, "m", x, s, f, y),
    "encoder_res_block": lambda p, x: layers.residual(p, "m", x, down=True),
    "decoder_res_block_same": lambda p, x: layers.residual(p, "m", x),
    "decoder_res_block_skip": lambda p, x: layers.residual(p, "m", x),
}


def ours(map_):
    return map_.transpose(0, 2, 3, 1) if np.ndim(map_) == 4 else map_


def theirs(map_):
    return np.transpose(map_, (0, 3, 1, 2)) if np.ndim(map_) == 4 else np.asarray(map_)


@pytest.fixture(scope="module")
def recorded():
    return some("lia_x")


@pytest.fixture(scope="module")
def state(recorded):
    return dict(under(recorded, "sd/"))


@pytest.fixture(scope="module")
def params(state):
    return weights.prepared(state)


def picture(low):
    """The recording's: (1, 3, 16, 16) -> (1, 512, 512, 3)."""
    ramp = np.arange(512)
    return ours(0.5 * low.repeat(32, 2).repeat(32, 3)
                + (2 * ramp + ramp[:, None] - 766) / 2048).astype(np.float32)


@pytest.mark.parametrize("name", MODULES)
def test_layer(recorded, name):
    block = under(recorded, f"block/{name}/")
    prefix = "" if name == "equal_conv_s2" else "m."
    state = {k.removeprefix("sd/"): x for k, x in block.items() if k.startswith("sd/")}
    p = {prefix + k: weights.laid_out(k, x) for k, x in state.items()}
    inputs = [ours(block[f"in{k}"]) for k in range(4) if f"in{k}" in block]
    out = jax.jit(MODULES[name])(p, *inputs)
    for k, x in enumerate(out if isinstance(out, tuple) else (out,)):
        assert relative_error(theirs(x), block[f"out{k}"]) < 1e-4


def test_directions(recorded):
    block = under(recorded, "block/direction/")
    p = {"dec.direction.Q": weights.directions(block["sd/weight"])}
    assert relative_error(network.direct(p, block["in0"]), block["out0"]) < 1e-4


@pytest.fixture(scope="module")
def portrait(params, recorded):
    return jax.jit(network.encode)(params, picture(recorded["source_low"]))


def test_encoding(portrait, params, recorded):
    identity, motion, features = portrait
    assert relative_error(identity, recorded["z_s2r"]) < 1e-4
    assert relative_error(motion, recorded["alpha_r2s"]) < 1e-4
    assert relative_error(theirs(features[0]), recorded["feat/0"]) < 1e-4
    for level, rows, columns in ((6, slice(100, 116), slice(300, 316)),
                                 (3, slice(20, 36), slice(20, 36))):
        crop = features[level][:, rows, columns, :8]
        assert relative_error(theirs(crop), recorded[f"feat_crop/{level}"]) < 1e-4
    assert relative_error(params["dec.direction.Q"], recorded["direction/Q"]) < 1e-4
    driven = network.direct(params, recorded["alpha_driving"])
    assert relative_error(driven, recorded["direction/out"]) < 1e-4


def test_a_picture(portrait, params, recorded):
    identity, _, features = portrait
    style = identity + network.direct(params, recorded["alpha_driving"][1:])  # one alpha
    drawn = theirs(jax.jit(network.render)(params, style, features))
    kept = under(recorded, "single_alpha/")
    assert np.abs(drawn[:, :, 3::8, 5::8] - kept["every8"]).max() < 1e-3
    assert np.abs(drawn[:, :, 200:232, 296:328] - kept["crop"]).max() < 1e-3
    np.testing.assert_allclose(drawn.mean((2, 3)), kept["mean"], atol=1e-4)
    np.testing.assert_allclose(drawn.std((2, 3)), kept["std"], atol=1e-4)


def test_weights_of_another_network_are_listed(state, tmp_path):
    wrong = dict(state)
    bias = wrong.pop("dec.conv3_1.activate.bias")
    wrong |= {"dec.more": bias, "dec.flow4.bias": bias}
    with pytest.raises(UserError, match=r"missing: dec.conv3_1.activate.bias \| left over: dec.more"
                                        r" \| of another shape: dec.flow4.bias"):
        weights.prepared(wrong)
    with pytest.raises(UserError, match=r"expected: enc.enc_2r.block1.0.weight.*found: some"):
        weights.prepared({"some": bias})
    sharper = state | {"dec.rgb2.up.kernel": state["dec.rgb2.up.kernel"] * 2}
    with pytest.raises(UserError, match="a blur of other taps; where: dec.rgb2.up.kernel"):
        weights.prepared(sharper)
    write_torch_zip(tmp_path / "lia-x.pt", state)
    lia_x = codec.LiaX.from_file(tmp_path / "lia-x.pt")
    assert lia_x.recipe["kind"] == "lia-x" and len(lia_x.weights) == 16
    with pytest.raises(UserError, match="512"):
        lia_x.portrait(np.zeros((64, 64, 3), np.uint8))
