"""Published text-to-tokens files in both layouts, through the functions behind `avjax weights`."""

import jax
import numpy as np
import pytest

from avjax.checkpoint.checkpoints import load_params
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.avflow.text.config import paper
from avjax.systems.avflow.text.published import PUBLISHED
from avjax.weights.reader import read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from launch.jobs import weights
from tests.golden_files import some, under

pytestmark = pytest.mark.usefixtures("imports_on_one_device")
SYSTEM = "avflow.text"


def released():
    """The state dict of the release at small size, as numpy."""
    return dict(under(some("avflow_text"), "sd/"))


def lightning(state):
    """What Lightning saves of Matcha-TTS: other names of the statistics, and more beside."""
    renamed = {{"mean": "mel_mean", "std": "mel_std"}.get(n, n): v for n, v in state.items()}
    return {"epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.1.0",
            "state_dict": renamed, "loops": {}, "hyper_parameters": {"n_vocab": 178}}


def test_a_published_file_comes_in_and_goes_out_bit_for_bit(tmp_path):
    state, job = released(), str(tmp_path / "job")
    write_torch_zip(str(tmp_path / "text_to_tokens.pth"), state)
    config = weights.import_file(SYSTEM, str(tmp_path / "text_to_tokens.pth"), job)
    c = config.system
    assert (c.mean, c.std) == (-2.8461, 4.5255) and c.padding == "batch" and c.matcha_compat
    assert c.encoder.width == state["encoder.emb.weight"].shape[1]
    assert c.encoder.layers == 1 and c.unet.channels == (32, 32) and c.unet.middle == 2
    params = load_params(job, api.build(c))
    np.testing.assert_array_equal(params["encoder"]["mean"]["kernel"],
                                  state["encoder.proj_m.weight"][..., 0].T)
    assert weights.export(job, str(tmp_path / "ours.pt")) == len(state)
    back = read_state_dict(tmp_path / "ours.pt")
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_a_checkpoint_of_lightning_holds_the_same_network(tmp_path):
    write_torch_zip(str(tmp_path / "matcha.ckpt"), lightning(released()))
    state = read_state_dict(tmp_path / "matcha.ckpt")
    system = weights.published_config(SYSTEM, state).system
    assert (system.mean, system.std) == (-2.8461, 4.5255)
    jax.tree.map(np.testing.assert_array_equal, PUBLISHED.read(state, system),
                 PUBLISHED.read(released(), system))


def several_faults(state):
    state.pop("decoder.estimator.final_proj.bias")
    state |= {"spk_emb.weight": np.zeros((2, 3), np.float32),
              "decoder.estimator.time_mlp.linear_1.weight": np.zeros((5, 4), np.float32)}


@pytest.mark.parametrize(("change", "message"), [
    (several_faults, r"x.pth; found: missing: decoder.estimator.final_proj.bias \| left over: "
     r"spk_emb.weight \| of another shape: decoder.estimator.time_mlp.linear_1.weight \(5, 4\) in"),
    (lambda s: s.pop("std"), "statistics are missing; where: std.*std or mel_std"),
    (lambda s: s.pop("encoder.proj_m.weight"), "an entry encoder.proj_m.weight"),
    (lambda s: s.pop("decoder.estimator.final_proj.bias"), "missing: decoder.*final_proj"),
    (lambda s: s.update({"spk_emb.weight": np.zeros((2, 3), np.float32)}), "left over.*spk_emb"),
    (lambda s: s.update({"encoder.proj_m.weight": np.zeros((7, 32, 1), np.float32)}),
     r"do not fit.*decoder/down_0/\S* \(3, 58, 32\) instead of \(3, 14, 32\)"),
])
def test_another_file_is_refused(change, message, tmp_path):
    state = released()
    change(state)
    write_torch_zip(str(tmp_path / "x.pth"), state)
    with pytest.raises(UserError, match=message):
        weights.import_file(SYSTEM, str(tmp_path / "x.pth"), str(tmp_path / "job"))
    assert not (tmp_path / "job").exists()


def test_the_papers_network_has_no_published_names():
    with pytest.raises(UserError, match="config.system.decoder; expected: unet; found: dit"):
        PUBLISHED.read(released(), paper())
