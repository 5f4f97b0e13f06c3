"""TAVID made step by step is what `generate` makes at once."""

import jax
import numpy as np
import pytest

from avjax.inference.progress import Progress
from avjax.systems import api
from avjax.systems.tavid import config
from avjax.systems.tavid.history import FOLLOWING

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


def test_faces_of_motion_go_on_as_in_one_go():
    """Without a visual part: no pictures are needed, and motion after what was heard is that of all
    in one go, streamed or not; a piece that another follows is seen with silence behind it."""
    c = config.tiny()
    c.faces, c.text.filler = "motion", 5
    for part in (c.text, c.acoustic, c.mapper):
        part.num_units = 12
    c.mapper.update(dict(d_model=16, num_blocks=1, num_heads=2, token_dim=8, unit_dim=8, tokens=1,
                         target_dim=9))
    system = api.build(c)
    assert list(system.parts) == ["text", "acoustic", "mapper", "speaker"]
    assert not {"reference", "first_motion", "latents"} & {*system.conditions_spec,
                                                           *system.streams_spec}
    assert system.makes["dialogue"] == ("units", "mel", "motion", "voices")
    rng = np.random.default_rng(0)
    params = {"mapper": jax.tree.map(
        lambda x: 0.2 * rng.standard_normal(x.shape, np.float32),
        jax.eval_shape(system.parts["mapper"].init, jax.random.key(0)))}
    units = rng.integers(0, 12, (1, 34, 2)).astype(np.int32)
    faces = jax.jit(lambda given: system.faces(params, given, jax.random.split(
        jax.random.key(0), 1)))
    whole = faces({"units": units, "units_length": np.array([34])})["motion"]
    after = {"units": units[:, 14:], "units_length": np.array([20])}
    heard = {"heard": np.pad(units[:, :14], ((0, 0), (0, 6), (0, 0))),
             "heard_length": np.array([14])}
    made = faces(after | heard)
    assert made["motion"].shape == (1, 10, 2, 9) and made["motion_length"][0] == 10
    np.testing.assert_allclose(made["motion"], whole[:, 7:], atol=1e-5)
    assert np.abs(faces(after)["motion"] - whole[:, 7:]).max() > 1e-3
    steps = system.steps("avatar")  # the sound is another part's
    steps._voices = lambda *_: np.zeros((1, 2, 256), np.float32)
    steps._sound = lambda *_: {"mel": np.zeros((1, 34, 2, 80)), "mel_length": np.array([34])}
    [chunk] = steps(params, after | heard, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(chunk.streams["motion"], made["motion"], atol=1e-5)
    assert chunk.seconds == 20 / 50
    silent = np.concatenate([after["units"], np.full((1, FOLLOWING, 2), 5, np.int32)], 1)
    wanted = faces({"units": silent, "units_length": np.array([20 + FOLLOWING])} | heard)["motion"]
    assert np.abs(wanted[:, 9] - made["motion"][:, 9]).max() > 1e-3
    pieces = list(system.stream(params, [after | heard] * 2, jax.random.split(jax.random.key(0), 1),
                                "avatar"))
    for piece, motion in zip(pieces, (wanted[:, :10], made["motion"]), strict=True):
        np.testing.assert_allclose(piece.streams["motion"], motion, atol=1e-5)


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
