"""TAVID made step by step is what `generate` makes at once."""

import jax
import numpy as np
import pytest

from avjax.inference.progress import Progress
from avjax.systems import api
from avjax.systems.tavid import config

ROOM, LENGTH, FRAMES = 64, 38, 4  # units; frames of a clip


@pytest.fixture(scope="module")
def system():
    c = config.tiny()
    for part in (c.text, c.acoustic, c.visual.mapper):
        part.num_units = 12
    c.acoustic.update(dict(d_model=16, d_ff=16, num_layers=1, num_heads=2, unit_dim=8, steps=2,
                           position_groups=4))
    c.speaker.update(dict(inputs="none", hidden=8, face_dim=16))
    v = c.visual
    v.stage, v.clip, v.steps, v.latent_size, v.face_width = "temporal", FRAMES, 2, (4, 4), 16
    v.guidance_motion = 1.0  # one pass
    v.unet.update(dict(channels=(8,), attention_levels=(True,), heads=2, groups=4, face_dim=8,
                       motion_dim=8))
    v.mapper.update(dict(d_model=16, num_blocks=1, num_heads=2, token_dim=8, unit_dim=8, tokens=1))
    return api.build(c)


@pytest.mark.slow
def test_clip_by_clip_is_all_at_once(system):
    rng = np.random.default_rng(0)
    shapes = api.abstract_params(system)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32), shapes)
    shapes = {n: s.resolve(batch=1, time=ROOM, units=ROOM, tokens=8) for n,
              s in system.conditions_spec.items()}
    conditions = {n: rng.integers(0, 12, s.shape).astype(s.dtype) if s.dtype.kind == "i" else
                  rng.standard_normal(s.shape).astype(s.dtype) for n, s in shapes.items()}
    conditions |= {"units_length": np.array([LENGTH], np.int32),
                   "has_first": np.ones(1, np.float32)}
    keys = jax.random.split(jax.random.key(3), 1)
    whole = jax.device_get(jax.jit(system.generate,
                                   static_argnames="task")(params, conditions, keys, task="avatar"))
    progress = Progress(system, system.stream(params, [conditions], keys, "avatar"))
    sound, *video = [chunk.seconds for chunk in progress]
    clips = -(-LENGTH // 2 // FRAMES)
    assert sound == 0 and len(video) == clips and video[-1] == LENGTH / 50
    np.testing.assert_allclose(video, [min(2 * FRAMES * (k + 1), LENGTH) / 50
                                       for k in range(clips)])
    whole = api.real_streams(system, whole, 0, 0)
    made = api.real_streams(system, progress.result, 0, 0)
    assert whole.keys() == made.keys() == {"mel", "latents", "voices"}
    assert whole["latents"].shape[0] == LENGTH // 2
    for name, value in whole.items():
        np.testing.assert_allclose(made[name], value, atol=2e-5, err_msg=name)
    assert np.abs(np.diff(made["latents"], axis=0)).max() > 1e-3
