"""TAVID's `generate` step by step: the units, the sound, then the video clip by clip, told of as it
is made.

What comes out equals `System.generate` with the same keys, but nothing is spent on frames that the
text does not need: `generate` must make room for the longest answer and fills all of it. One
dialogue at a time.

Suffixes: N = speakers, R motion frames, M motion tokens, K their width, h w C latents.
"""

from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems.api import bucket
from avjax.systems.tavid.acoustic.expand import UNIT_RATE
from avjax.systems.tavid.visual import sampler

CLIPS = 6  # the shortest room that is compiled for; a clip is compiled once


class DialogueSampler:
    """One task of a System (avjax.systems.tavid.System), compiled part by part."""

    def __init__(self, system, task: str):
        visual, self._task = system.parts["visual"], task
        self._frames, self._before = visual.config.clip, visual.config.unet.motion_frames

        def clip(params, k, reference, faces, tokens, keys_N, before):
            tokens = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, k * self._frames,
                                                                         self._frames, 1), tokens)
            keys_N = jax.vmap(lambda key: jax.random.fold_in(key, k))(keys_N)
            return sampler.sample_clip(visual, params["visual"], reference, faces, tokens, before,
                                       keys_N)

        self._units, self._sound, self._voices = jax.jit(system.units), jax.jit(
            system.sound), jax.jit(system.voices)
        self._begin = jax.jit(lambda params, given,
                              keys: sampler.begin(visual, params["visual"], given,
                                                  system.part_keys("visual", keys)))
        self._clip = jax.jit(clip)

    def __call__(self, params, conditions, keys) -> Iterator[tuple[dict | None, float]]:
        """Conditions and keys of `System.generate` for a batch of one -> (None, seconds made) as
        they are made, last (what `generate` returns, all seconds). Streams are as long as they are,
        up to padding."""
        given = dict(conditions)
        if self._task != "avatar":
            given |= self._units(params, conditions, keys)
        length = int(given["units_length"][0])
        room = bucket(length, 2 * self._frames * CLIPS)
        units = np.asarray(given["units"])[:, :room]
        given["units"] = np.pad(units, ((0, 0), (0, room - units.shape[1]), (0, 0)))
        out = {"voices": self._voices(params, given)}
        out |= {name: given[name]
                for name in ("units", "units_length")} if self._task != "avatar" else {}
        out |= self._sound(params, given, out["voices"], keys)
        if self._task != "speech":
            clips = [np.zeros((1, 0, *given["reference"].shape[1:]), np.float32)]
            for made in self._video(params, given, keys, length // 2):
                clips.append(made)
                yield None, min(2 * self._frames * (len(clips) - 1), length) / UNIT_RATE
            out |= {"latents": np.concatenate(clips, axis=1),
                    "latents_length": np.array([length // 2], np.int32)}
        yield jax.device_get(out), length / UNIT_RATE

    def _video(self, params, given, keys, frames: int) -> Iterator[np.ndarray]:
        """(1, F, S, h, w, C) of every clip."""
        *always, before = self._begin(params, given, keys)
        for k in range(-(-frames // self._frames)):
            made_NFhwC = self._clip(params, k, *always, before)
            before = made_NFhwC[:, -self._before:]
            yield np.moveaxis(np.asarray(made_NFhwC), 0, 1)[None]
