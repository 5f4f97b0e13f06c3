"""The parts of TAVID fit together: every config builds, every parameter has one sharding rule, S7
sees mapped voices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.sharding.rules import named_leaves, param_shardings
from avjax.systems import api
from avjax.systems.tavid import config as tavid
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_params
from configs import base, tavid_quickstart

PARTS = ("", "vae", "reader", "text", "acoustic", "appearance", "mapper", "motion", "temporal",
         "speaker")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_builds_and_is_sharded(part):
    config = tavid_quickstart.get_config(part)
    system = api.build(config.system)
    params = abstract_params(system)
    # raises unless each has one rule
    split = param_shardings(params, system.param_rules, make_mesh(base.get_config().mesh))
    assert jax.tree.structure(split) == jax.tree.structure(params)
    # raises where a pattern of `frozen` matches nothing
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)
    assert any(jax.tree.leaves(optimizer.trainable))


def test_stages_hand_on_what_the_next_one_reads():
    config = tavid_quickstart.get_config()
    names = {into: {n.removeprefix(f"{into}/") for n,
                    _ in named_leaves(abstract_params(api.build(config.system)))
                    if n.startswith(f"{into}/")} for into in ("text", "acoustic", "visual",
                                                              "speaker")}
    for into, path, _ in config.train.init_parts:
        part = path.rsplit("/", 1)[-1]
        own = {n for n,
               _ in named_leaves(
                   abstract_params(api.build(tavid_quickstart.get_config(part).system)))}
        assert own == names[into], part
    folders = [stage.get("workdir", stage.get("out")) for stage in config.stages]
    assert all(path in folders for _, path, _ in config.train.init_parts)


@pytest.mark.parametrize("change, message", [
    ({"text.num_units": 7}, "another codebook"),
    ({"acoustic.num_speakers": 3}, "another number of speakers"),
    ({"visual.face_width": 9}, "another face embedding"),
    ({"visual.stage": "motion"}, "visual.stage; expected: temporal"),
    ({"mapped_share": 1.5}, "out of range.*mapped_share"),
])
def test_parts_that_do_not_fit(change, message):
    config = tavid_quickstart.every_part()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        tavid.check(config)


def test_s7_hears_mapped_voices_and_other_tasks_are_given_what_they_need():
    config = tavid_quickstart.every_part()
    config.mapped_share = 1.0
    system = api.build(config)
    seen = {}

    class Sound:
        def loss(self, params, batch, key, voices):
            seen["voices"] = voices
            return jnp.zeros(()), {}

    system._sound = Sound()
    system.voices = lambda params, batch: jnp.ones_like(batch["voices"])
    system.loss({"acoustic": {}}, {"voices": jnp.zeros((2, 2, 256))}, jax.random.key(0))
    np.testing.assert_array_equal(seen["voices"], 1)
    example = {name: np.zeros([3 if isinstance(n, str) else n for n in spec.shape[1:]], spec.dtype)
               for name, spec in system.example_spec.items()}
    example["units"] = np.zeros((4, 2), np.int32)
    avatar, _ = system.conditions(example, "avatar")
    speech, _ = system.conditions(example, "speech")
    assert avatar.keys() == speech.keys() == system.conditions_spec.keys()
    assert len(avatar["units"]) == 4 and not len(avatar["tokens"]) and avatar["tokens_length"] == 0
    assert len(speech["tokens"]) == 3 and not len(speech["units"]) and speech["units_length"] == 0
