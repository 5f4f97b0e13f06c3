"""Every registered system at a size that compiles in a second, with examples and parameters."""

import functools

import jax
import numpy as np

from avjax.inference import padding
from avjax.systems import api
from avjax.systems.avflow import config as avflow
from avjax.systems.avflow.text import config as avflow_text
from avjax.systems.face_reader import config as face_reader
from avjax.systems.head_vae import config as head_vae
from avjax.systems.tavid import config as tavid
from avjax.systems.tavid.acoustic import config as acoustic
from avjax.systems.tavid.acoustic.expand import mel_frames
from avjax.systems.tavid.mapper import config as mapper
from avjax.systems.tavid.speaker import config as speaker
from avjax.systems.tavid.text import config as text
from avjax.systems.tavid.vae import config as vae
from avjax.systems.tavid.visual import config as visual
from avjax.systems.vocoder import config as vocoder
from tests.systems.talker_tiny import tiny as talker

IDS = 8  # below every vocabulary and codebook here


def _changed(config, **changes):
    for name, value in changes.items():
        config[name] = value
    return config


def _whole():
    c = tavid.tiny()
    c.text, c.acoustic, c.visual, c.speaker = (CONFIGS[f"tavid.{part}"]()
                                               for part in ("text", "acoustic", "visual",
                                                            "speaker"))
    c.visual.guidance_motion = 1.0  # one pass
    return c


def _avflow_text(c, **changes):
    c.update(dict(symbols=10, token_dim=3, row_symbols=20, row_frames=32, euler_steps=2,
                  matcha_compat=True) | changes)
    c.encoder.update(dict(width=16, layers=min(c.encoder.layers, 1), d_ff=16, duration_width=8))
    c.unet.update(dict(channels=(8, 16), head_width=4, groups=4))
    c.dit.update(dict(d_model=16, num_blocks=1, num_heads=2, d_ff=16))
    return c


def _visual():
    c = _changed(visual.tiny(), stage="temporal", latent_size=(4, 4), latent_dim=1, patch=2,
                 face_width=4, face_tokens=2, frames=3, context=4, clip=4, steps=2)
    c.unet.update(dict(channels=(8,), attention_levels=(False,), heads=2, groups=2, latent_dim=4,
                       face_dim=4, motion_dim=4, temporal_groups=2))
    c.mapper.update(dict(num_units=10, unit_dim=4, d_model=8, num_heads=2, num_blocks=1, band=2,
                         tokens=2, token_dim=4, margin=1))
    return c


CONFIGS = {
    "avflow": lambda: _changed(avflow.Config.make(), d_model=16, num_blocks=1, num_heads=2, d_ff=16,
                               mel_dim=5, face_dim=4, head_dim=2, token_dim=3, identity_dim=4,
                               window=(3, 1), euler_steps=2),
    "avflow.text": lambda: _avflow_text(avflow_text.tiny()),
    "face_reader": lambda: _changed(face_reader.tiny(), size=16, patch=2, widths=(16, 32),
                                    blocks=(0, 1), squeeze=8, hidden=32, motion_dim=3),
    "head_vae": lambda: _changed(head_vae.published(), d_ff=32),
    "talker": talker,
    "tavid": _whole,
    "tavid.acoustic": lambda: _changed(acoustic.full(), mel_recipe=None, num_units=10, mel_dim=6,
                                       voice_dim=4, d_model=16, num_layers=2, num_heads=2, d_ff=16,
                                       unit_dim=8, row_frames=24, position_kernel=3,
                                       position_groups=4, position_depth=1, window=8, steps=2),
    "tavid.mapper": lambda: _changed(mapper.full(), num_units=10, unit_dim=8, d_model=16,
                                     num_blocks=1, num_heads=2, band=3, tokens=2, token_dim=16,
                                     target_dim=3, segment=24),
    "tavid.speaker": lambda: _changed(speaker.tiny(), size=16, face_dim=4, voice_dim=4, widths=(8,),
                                      blocks=(1,), hidden=16),
    "tavid.text": lambda: _changed(text.tiny(), vocab=20, num_units=10, filler=3, encoder_width=16,
                                   encoder_layers=1, encoder_heads=2, encoder_ff=24,
                                   encoder_window=4, d_model=24, num_layers=1, num_heads=2,
                                   head_dim=8, d_ff=24, window=5, depth_width=8, depth_layers=1,
                                   depth_heads=2, row_tokens=32, row_frames=48),
    "tavid.vae": lambda: _changed(vae.tiny(), size=16, channels=(32,), groups=4,
                                  pictures_per_row=2),
    "tavid.visual": _visual,
    "vocoder": lambda: _changed(vocoder.tiny(), channels=8, rates=(2, 2), kernels=(4, 4), bands=6,
                                n_fft=16, block_kernels=(3,), dilations=((1,),), mel_scales="one",
                                discriminators=("mpd", "mrd"), width=4, periods=(2, 3),
                                resolutions=((16, 4, 12),)),
}


# what presets leave out and has parameters of its own
VARIANTS = {
    "avflow.text": [dict(decoder="dit"), dict(matcha_compat=False)],
    "avflow": [dict(fusion="shared"), dict(fusion="cascaded", partner_token_dim=2)],
    "tavid.acoustic": [dict(block="usdm", window=0)],
    "tavid.mapper": [dict(mode="dual"), dict(mode="concat"), dict(head="none", target_dim=32)],
    "tavid.visual": [dict(driver="audio", masks=True, locator=(2, 3, 4))],
    "talker": [dict(velocity_layers=2)],
    "vocoder": [dict(discriminators=("mpd", "mbd"), band_windows=(16,), mel="sound"),
                dict(discriminators=("cqtd",), octave_transforms=((4, 2, 3),), octave_width=4),
                dict(discriminators=())],
}


def variants(name: str) -> list:
    """Configs of `VARIANTS`."""
    return [_changed(CONFIGS[name](), **changes) for changes in VARIANTS.get(name, ())]


@functools.cache
def system(name: str) -> api.System:
    """The tiny system of this name."""
    return api.build(CONFIGS[name]())


@functools.cache
def shapes(name: str):
    """Of the tiny system's parameters."""
    return api.abstract_params(system(name))


@functools.cache
def params(name: str):
    """Random parameters: fresh ones have closed gates, through which nothing shows."""
    rng = np.random.default_rng(0)

    def one(path, x):
        noise = 0.2 * rng.standard_normal(x.shape).astype(np.float32)
        return 1 + noise if path[-1].key == "scale" else noise

    return jax.tree_util.tree_map_with_path(one, shapes(name))


def example(name: str, frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random example of `frames` video frames, as a dataset's features would hold it."""
    rng, spec = np.random.default_rng(seed), system(name).example_spec

    def size(feature, axis):
        lengths = {"units": 2 * frames} | ({"mel": mel_frames(2 * frames)} if "units" in spec
                                           else {})
        return {"tokens": 7, "turns": 2}.get(axis, lengths.get(feature, frames))

    out = {"id": f"{name}/{seed}"}
    for feature, s in spec.items():
        shape = [size(feature, d) if isinstance(d, str) else d for d in s.shape[1:]]
        whole = np.dtype(s.dtype).kind in "iu"
        out[feature] = (rng.integers(0, IDS, shape) if whole
                        else rng.standard_normal(shape)).astype(s.dtype)
    if "turns" in spec:  # speaker, text span, unit span, 0 = turn
        out["turns"] = np.array([[0, 0, 3, 0, frames, 0], [1, 4, 7, frames, 2 * frames, 0]],
                                np.int32)
        out["token_speaker"] = np.array([0, 0, 0, -1, 1, 1, 1], np.int32)
    return out


def batch(name: str, size: int = 2, frames: int = 20) -> dict[str, np.ndarray]:
    """A training batch of random examples, by the system's rows where it has any."""
    s, rng = system(name), np.random.default_rng(0)
    if s.rows:
        rows = [s.rows.build([example(name, frames, seed)], rng) for seed in range(size)]
        return {n: np.stack([row[n] for row in rows]) for n in rows[0]}
    examples = [example(name, frames, seed) for seed in range(size)]
    stacked = {n: np.stack([e[n] for e in examples]) for n in s.example_spec}
    return stacked | {"mask": np.ones((size, frames), np.float32)}


def conditions(name: str, examples, task: str, room: dict[str, int]):
    """(a batch of conditions with named axes padded to `room`, the real frames of each)."""
    rows, frames = zip(*(system(name).conditions(e, task) for e in examples), strict=True)
    return padding.batch(system(name), rows, frames, room), frames
