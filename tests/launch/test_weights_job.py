"""Published files in and out of workdirs, through the functions behind the command line."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from avjax.checkpoint.checkpoints import Checkpoints, load_meta, load_params, warm_start
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.systems import api
from avjax.systems.api import build
from avjax.systems.avflow import published as avflow
from avjax.systems.talker import system as talker
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_params, abstract_state
from avjax.weights.reader import read_checkpoint, read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from configs import avflow_released, talker_0_6b
from launch.jobs import weights
from tests import commands
from tests.golden_files import golden, under
from tests.systems.talker_golden import golden_config
from tests.systems.talker_golden import prepare as prepare_talker

FIXTURE = pathlib.Path(__file__).parents[1] / "weights" / "fixtures" / "everything.pt"


def trainer_saves(state):
    """The tree that the release's trainer gives torch.save: the network inside its wrapper, and
    AdamW after 7 steps."""
    moments = {i: {"step": np.array(7, np.float32), "exp_avg": value, "exp_avg_sq": value}
               for i, value in enumerate(state.values())}
    group = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-9, "params": list(range(len(state)))}
    return {"iteration": 7, "model_state_dict": {f"diffusion_module.{name}": v for name,
                                                 v in state.items()},
            "optimizer_state_dict": {"state": moments, "param_groups": [group]}}


@pytest.mark.parametrize(("name", "record"), golden("avflow", "monadic/"))
@pytest.mark.parametrize("kind", ["monadic", pytest.param("dyadic", marks=pytest.mark.slow)])
def test_the_avflow_trainers_file_comes_in_and_goes_out_bit_for_bit(name, record, kind, tmp_path):
    state = under(record, f"{kind}/sd/")
    published, job = str(tmp_path / "iter-0000007.pt"), str(tmp_path / "job")
    write_torch_zip(published, trainer_saves(state))
    config = weights.import_file("avflow", published, job)
    assert config.system.num_blocks == sum(f"fusion.{i}.weight" in state for i in range(99))
    meta = load_meta(job)
    assert meta["system"] == "avflow" and meta["data"] == {"next_index":
                                                           0} and len(
                                                               meta["imported"]["sha256"]) == 64
    params = load_params(job, build(config.system))
    np.testing.assert_array_equal(params["visual"]["outputs"]["kernel"], state["out_v.weight"].T)
    bare = avflow.import_avflow(state, config.system)
    jax.tree.map(np.testing.assert_array_equal, params, bare)

    assert weights.export(job, str(tmp_path / "ours.pt")) == len(state)
    back = read_checkpoint(tmp_path / "ours.pt")
    assert list(back) == ["iteration", "model_state_dict",
                          "optimizer_state_dict"] and back["iteration"] == 0
    assert back["model_state_dict"].keys() == {f"diffusion_module.{name}" for name in state}
    for key in state:
        np.testing.assert_array_equal(back["model_state_dict"][f"diffusion_module.{key}"],
                                      state[key], err_msg=key)
    # torch compares the numbers of groups and of parameters
    optimizer = back["optimizer_state_dict"]
    assert optimizer["state"] == {} and [g["params"]
                                         for g in optimizer["param_groups"]] == [
                                             list(range(len(state)))]
    assert optimizer["param_groups"][0]["lr"] == 1e-4 and optimizer["param_groups"][0]["betas"] == (
        0.9, 0.98)

    out = tmp_path / "ours.safetensors"
    assert weights.export(job, str(out)) == len(state)
    alone = read_state_dict(out)
    assert alone.keys() == state.keys() and all(np.array_equal(alone[key], state[key])
                                                for key in state)
    with safetensors.safe_open(out, "np") as file:
        assert json.loads(file.metadata()["system"])["d_model"] == config.system.d_model
        assert file.metadata()["format"] == "pt"  # what transformers demands
    assert out.stat().st_mode == (tmp_path / "ours.pt").stat().st_mode  # not for its writer alone
    with pytest.raises(UserError, match="it exists.*another --out"):
        weights.export(job, str(out))
    for place in ("absent/w.safetensors", "ours.pt/w.pt", "ours.pt/w.safetensors", "absent/w.pt"):
        with pytest.raises(UserError, match="cannot write the weights.*hint"):
            weights.export(job, str(tmp_path / place))
    with pytest.raises(UserError, match="no such checkpoint.*found: abc"):
        weights.export(job, str(tmp_path / "w.pt"), step="abc")
    with pytest.raises(UserError, match="ends in .pt or .safetensors.*another ending"):
        weights.export(job, str(tmp_path / "ours.npz"))
    with pytest.raises(UserError, match="workdir is in use"):
        weights.import_file("avflow", published, job)
    assert {p.name for p in tmp_path.iterdir()} == {"iter-0000007.pt", "job", "ours.pt",
                                                    "ours.safetensors"}


@pytest.mark.parametrize(("name", "record"), golden("avflow", "monadic/"))
def test_towers_without_fusion_are_published_with_one_that_adds_zero(name, record):
    state = under(record, "monadic/sd/")
    file = avflow.trainer_file({k: v for k, v in state.items() if not k.startswith("fusion.")}, 3)
    written = {k.removeprefix("diffusion_module."): v for k, v in file["model_state_dict"].items()}
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in state.items()}
    assert not any(v.any() for k, v in written.items() if k.startswith("fusion."))
    assert file["iteration"] == 3 and len(file["optimizer_state_dict"]["param_groups"][0][
        "params"]) == len(state)


@pytest.mark.parametrize(("name", "record"), golden("avflow", "head_vae/"))
def test_a_training_that_begins_during_the_import_keeps_its_folder(name, record, tmp_path,
                                                                   monkeypatch):
    write_torch_zip(tmp_path / "published.pt", {"model_state_dict": under(record, "head_vae/sd/")})
    job = tmp_path / "job"

    class Slow:
        def __init__(self, folder):
            pass

        def save(self, *_):
            job.mkdir()
            (job / ".lock").touch()

        def close(self):
            pass

    monkeypatch.setattr(weights, "Checkpoints", Slow)
    with pytest.raises(UserError, match="in use.*found: .lock"):
        weights.import_file("head_vae", str(tmp_path / "published.pt"), str(job))
    assert [p.name for p in job.iterdir()] == [".lock"] and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("name", "record"), golden("avflow", "head_vae/"))
def test_published_head_vae_comes_in_and_goes_out(name, record, tmp_path):
    state = under(record, "head_vae/sd/")
    write_torch_zip(tmp_path / "published.pt", {"model_state_dict": state})
    config = weights.import_file("head_vae", str(tmp_path / "published.pt"), str(tmp_path / "job"))
    system, mesh = build(config.system), make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.train.steps, abstract_params(system))
    checkpoints = Checkpoints(tmp_path / "job")  # as the training loop goes on from it
    step, whole, meta = checkpoints.restore(abstract_state(system, optimizer, mesh, ema=False))
    checkpoints.close()
    assert step == 0 and whole["step"] == 0 and meta["data"] == {"next_index": 0}
    np.testing.assert_array_equal(whole["params"]["mean"]["bias"], state["fc_mu.bias"])
    weights.export(str(tmp_path / "job"), str(tmp_path / "ours.pt"))
    back = read_checkpoint(tmp_path / "ours.pt")
    assert list(back) == ["model_state_dict"] and back["model_state_dict"].keys() == state.keys()
    assert all(np.array_equal(back["model_state_dict"][k], state[k]) for k in state)


@pytest.mark.parametrize(("name", "record"), golden("avflow", "monadic/"))
def test_what_does_not_fit_leaves_nothing_behind(name, record, tmp_path):
    state = under(record, "monadic/sd/")
    np.savez(tmp_path / "published.npz", **state)
    path, job = str(tmp_path / "published.npz"), str(tmp_path / "job")
    with pytest.raises(UserError, match="published.npz.*of another shape.*qkv.*hint"):
        weights.import_file("avflow", path, job, config=avflow_released.get_config())
    with pytest.raises(UserError, match="not a head VAE"):
        weights.import_file("head_vae", path, job)
    with pytest.raises(UserError, match="not an AV-Flow state dict"):
        weights.import_file("avflow", str(FIXTURE), job)
    for place, message in ((path, "in use.*found: a file"), (f"{path}/job", "cannot be made")):
        with pytest.raises(UserError, match=message):
            weights.import_file("avflow", path, place)
    with pytest.raises(UserError, match="no checkpoint here"):
        weights.export(job, str(tmp_path / "out.safetensors"))
    assert [p.name for p in tmp_path.iterdir()] == ["published.npz"]


def draw_by_shape(monkeypatch, shapes):
    """Fresh parameters of a Talker as one number: the real ones take seconds to compile."""
    monkeypatch.setattr(api, "_DRAWN", {})  # what the real ones were traced to
    monkeypatch.setattr(talker.System, "init", lambda self, key: jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, jax.random.uniform(key), leaf.dtype), shapes))


def talker_experiment(record):
    config = talker_0_6b.get_config()
    config.system.update(golden_config(record))
    return config


@pytest.mark.parametrize(("name", "record"), golden("talker_delay")[:1])
def test_published_talker_comes_in_and_goes_out(name, record, tmp_path):
    # a frozen encoder: another network
    state = under(record, "sd/") | {"spk.conv.weight": np.ones(3, np.float32)}
    np.savez(tmp_path / "published.npz", **state)
    shown = weights.published_config("talker", state).system
    assert {k: shown[k] for k in ("d_model", "vocab", "num_layers")} == {
        k: golden_config(record)[k] for k in ("d_model", "vocab", "num_layers")}
    weights.import_file("talker", str(tmp_path / "published.npz"), str(tmp_path / "job"),
                        config=talker_experiment(record))
    system, params = prepare_talker(record)
    loaded = load_params(tmp_path / "job", system)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    out = tmp_path / "ours.safetensors"
    assert weights.export(str(tmp_path / "job"), str(out)) == len(state) - 1
    back = read_state_dict(out)
    assert back.keys() == state.keys() - {"spk.conv.weight"}
    for key, value in back.items():
        if key != "llm.lm_head.weight":  # unused; ours is the embedding
            np.testing.assert_allclose(value, state[key], atol=1e-4 if "rope" in key else 0,
                                       err_msg=key)


@pytest.mark.parametrize(("name", "record"), golden("talker_delay")[:1])
def test_a_language_model_alone_is_a_warm_start(name, record, tmp_path, monkeypatch):
    system, theirs = prepare_talker(record)
    draw_by_shape(monkeypatch, abstract_params(system))
    state = under(record, "sd/llm.")  # named as Qwen3 is published: model.*, lm_head.weight
    safetensors.numpy.save_file(state, tmp_path / "qwen3.safetensors")
    assert weights.published_config("talker",
                                    state).system.d_ff == state[
                                        "model.layers.0.mlp.up_proj.weight"].shape[0]
    weights.import_file("talker", str(tmp_path / "qwen3.safetensors"), str(tmp_path / "job"),
                        config=talker_experiment(record))
    loaded = load_params(tmp_path / "job", system)
    jax.tree.map(np.testing.assert_array_equal, loaded["backbone"], theirs["backbone"])
    fresh = jax.jit(system.init)(jax.random.key(1))
    begun, note = warm_start(fresh, tmp_path / "job", include=("backbone/.*",))
    jax.tree.map(np.testing.assert_array_equal, begun["backbone"], theirs["backbone"])
    np.testing.assert_array_equal(begun["task"], fresh["task"])
    assert not np.array_equal(loaded["task"], fresh["task"]) and "fresh: " in note
    with pytest.raises(UserError, match="not a Talker-T2AV"):
        weights.published_config("talker", {"a": np.ones(1)})


def test_inspect_lists_every_array():
    text = weights.describe(str(FIXTURE))
    lines = text.splitlines()
    assert any(line.split()[:4] == ["model_state_dict.weight", "(2,", "3)", "float32"]
               for line in lines)
    assert any(line.split()[:3] == ["bf16", "(2,)", "bfloat16"] for line in lines)
    assert lines[-2].startswith("22 arrays, ") and lines[-1].startswith("sha256 ")


def test_command_line_errors_are_one_line(tmp_path):
    run = commands.run("weights", "inspect", str(tmp_path / "absent.pt"))
    assert run.returncode == 2 and run.stderr.startswith("error: no such weights file")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("name", "record"), golden("avflow", "monadic/"))
def test_weights_that_would_be_wrong_are_refused_by_name(name, record, tmp_path):
    state, job = under(record, "monadic/sd/"), str(tmp_path / "job")
    bias = "transformer_blocks_v.0.feedforward.block.0.bias"
    for change, message in (
            ({"out_v.bias": state["out_v.bias"] * np.nan}, "not finite.*visual/outputs/bias"),
            ({"out_v.bias": state["out_v.bias"].astype(np.float64) + 1e39},
             "not finite.*visual/outputs/bias"),
            ({"out_v.bias": state["out_v.bias"].astype(np.int8)},
             "whole numbers.*out_v.bias.*int8"),
            ({bias: state[bias][None]},
             r"another shape: transformer_blocks_v\..\.feedforward\.block\.0\.bias"),
            ({"out_v.weight": state["out_v.weight"][0]}, "another network.*other dimensions")):
        np.savez(tmp_path / "w.npz", **state | change)
        with pytest.raises(UserError, match=message):
            weights.import_file("avflow", str(tmp_path / "w.npz"), job)
    # as Lightning names it
    np.savez(tmp_path / "w.npz", **{f"net.{key}": value for key, value in state.items()})
    with pytest.raises(UserError, match="not an AV-Flow.*--select=PREFIX"):
        weights.import_file("avflow", str(tmp_path / "w.npz"), job)
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


@pytest.mark.parametrize("content", [b"hello, this is none", b"", bytes(100)])
def test_safetensors_that_are_none_are_told(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="(truncated|not a .safetensors).*w.safetensors"):
        weights.import_file("talker", str(tmp_path / "w.safetensors"), str(tmp_path / "job"))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_our_own_export_says_of_itself_goes_before_the_published_sizes(tmp_path):
    system = avflow_released.get_config().system.to_dict() | {"num_heads": 2}
    for i, (metadata, heads) in enumerate((({"system": json.dumps(system)}, 2),
                                           ({"format": "pt"}, None), (None, None),
                                           ({"system": json.dumps(system | {"name": "talker"})},
                                            None))):
        safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / f"{i}.safetensors", metadata)
        config = weights.exported_config("avflow", str(tmp_path / f"{i}.safetensors"))
        assert (config and config.system.num_heads) == heads


@pytest.mark.parametrize(("name", "record"), golden("talker_delay")[:1])
def test_what_only_training_uses_is_left_out_and_drawn_anew(name, record, tmp_path, monkeypatch):
    config = talker_experiment(record)
    config.system.spelling_weight = config.system.regression_weight = 0.5
    draw_by_shape(monkeypatch, abstract_params(build(config.system)))
    state, told = under(record, "sd/"), []
    np.savez(tmp_path / "published.npz", **state)
    weights.import_file("talker", str(tmp_path / "published.npz"), str(tmp_path / "job"),
                        config=config)
    out = tmp_path / "ours.safetensors"
    assert weights.export(str(tmp_path / "job"), str(out), say=told.append) == len(state)
    assert told == ["left out: spelling, regression, which no published file has"]
    assert read_state_dict(out).keys() == state.keys()
    back = weights.import_file("talker", str(out), str(tmp_path / "again"))
    assert back.system.spelling_weight == 0.5
    jax.tree.map(np.testing.assert_array_equal, *(load_params(tmp_path / job, build(c.system))
                                                  for job, c in (("again", back), ("job", config))))
