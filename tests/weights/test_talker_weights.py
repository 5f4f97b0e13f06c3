"""Talker-T2AV's name table on the recorded checkpoints: there and back, and what is wrong with a
wrong file."""

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.talker import published as weights
from avjax.systems.talker.system import System
from tests.golden_files import cases, some, under
from tests.systems.talker_golden import CASES, golden_config, prepare


@pytest.mark.parametrize("arrays", CASES)
def test_export_gives_the_published_bytes_back(arrays):
    system, params = prepare(arrays)
    state = under(arrays, "sd/")
    exported = weights.export_talker(params, system.config)
    assert set(exported) == set(state)
    for name, value in state.items():
        if name.endswith("rope.w"):  # computed, so to the last bit but one
            np.testing.assert_allclose(exported[name], value, atol=6e-8, rtol=0)
        elif name != "llm.lm_head.weight":  # unused; ours is tied
            assert exported[name].dtype == value.dtype and exported[
                name].tobytes() == value.tobytes(), name
    fresh = api.abstract_params(system)
    assert jax.tree.map(lambda a: a.shape, fresh) == jax.tree.map(lambda a: a.shape, params)


@pytest.mark.parametrize("width", [8, 48, 128, 228])
def test_rotary_tables_do_not_depend_on_the_processor(width):
    """Each step rounded to float32 from exact numbers, as libraries do to within a bit; NumPy's own
    powers are not."""
    theta = [1 / np.float32(10000.0 ** float(np.float32(i / width))) for i in range(0, width, 2)]
    angle = [[float(np.float32(n) * t) for t in theta] for n in (0, 1, 500, 1023)]
    wanted = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    np.testing.assert_array_equal(weights.rotary_table(width)[[0, 1, 500, 1023]], wanted)


def test_rotary_tables_of_a_file_are_heeded():
    """They show how many heads there are, which nothing else in the file does; other rotations are
    not implemented."""
    arrays = some("talker_delay")
    system, _ = prepare(arrays)
    state, config = under(arrays, "sd/"), system.config
    sizes = weights.talker_sizes(state)
    assert (sizes["encoder_heads"], sizes["velocity_heads"]) == (config.encoder_heads,
                                                                 config.velocity_heads)
    assert "encoder_heads" not in weights.talker_sizes({k: v for k, v in state.items()
                                                        if not k.endswith("rope.w")})
    with pytest.raises(UserError, match=r"another number of heads; where: speech_cfm.*set "
                                        r"config.system.velocity_heads"):
        weights.import_talker(state,
                              golden_config(arrays, velocity_heads=config.velocity_heads // 2))
    name = "motion_patch_encoder.rope.w"
    with pytest.raises(UserError, match="table is not the published one; where: "
                                        "motion_patch_encoder"):
        weights.import_talker(state | {name: state[name][::-1]}, config)
    weights.import_talker(state | {name: state[name].astype(np.float16)}, config)


def test_an_embedding_saved_under_its_heads_name_is_found():
    """safetensors.torch.save_model (0.8) writes tied tensors once, under the first name of the
    alphabet."""
    arrays = some("talker_delay")
    system, params = prepare(arrays)
    state = under(arrays, "sd/")
    embedding = state.pop("llm.model.embed_tokens.weight")
    state["llm.lm_head.weight"] = embedding
    assert weights.talker_sizes(state)["vocab"] == len(embedding)
    again = weights.import_talker(state, system.config)
    np.testing.assert_array_equal(again["backbone"]["embedding"], params["backbone"]["embedding"])
    alone = {k.removeprefix("llm."): v for k, v in state.items() if k.startswith("llm.")}
    assert weights.is_backbone(alone)
    np.testing.assert_array_equal(weights.import_backbone(alone, system.config)["embedding"],
                                  embedding)


def test_stacked_blocks_go_to_their_numbers_and_back():
    """Recordings have one block a stack, which is not stacked; here are more."""
    arrays = some("talker_delay")
    system = System(golden_config(arrays, encoder_layers=2, velocity_layers=4))
    rng, shapes = np.random.default_rng(0), api.abstract_params(system)
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)
    state = weights.export_talker(params, system.config)
    stack = params["speech_head"]["stack"]
    for i, ours in enumerate([*stack["blocks"]["project"]["kernel"],
                              stack["last"]["project"]["kernel"]]):
        np.testing.assert_array_equal(
            state[f"speech_cfm.estimator.decoder.blocks.{i}.attn.proj.weight"], ours.T)
    again = weights.import_talker(state, system.config)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_frozen_encoders_of_a_full_checkpoint_are_left_alone():
    arrays = some("talker_delay")
    system, params = prepare(arrays)
    state = under(arrays, "sd/") | {"spk.conv.weight": np.ones(3),
                                    "pretrained_speech_encoder.x": np.ones(3)}
    again = weights.import_talker(state, system.config)
    assert len(jax.tree.leaves(again)) > 10
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_wrong_files_are_named():
    arrays = some("talker_delay")
    system, _ = prepare(arrays)
    state = under(arrays, "sd/")
    with pytest.raises(UserError, match="task_embedding"):
        weights.import_talker({k: v for k, v in state.items() if not k.startswith("task_")},
                              system.config)
    further = f"llm.model.layers.{system.config.num_layers}.mlp.gate_proj.weight"
    with pytest.raises(UserError, match="left over"):
        weights.import_talker(state | {further: np.ones(1)}, system.config)
    name = "llm.model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(UserError, match="q_proj"):
        weights.import_talker(state | {name: state[name][:-1]}, system.config)
    with pytest.raises(UserError, match="not a Talker"):
        weights.talker_sizes({"a": np.ones(1)})


@pytest.mark.parametrize("arrays", cases("qwen3"))
def test_backbone_there_and_back(arrays):
    from tests.systems.test_talker_golden import qwen

    net, variables = qwen(arrays)
    state = under(arrays, "sd/")
    exported = weights.export_backbone(variables["params"], net.config, prefix="")
    assert set(exported) == set(state)
    assert all(exported[name].tobytes() == value.tobytes() for name, value in state.items())
