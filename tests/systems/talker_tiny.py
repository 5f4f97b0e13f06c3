"""A Talker-T2AV of a few thousand parameters, and utterances for it."""

import functools

import jax
import numpy as np

from avjax.systems.api import abstract_params, build
from avjax.systems.talker import objective
from avjax.systems.talker.config import default


def tiny(**overrides):
    c = default()
    c.update(dict(vocab=11, d_model=16, velocity_width=16, num_layers=2, num_heads=2,
                  num_kv_heads=1, head_dim=8, d_ff=24, encoder_layers=1, encoder_heads=2,
                  velocity_layers=1, velocity_heads=2, audio_dim=3, motion_dim=4,
                  speaker_dim=5, patch=2, delay=1, row_tokens=32, row_patches=14, row_utterances=3))
    c.update(overrides)
    return c


def random_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def random_params(system, seed=0):
    return random_like(abstract_params(system), seed)


@functools.cache
def one():
    """The tiny system and parameters of it."""
    system = build(tiny())
    return system, random_params(system)


def utterance(config, prompt, audio_frames, motion_frames, seed=0):
    """prompt ids, then the slots of the plan; lengths in frames."""
    rng = np.random.default_rng(seed)
    P = config.patch
    slots = max(-(-audio_frames // P), -(-motion_frames // P) + config.delay if motion_frames
                else 0)
    ids = rng.integers(0, config.vocab, prompt + slots)
    return dict(tokens=np.concatenate([[int(motion_frames > 0)], ids]),
                slots=np.arange(prompt, prompt + slots) + 1,
                audio=rng.standard_normal((audio_frames, config.audio_dim)).astype(np.float32),
                motion=rng.standard_normal((motion_frames, config.motion_dim)).astype(np.float32),
                speaker=rng.standard_normal(config.speaker_dim).astype(np.float32))


def three(config):
    """With motion, text to speech, and with motion again; partial last patches."""
    return [utterance(config, 3, 7, 7, seed=1), utterance(config, 2, 5, 0, seed=2),
            utterance(config, 4, 6, 5, seed=3)]


@functools.cache
def compiled():
    """The tiny system, its parameters, what its heads are given, and its loss with gradients;
    compiled for three rows."""
    system, params = one()

    def given(params, batch):
        hidden = system.net.apply({"params": params}, batch, method="encode_row")
        return hidden, objective.targets(batch, hidden,
                                         system.config), objective.stop_labels(batch, system.config)

    return system, params, jax.jit(given), jax.jit(jax.value_and_grad(system.loss_at,
                                                                          has_aux=True))


def draw(config, seed=0, rows=3):
    return jax.jit(lambda key: objective.draw(key, config, rows,
                                                config.row_patches))(jax.random.key(seed))


def head_arguments(config, seed=0, n=3):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal((n, *shape)).astype(np.float32)

    t, mu, P = rng.uniform(size=n).astype(np.float32), normal(config.d_model), config.patch
    speech = (normal(P, config.audio_dim), t, mu, normal(P, config.audio_dim),
              normal(config.speaker_dim))
    motion = (normal(P, config.motion_dim), t, mu, normal(P, config.motion_dim),
              normal(config.motion_dim))
    return speech, motion
