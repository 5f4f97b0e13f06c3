"""Hallo2's net.pth as its training saves it: five networks of the recordings under one roof."""

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.tavid.visual import published as hallo2
from avjax.systems.tavid.visual import published_net as hallo2_net
from avjax.weights.reader import read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from tests.golden_files import some, under
from tests.systems.test_hallo2_golden import Recorded


@pytest.fixture(scope="module")
def published():
    """(config, state dict of net.pth)."""
    recorded = Recorded(some("hallo2_unet"))
    parts = {"reference_unet": recorded.reference_state, "denoising_unet": recorded.state}
    for network, name in (("imageproj", "image_proj"), ("audioproj", "audio_proj"),
                          ("face_locator", "face_locator")):
        parts[network] = under(some("hallo2_small_parts"), f"{name}/sd/")
    for name in [k for k in recorded.state if ".temporal_transformer." in k
                 and k.endswith(".to_q.weight")]:
        # a buffer, which the recordings leave out
        table = np.zeros((1, 32, len(recorded.state[name])), np.float32)
        step = 10000.0 ** (-np.arange(0, table.shape[2], 2) / table.shape[2])
        table[..., 0::2], table[..., 1::2] = (f(np.arange(32)[:, None] * step)
                                              for f in (np.sin, np.cos))
        recorded.state[name.removesuffix(".to_q.weight") + hallo2.POSITIONS] = table
    return recorded.config, {f"{network}.{k}": v for network, part in parts.items() for k,
                             v in part.items()}


def test_the_published_file_comes_in_and_goes_out(published, tmp_path):
    config, state = published
    write_torch_zip(tmp_path / "net.pth", state)
    params = hallo2_net.import_net(read_state_dict(tmp_path / "net.pth"), config)
    assert set(params) == set(hallo2_net.NETWORKS)
    out = hallo2_net.export_net(params, config)
    unused = {k for k in state
              if k.startswith(("reference_unet.conv_norm_out.", "reference_unet.conv_out."))}
    assert out.keys() == state.keys() - unused
    for name, value in out.items():
        atol = 4e-6 if name.endswith(hallo2.POSITIONS) else 0  # computed in float32
        np.testing.assert_allclose(value, state[name], rtol=0, atol=atol, err_msg=name)


def test_other_files_are_named(published):
    config, state = published
    with pytest.raises(UserError, match="not Hallo2's net.pth; where: vae.conv_in.weight"):
        hallo2_net.split(state | {"vae.conv_in.weight": np.ones(1)})
    with pytest.raises(UserError, match="nothing of audioproj"):
        hallo2_net.split({k: v for k, v in state.items() if not k.startswith("audioproj.")})
    table = next(k for k in state if k.endswith(hallo2.POSITIONS))
    with pytest.raises(UserError, match="table is not the published one"):
        hallo2_net.import_net(state | {table: 2 * state[table]}, config)
