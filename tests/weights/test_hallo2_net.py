"""Hallo2's net.pth as its training saves it, of the recorded networks, and what its training begins
with: Stable Diffusion's U-Net and AnimateDiff's modules."""

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.tavid.visual.names import hallo2, net
from avjax.systems.tavid.visual.names.sizes import sizes
from avjax.systems.tavid.visual.published import files, opened
from avjax.weights.reader import read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from tests.golden_files import some, under
from tests.systems.tavid_sound_tiny import random_params, tiny
from tests.systems.test_hallo2_golden import Recorded


def with_positions(state):
    """The temporal modules' tables, which the recordings leave out."""
    out = dict(state)
    for name in [k for k in state if ".temporal_transformer." in k and k.endswith(".to_q.weight")]:
        table = np.zeros((1, 32, len(state[name])), np.float32)
        step = 10000.0 ** (-np.arange(0, table.shape[2], 2) / table.shape[2])
        table[..., 0::2], table[..., 1::2] = (f(np.arange(32)[:, None] * step)
                                              for f in (np.sin, np.cos))
        out[name.removesuffix(".to_q.weight") + hallo2.POSITIONS] = table
    return out


@pytest.fixture(scope="module")
def published():
    """(config.system, state dict of net.pth): recorded U-Nets and audio projection; the recorded
    face locator and image projection are of other widths, so theirs are random."""
    recorded = Recorded(some("hallo2_unet"))
    config = tiny(face_width=5, face_tokens=2, latent_size=(8, 8))
    config.unet.update({name: recorded.config[name] for name in recorded.config if name in
                        config.unet})
    small = random_params(config)
    parts = {"reference_unet": recorded.reference_state,
             "denoising_unet": with_positions(recorded.state),
             "audioproj": under(some("hallo2_small_parts"), "audio_proj/sd/")}
    beside = net.export_net({"reference": recorded.reference_params, "denoiser": recorded.params,
                             "image_projection": small["image_projection"],
                             "face_locator": small["face_locator"]}, config)
    state = {f"{network}.{k}": v for network, part in parts.items() for k, v in part.items()}
    return config, state | {name: value for name, value in beside.items()
                            if name.startswith(("imageproj.", "face_locator."))}


def test_the_published_file_comes_in_and_goes_out(published, tmp_path):
    config, state = published
    write_torch_zip(tmp_path / "net.pth", state)
    params = net.import_net(read_state_dict(tmp_path / "net.pth"), config)
    assert set(params) == set(net.NETWORKS.values())
    out = net.export_net(params, config)
    assert out.keys() == state.keys()
    for name, value in out.items():
        atol = 4e-6 if name.endswith(hallo2.POSITIONS) else 0  # computed in float32
        np.testing.assert_allclose(value, state[name], rtol=0, atol=atol, err_msg=name)
    assert not net.unread(state, config)


def test_shapes_show_the_sizes(published):
    config, state = published
    found = sizes(state, config)
    for section in ("unet", "audio"):
        for name, value in found.pop(section).items():
            assert config[section][name] == value or name == "temporal_length", name
    assert found.pop("path") == "published"
    assert {name: config[name] for name in found} == found and len(found) == 3
    config = config.copy_and_resolve_references()
    config.audio.width = 768
    with pytest.raises(UserError, match="reads another encoder.*a multiple of 3840.*found: 120"):
        sizes(state, config)


def test_a_reduced_set_of_regions(published):
    config, state = published
    config = config.copy_and_resolve_references()
    config.unet.regions = ("lip",)
    params = net.import_net(state, config)
    assert {"attention_lip", "zero_lip"} <= set(params["denoiser"]["mid"]["motion"])
    assert net.unread(state, config) == ("region full", "region face")
    out = net.export_net(params, config)
    assert {hallo2.region_of(name) for name in out if name.startswith("denoising_unet.")} == {
        None, "lip"}
    for name, value in out.items():
        if not name.endswith(hallo2.POSITIONS):
            np.testing.assert_array_equal(value, state[name], err_msg=name)
    again = net.import_net(out, config)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    config.unet.regions = ("full", "face", "lip")
    with pytest.raises(UserError, match="another set of regions.*some of lip, which the file has"):
        net.import_net(out, config)


def test_what_its_training_begins_with(published, tmp_path):
    """Stable Diffusion's spatial layers in both nets, AnimateDiff's temporal ones in one."""
    config, state = published
    whole = net.split(state)
    unet = whole["reference_unet"] | {n: x for n, x in whole["denoising_unet"].items()
                                      if n.startswith(("conv_norm_out.", "conv_out."))}
    modules = {n: x for n, x in whole["denoising_unet"].items() if hallo2.TEMPORAL in n}
    for folder, name, part in (("unet", "diffusion_pytorch_model.bin", unet),
                               ("motion_module", "mm_sd_v15_v2.ckpt", modules)):
        (tmp_path / folder).mkdir()
        write_torch_zip(tmp_path / folder / name, part)
    assert set(files(tmp_path)) == {"unet", "modules"}
    made = net.import_net(opened(str(tmp_path)), config)
    wanted = net.import_net(state, config)
    assert set(made) == {"reference", "denoiser"}
    jax.tree.map(np.testing.assert_array_equal, made["reference"], wanted["reference"])
    layer, of_net = made["denoiser"]["down_1"]["layer_0"], wanted["denoiser"]["down_1"]["layer_0"]
    assert set(layer) == {"resnet", "spatial", "temporal"}
    jax.tree.map(np.testing.assert_array_equal, layer["temporal"], of_net["temporal"])
    np.testing.assert_array_equal(layer["spatial"]["face_attention"]["q"]["kernel"],
                                  unet["down_blocks.1.attentions.0.transformer_blocks.0.attn2."
                                       "to_q.weight"].T)
    alone = net.import_net(opened(str(tmp_path / "unet" / "diffusion_pytorch_model.bin")), config)
    assert set(alone["denoiser"]["mid"]) == {"resnet_0", "resnet_1", "spatial"}


def test_other_files_are_named(published, tmp_path):
    config, state = published
    with pytest.raises(UserError, match="not Hallo2's net.pth; where: vae.conv_in.weight"):
        net.split(state | {"vae.conv_in.weight": np.ones(1)})
    with pytest.raises(UserError, match="nothing of denoising_unet"):
        net.split({k: v for k, v in state.items() if not k.startswith("denoising_unet.")})
    table = next(k for k in state if k.endswith(hallo2.POSITIONS))
    with pytest.raises(UserError, match="table is not the published one"):
        net.import_net(state | {table: 2 * state[table]}, config)
    with pytest.raises(UserError, match=r"positions for fewer frames.*temporal_length = 32.*24"):
        net.import_net(state | {table: state[table][:, :24]}, config)
    with pytest.raises(UserError, match="not a U-Net of Stable Diffusion"):
        net.from_stable_diffusion({"conv_in.weight": np.ones(1)})
    unet = {"conv_in.weight": np.ones(1), "mid.attn2.to_k.weight": np.ones(1)}
    with pytest.raises(UserError, match="not AnimateDiff's motion modules; where: up"):
        net.from_stable_diffusion(unet, {"up": np.ones(1)})
    with pytest.raises(UserError, match="no visual network in the folder"):
        files(tmp_path)
