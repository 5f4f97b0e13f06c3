"""Hallo2 at a size that compiles in seconds, whose small parts are of the recordings' sizes."""

import jax
import numpy as np

from avjax.systems import api
from avjax.systems.tavid.visual import config as visual


def tiny(**more):
    """config.system: sound drives, three regions, a face locator."""
    c = visual.hallo2()
    c.unet.update(dict(channels=(10, 20), layers=1, heads=2, groups=5, face_dim=24, motion_dim=24,
                       attention_levels=(True, False), temporal_groups=5, temporal_length=8))
    c.audio.update(dict(layers=3, width=8, hidden=20, tokens=6))
    c.update(dict(stage="temporal", latent_size=(4, 4), locator=(4, 6, 8, 10), face_width=16,
                  frames=3, clip=3, steps=2, guidance=2.0))
    c.update_from_flattened_dict(more)
    return c


def random_params(config, seed: int = 0):
    """Nothing is zero, so that nothing is hidden; nothing is compiled."""
    rng = np.random.default_rng(seed)
    shapes = api.abstract_params(api.build(config))
    return jax.tree.map(lambda s: rng.normal(0, 0.3 if len(s.shape) > 1 else 0.2,
                                             s.shape).astype(np.float32), shapes)


def example(config, frames: int = 7, seed: int = 0) -> dict:
    """One video of one speaker."""
    rng, system = np.random.default_rng(seed), api.build(config)
    return {"id": "v"} | {name: rng.normal(size=spec.resolve(batch=1, time=frames).shape[1:]
                                           ).astype(spec.dtype)
                          for name, spec in system.example_spec.items()}
