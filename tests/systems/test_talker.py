"""Talker-T2AV as a System: rules of every parameter, the published size, what is refused."""

import functools

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems.api import abstract_params, build
from avjax.systems.talker.config import check, released
from tests.systems.talker_tiny import one, tiny


@functools.cache
def published_shapes():
    return abstract_params(build(released()))


def test_published_size():
    """The backbone is Qwen3-0.6B to the last parameter."""
    shapes = published_shapes()

    def count(tree):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    assert count(shapes["backbone"]) == 596_049_920
    assert count(shapes) == 912_301_128


def test_ids_outside_the_vocabulary_are_named():
    system, c = one()[0], one()[0].config
    example = {"id": "a", "tokens": np.array([1, c.vocab], np.int32),
               "voice": np.zeros(c.speaker_dim, np.float32),
               "audio": np.zeros((4, c.audio_dim), np.float32),
               "motion": np.zeros((0, c.motion_dim), np.float32)}
    for use in (lambda e: system.rows.build([e], np.random.default_rng(0)),
                lambda e: system.conditions(e, "tts")):
        use(example | {"tokens": np.array([0, c.vocab - 1], np.int32)})
        with pytest.raises(UserError, match=r"vocabulary(.|\n)*1 to 11"):
            use(example)


@pytest.mark.parametrize("wrong", [dict(coupling="crossed"), dict(remat="some"),
                                   dict(num_kv_heads=3), dict(velocity_width=8),
                                   dict(velocity_heads=3), dict(delay=-1), dict(delay=14),
                                   dict(row_tokens=14), dict(hidden_dropout=1.0), dict(steps=0),
                                   dict(max_frames=1), dict(stop_ignore=-1),
                                   dict(guidance=2.0, hidden_dropout=0.0)])
def test_bad_configs_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        check(tiny(**wrong))
