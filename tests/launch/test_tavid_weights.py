"""TAVID's published parts through the functions behind `avjax weights`: recorded numbers, there and
back, and files of other networks."""

import functools
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from avjax.checkpoint.checkpoints import load_meta, load_params
from avjax.codecs.published import sd_vae
from avjax.encoders.resnet import ResNet
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.tavid.speaker.system import to_signal
from avjax.systems.tavid.visual.names import net
from avjax.weights.reader import read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from configs import base, tavid
from launch.jobs import weights
from tests.golden_files import config as recorded_config
from tests.golden_files import relative_error, some, under
from tests.systems import tavid_sound_tiny
from tests.systems.tavid_sound_tiny import random_params

pytestmark = pytest.mark.usefixtures("imports_on_one_device")
TOLERANCE = 1e-4


def bring_in(tmp_path, system, state, config=None, **sizes):
    """(config.system, System, parameters, what was told) of a workdir made of a published file."""
    write_torch_zip(str(tmp_path / "published.pt"), dict(state))
    if sizes:
        config = config or weights.published_config(system, dict(state))
        config.system.update(sizes)
    told = []
    config = weights.import_file(system, str(tmp_path / "published.pt"), str(tmp_path / "job"),
                                 config=config, say=told.append)
    built = api.build(config.system)
    return config.system, built, load_params(tmp_path / "job", built), "; ".join(told)


def taken_out(tmp_path):
    """The state dict that an export of that workdir holds."""
    weights.export(str(tmp_path / "job"), str(tmp_path / "ours.safetensors"))
    return read_state_dict(tmp_path / "ours.safetensors")


def comes_back(tmp_path, system, params, config):
    """An export brought in again has the same numbers to the bit, without a config."""
    ours = str(tmp_path / "ours.safetensors")
    again = experiment(weights.exported_config(system, ours).system)  # on a mesh that fits
    weights.import_file(system, ours, str(tmp_path / "more"), config=again)
    assert again.system.to_dict() == ConfigDict(json.loads(json.dumps(config.to_dict()))).to_dict()
    other = load_params(tmp_path / "more", api.build(again.system))
    jax.tree.map(np.testing.assert_array_equal, other, params)


def experiment(system):
    """An experiment with another system."""
    config = base.get_config()
    config.system = system
    return config


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def test_the_picture_vae(tmp_path):
    arrays = some("sd_vae")
    state, sizes = under(arrays, "sd/"), recorded_config(arrays)
    config, system, params, _ = bring_in(tmp_path, "tavid.vae", state,
                                         groups=sizes["norm_num_groups"])
    assert config.channels == tuple(sizes["block_out_channels"]) and config.scaling == 0.18215
    run = jax.jit(lambda params, x: system.net.apply({"params": params}, x, method="encode"))
    for ours, name in zip(run(params, nhwc(arrays["x"])), ("mean", "logvar"), strict=True):
        assert relative_error(ours, nhwc(arrays[name])) < TOLERANCE, name
    # the decoder: what tests/systems/test_tavid_vae.py compares with the recording
    jax.tree.map(np.testing.assert_array_equal, params, sd_vae.import_vae(state, config))
    equal(taken_out(tmp_path), state)


def test_the_voicebox(tmp_path):
    arrays = some("usdm_voicebox")
    state, sizes = under(arrays, "sd/"), recorded_config(arrays)
    config, system, params, told = bring_in(tmp_path, "tavid.acoustic", state,
                                            num_heads=sizes["num_attention_heads"])
    assert config.num_units == sizes["n_tokens"] and not told
    rec = under(arrays, "forward/")
    units = rec["units"]
    given = {"units": units, "partner": np.zeros((*units.shape, 0), np.int32),
             "prompt": np.moveaxis(rec["cond"], 1, 2), "voice": np.zeros((len(units), 0)),
             "known": np.ones(len(units)),
             "valid": (np.arange(units.shape[1]) < rec["lengths"][:, None]).astype(np.float32)}
    out = jax.jit(system.velocity)(params, np.moveaxis(rec["y"], 1, 2), rec["t"][:, 0, 0], given)
    assert relative_error(out, np.moveaxis(rec["velocity"], 1, 2)) < TOLERANCE

    theirs = taken_out(tmp_path)
    assert theirs.keys() == state.keys()
    for name, value in state.items():  # magnitudes and directions of a norm: the same weights
        if "original" not in name:
            np.testing.assert_array_equal(theirs[name], value, err_msg=name)
    comes_back(tmp_path, "tavid.acoustic", params, config)


def test_the_voicebox_with_a_voice(tmp_path):
    """The experiment that goes on from it has more conditions, fresh and without effect."""
    arrays = some("usdm_voicebox")
    config = tavid.get_config("voicebox")
    state = under(arrays, "sd/")
    sizes = weights.published("tavid.acoustic", "").sizes(dict(state), config.system)
    config, _, params, told = bring_in(
        tmp_path, "tavid.acoustic", state, config, **sizes | {"voice_dim": 6, "partner": True},
        num_heads=recorded_config(arrays)["num_attention_heads"])
    assert "fresh: voice, inputs/partner/.*" in told
    assert params["voice"]["project"]["kernel"].shape == (6, config.d_model)
    assert not params["inputs"]["partner"]["kernel"].any()
    with pytest.raises(UserError, match="no voice and no partners.*found: voice_dim 6, partner T"):
        taken_out(tmp_path)


def test_the_resnet_of_portraits(tmp_path):
    arrays = some("resnet")
    state, sizes = under(arrays, "sd/"), recorded_config(arrays)
    config, system, params, told = bring_in(tmp_path, "tavid.speaker", state, hidden=8, size=64)
    assert (config.norm, config.colours) == ("batch", "imagenet")
    assert config.widths == tuple(sizes["widths"]) and "fresh: hidden_0, hidden_1, out" in told
    net = ResNet(3, config.widths, config.blocks, norm="batch")
    pooled = jax.jit(lambda p, x: net.apply({"params": p}, x))(params["resnet"],
                                                              nhwc(arrays["x"]))
    assert relative_error(pooled, arrays["pooled"]) < TOLERANCE

    # a portrait as torchvision's transforms give it
    picture = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), np.uint8)
    wanted = (picture / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(to_signal(picture, config.colours), wanted, atol=1e-5)
    assert system.net.config.colours == "imagenet"

    theirs = taken_out(tmp_path)
    assert theirs.keys() == state.keys()
    np.testing.assert_array_equal(theirs["bn1.running_mean"], 0)
    with pytest.raises(UserError, match=r"another one than the file's.*norm group, widths"):
        weights.import_file("tavid.speaker", str(tmp_path / "published.pt"), str(tmp_path / "x"),
                            config=tavid.get_config("speaker"))


def test_a_resnet_on_maps_begins_with_a_fresh_convolution(tmp_path):
    state = under(some("resnet"), "sd/")
    config = weights.published_config("tavid.speaker", dict(state))
    *_, params, told = bring_in(tmp_path, "tavid.speaker", state, config, inputs="reference",
                                stem="map", size=8, map_width=5, hidden=8)
    assert told.endswith("hidden_0, hidden_1, out, resnet/conv_in/.*")
    assert params["resnet"]["conv_in"]["conv"]["kernel"].shape[:3] == (3, 3, 5)


def tiny(**more):
    """With attention in the middle only: few arrays."""
    return tavid_sound_tiny.tiny(**{"unet.channels": (10,), "unet.attention_levels": (False,)}
                                 | more)


def hallo2_net(config, **recorded):
    """A net.pth of a config with random numbers, but for the `recorded` small networks."""
    state = net.export_net(random_params(config), config)
    return state | {f"{network}.{name}": value for network, part in recorded.items()
                    for name, value in part.items()}


def test_hallo2(tmp_path):
    """The small networks give the recorded numbers; of the U-Nets, tests/weights/test_hallo2_net.py
    has that the command's reader gives what is compared with recordings elsewhere."""
    arrays, config = some("hallo2_small_parts"), experiment(tiny())
    small = {"imageproj": "image_proj", "audioproj": "audio_proj", "face_locator": "face_locator"}
    state = hallo2_net(config.system, **{network: under(arrays, f"{name}/sd/")
                                         for network, name in small.items()})
    config, system, params, told = bring_in(tmp_path, "tavid.visual", state, config)
    assert not told
    face, sound, mask = (under(arrays, f"{name}/") for name in small.values())

    @jax.jit
    def run(params, face, sound, mask):
        apply = functools.partial(system.net.apply, {"params": params})
        return (apply(face, method="face"), apply(sound, method="audio_tokens"),
                apply(mask, method=lambda module, x: module.face_locator(x)))

    made = run(params, face["in"], sound["in"].reshape(*sound["in"].shape[:3], -1),
               np.moveaxis(mask["in"], 1, -1))
    for ours, theirs in zip(made, (face["out"], sound["out"], np.moveaxis(mask["out"], 1, -1)),
                            strict=True):
        assert relative_error(ours, theirs) < TOLERANCE
    theirs = taken_out(tmp_path)
    equal(theirs, state)
    jax.tree.map(np.testing.assert_array_equal, net.import_net(theirs, config), params)


def test_hallo2_driven_by_units(tmp_path):
    """One region of three, no locator: what has no place is told, the mapper is fresh."""
    state = hallo2_net(tiny())
    config = experiment(tiny(driver="units", masks=False, locator=()))
    config.system.unet.regions = ("full",)
    config.system.mapper.update(dict(num_units=10, unit_dim=4, d_model=8, num_heads=2,
                                     num_blocks=1, band=2, tokens=6, token_dim=24, margin=0))
    _, _, params, told = bring_in(tmp_path, "tavid.visual", state, config)
    assert "fresh: mapper" in told and "face_locator, region face, region lip" in told
    assert params.keys() == {"denoiser", "image_projection", "mapper", "reference"}
    theirs = taken_out(tmp_path)
    assert not any("attn2_1" in name or name.startswith("audioproj") for name in theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def test_stable_diffusion_and_animatediff(tmp_path):
    whole = net.split(hallo2_net(tiny()))
    unet = whole["reference_unet"] | {f"{name}.{kind}": whole["denoising_unet"][f"{name}.{kind}"]
                                      for name in ("conv_norm_out", "conv_out")
                                      for kind in ("weight", "bias")}
    modules = {n: x for n, x in whole["denoising_unet"].items() if ".motion_modules." in n}
    (tmp_path / "unet").mkdir()
    write_torch_zip(str(tmp_path / "unet" / "diffusion_pytorch_model.bin"), unet)
    write_torch_zip(str(tmp_path / "mm_sd_v15_v2.ckpt"), modules)
    told = []
    weights.import_file("tavid.visual", str(tmp_path), str(tmp_path / "job"),
                        config=experiment(tiny()), say=told.append)
    assert "denoiser/.*/motion/.*" in told[0] and "audio_projection" in told[0]
    params = load_params(tmp_path / "job", api.build(tiny()))
    np.testing.assert_array_equal(params["denoiser"]["norm"]["scale"], unet["conv_norm_out.weight"])
    assert not params["denoiser"]["mid"]["motion"]["outputs"]["kernel"].any()  # changes nothing yet
    origin = load_meta(tmp_path / "job")["imported"]
    assert origin["sha256"].keys() == {"diffusion_pytorch_model.bin", "mm_sd_v15_v2.ckpt"}


@pytest.mark.parametrize(("change", "message"), [
    (dict(face_width=15), r"do not fit.*image_projection/project/kernel \(16, 4, 24\) instead of"),
    ({"unet.channels": (20,)}, "another shape|do not fit"),
    ({"unet.layers": 2}, "missing: "),
    ({"unet.temporal_length": 9}, "positions for fewer frames.*= 9"),
])
def test_hallo2_of_other_sizes(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        bring_in(tmp_path, "tavid.visual", hallo2_net(tiny()), experiment(tiny(**change)))
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(("system", "state", "message"), [
    ("tavid.visual", {"vae.weight": np.zeros(2)}, "not a U-Net of Stable Diffusion"),
    ("tavid.vae", {"encoder.conv_in.weight": np.zeros(2)}, "not a VAE's state dict"),
    ("tavid.acoustic", {"conv1.weight": np.zeros(2)}, "not the weights of USDM's Voicebox"),
    ("tavid.speaker", {"conv1.weight": np.zeros(2)}, "not a ResNet's state dict"),
    ("tavid.speaker", {"conv1.weight": np.zeros(2), "layer1.0.conv1.weight": np.zeros(2),
                       "layer1.0.conv3.weight": np.zeros(2)}, "bottleneck"),
    ("tavid.text", {"a": np.zeros(2)}, "no published names.*tavid.acoustic.*tavid.vae"),
])
def test_other_files_are_refused(system, state, message, tmp_path):
    write_torch_zip(str(tmp_path / "x.pt"), state)
    with pytest.raises(UserError, match=message):
        weights.import_file(system, str(tmp_path / "x.pt"), str(tmp_path / "job"))
    assert not (tmp_path / "job").exists()


def test_a_vae_of_ours_has_no_published_names(tmp_path):
    state = under(some("sd_vae"), "sd/")
    assert sd_vae.vae_sizes(state)["patch"] == 1
    config = weights.published_config("tavid.vae", dict(state))
    config.system.update({"groups": 8, "mid": "none"})
    with pytest.raises(UserError, match="VAE is another network.*found: patch 1, mid none"):
        bring_in(tmp_path, "tavid.vae", state, config)
