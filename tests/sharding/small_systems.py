"""Every system at the smallest sizes that divide over eight devices on any axis, with a batch and
what its step may gather.

`gathered(rows)`: bytes that all-gathers of a step may make where only data and seq are split and a
device has `rows` rows; what avjax/nn/sequence.py says is exchanged, so that one whole activation
more is a failure. Bodies of scans count once, as they do in the compiled text.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from avjax.systems import api
from avjax.systems.avflow import config as avflow
from avjax.systems.avflow.text import config as text_tokens
from avjax.systems.talker import config as talker
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.acoustic import config as acoustic
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.text import config as text
from avjax.systems.tavid.visual import config as visual

B, FLOAT = 8, 4


@dataclasses.dataclass
class Small:
    system: Any
    batch: dict[str, np.ndarray]
    gathered: Callable[[int], float]


def normal(system, seed=0, time=0):
    """Unit normal in the place of everything, integers zero."""
    rng = np.random.default_rng(seed)
    return rng, {name:
                 rng.standard_normal(spec.resolve(batch=B, time=time).shape).astype(spec.dtype)
                 for name, spec in system.batch_spec.items()}


def lengths(rng, least, most):
    return rng.integers(least, most + 1, B).astype(np.int32)


def mask(rng, frames):
    return (np.arange(frames) < lengths(rng, frames // 2, frames)[:, None]).astype(np.float32)


def avflow_small() -> Small:
    c = avflow.released()
    c.update(dict(d_model=64, num_blocks=2, num_heads=8, d_ff=128, face_dim=16, head_dim=8,
                  mel_dim=16, token_dim=8, identity_dim=4, window=((5, 3), (4, 1)),
                  scan_layers=True))
    system = api.build(c)
    rng, batch = normal(system, time=32)
    return Small(system, batch | {"mask": mask(rng, 32)}, lambda rows: 0)


def text_tokens_small() -> Small:
    c = text_tokens.published()
    c.update(dict(symbols=20, token_dim=16, row_symbols=32, row_frames=64))
    c.encoder.update(dict(width=64, convolutions=1, layers=1, heads=8, d_ff=128, duration_width=64))
    c.unet.update(dict(channels=(64,), middle=0, heads=8, head_width=8))
    system = api.build(c)
    rng, batch = normal(system)
    batch |= {"symbols": rng.integers(0, 20, batch["symbols"].shape).astype(np.int32),
              "symbols_length": lengths(rng, 16, 32),
              "tokens_length": lengths(rng, 32, 64)}
    return Small(system, batch, lambda rows: 0)


def talker_small() -> Small:
    c = talker.default()
    c.update(dict(vocab=48, d_model=64, velocity_width=64, num_layers=2, num_heads=8,
                  num_kv_heads=8, head_dim=8, d_ff=192, encoder_layers=1, encoder_heads=8,
                  velocity_layers=2, velocity_heads=8, audio_dim=8, motion_dim=16,
                  speaker_dim=5, patch=2, delay=1, row_tokens=64, row_patches=32, row_utterances=3))
    system, rng = api.build(c), np.random.default_rng(0)

    def utterance(prompt, audio, motion):
        return {"tokens": rng.integers(0, 48, prompt).astype(np.int32),
                "voice": rng.standard_normal(5).astype(np.float32),
                "audio": rng.standard_normal((audio, 8)).astype(np.float32),
                "motion": rng.standard_normal((motion, 16)).astype(np.float32)}

    def row(i):
        some = [(3, 20, 18), (5, 10, 0), (4, 14, 13)] if i % 2 else [(8, 30, 30), (2, 9, 9)]
        return system.rows.build([utterance(*sizes) for sizes in some], rng)

    rows = [row(i) for i in range(B)]
    # keys and values of a layer; the patches' tokens on their way to the row, and two gradients on
    # their way back
    return Small(system, {name: np.stack([row[name] for row in rows]) for name in rows[0]},
                 lambda rows: rows * FLOAT * (64 * 2 * 64 + 3 * 32 * 64))


def text_small() -> Small:
    c = text.base()
    c.update(dict(vocab=32, num_units=61, encoder_width=64, encoder_layers=1, encoder_heads=8,
                  encoder_ff=85, d_model=128, num_layers=1, num_heads=8, head_dim=16, d_ff=170,
                  depth_width=64, depth_layers=1, depth_heads=8, alignment="plan",
                  speaker_embedding=True, row_tokens=32, row_frames=64, frames_per_step=2,
                  unit_dropout=0.1, dropout=0.1))
    system = api.build(c)
    rng, batch = normal(system)
    batch |= {"tokens": rng.integers(0, 32, (B, 32)).astype(np.int32),
              "tokens_length": lengths(rng, 16, 32),
              "token_speaker": rng.integers(-1, 2, (B, 32)).astype(np.int32),
              "times": np.sort(rng.uniform(0, 60, (B, 32)), axis=1).astype(np.float32),
              "units": rng.integers(0, 61, (B, 64, 2)).astype(np.int32),
              "units_length": lengths(rng, 30, 62),
              "weight": np.ones((B, 64, 2), np.float32)}
    # keys and values of both stacks, the text and its gradient
    return Small(system, batch, lambda rows: rows * FLOAT
                 * (32 * 2 * 128 + 32 * 2 * 64 + 2 * 32 * 64))


def small_acoustic(c):
    c.update(dict(num_units=31, mel_dim=16, voice_dim=8, d_model=64, num_layers=2, num_heads=8,
                  d_ff=128, unit_dim=32, window=6,
                  position_kernel=5, position_groups=8, row_frames=64))
    c.mel_recipe = None


def composite_small() -> Small:
    """S7. The text and visual parts are as in `tiny`: they take no part in it."""
    c = tavid.tiny()
    c.acoustic = acoustic.base()
    small_acoustic(c.acoustic)
    c.text.num_units = c.visual.mapper.num_units = 31
    c.visual.unet.heads = c.visual.mapper.num_heads = 8
    c.text.depth_heads = c.text.num_heads = c.text.encoder_heads = 8
    c.text.depth_width = 128
    c.speaker.update(dict(voice_dim=8, face_dim=c.visual.face_width, size=16, widths=(16,),
                          blocks=(1,), hidden=32))
    system = api.build(c)
    rng, batch = normal(system)
    batch |= {"units": rng.integers(0, 31, batch["units"].shape).astype(np.int32),
              "mask": mask(rng, 64)}
    return Small(system, batch, lambda rows: 0)


def mapper_small() -> Small:
    c = mapper.base()
    c.update(dict(num_units=30, unit_dim=16, d_model=64, num_blocks=3, scan_layers=True,
                  num_heads=8, band=3, tokens=2,
                  token_dim=32, target_dim=8, segment=32))
    system = api.build(c)
    rng, batch = normal(system)
    batch |= {"units": rng.integers(0, 30, batch["units"].shape).astype(np.int32),
              "mask": mask(rng, 32)}
    return Small(system, batch, lambda rows: 0)


def visual_small() -> Small:
    """Stage temporal: eight frames, 32 positions."""
    c = visual.base()
    c.stage = "temporal"
    c.unet.update(dict(channels=(32,), layers=1, heads=8, groups=8, attention_levels=(True,),
                       latent_dim=4, face_dim=32, motion_dim=32, regions=("full",),
                       temporal_groups=8, temporal_length=16))
    c.mapper.update(dict(num_units=30, unit_dim=16, d_model=32, num_blocks=1, num_heads=8, band=3,
                         tokens=2, token_dim=32))
    c.update(dict(latent_size=(4, 8), face_width=16, face_tokens=2, frames=8, context=4, clip=8,
                  moving_weight=1.0))
    system = api.build(c)
    rng, batch = normal(system)
    batch |= {"units": rng.integers(0, 30, batch["units"].shape).astype(np.int32), "units_length": 2
              * lengths(rng, 12, 16),
              "frame": np.sort(rng.integers(0, 12, (B, 8)), axis=1).astype(np.int32)}
    # of four layers what the reference net wrote of three pictures, and on the way back again
    # (three fill four on two devices); the gradient of the motion tokens
    return Small(system, batch, lambda rows: rows * FLOAT * (4 * (3 + 4) * 32 * 32 + 8 * 10 * 32))


SYSTEMS = {"avflow": avflow_small, "avflow.text": text_tokens_small, "talker": talker_small,
           "tavid": composite_small, "tavid.text": text_small, "tavid.mapper": mapper_small,
           "tavid.visual": visual_small}
