"""TAVID's `generate` step by step: the units, the sound, then the video clip by clip, told of as it is made.

What comes out equals `System.generate` with the same keys, but nothing is spent on frames that the text does not need:
`generate` must make room for the longest answer and fills all of it. One dialogue at a time.

Suffixes: N = speakers, R motion frames, M motion tokens, K their width, h w C latents.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from avjax.systems.tavid.acoustic.expand import UNIT_RATE
from avjax.systems.tavid.system import System, _even
from avjax.systems.tavid.visual import sampler

CLIPS = 6  # lengths are padded to multiples of so many clips, so that few shapes are compiled; a clip is compiled once


class DialogueSampler:
    """Holds what is compiled for one task of a System."""

    def __init__(self, system: System, params, task: str = "dialogue"):
        self._task, self._params = task, params
        visual = system.parts["visual"]
        self._frames, self._before = visual.config.clip, visual.config.unet.motion_frames
        number = list(system.parts).index("visual")

        def begin(params, conditions, keys):
            """What every clip is given, and the frames before the first."""
            S = conditions["units"].shape[2]
            keys = jax.random.fold_in(keys[0], number)
            reference_NhwC = conditions["reference"][0]
            first = jnp.where(conditions["has_first"][0] > 0, conditions["first_motion"][0],
                              jnp.repeat(reference_NhwC[:, None], self._before, axis=1))
            tokens = sampler.motion_tokens(visual, params["visual"], conditions["units"], conditions["units_length"])
            faces = sampler.face_tokens(visual, params["visual"], conditions["faces"][0])
            return reference_NhwC, faces, tokens, jax.vmap(lambda s: jax.random.fold_in(keys, s))(jnp.arange(S)), first

        def clip(params, k, reference_NhwC, faces, tokens, keys_N, before_NRhwC):
            tokens = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, k * self._frames, self._frames, 1), tokens)
            keys_N = jax.vmap(lambda key: jax.random.fold_in(key, k))(keys_N)
            return sampler.sample_clip(visual, params["visual"], reference_NhwC, faces, tokens, before_NRhwC, keys_N)

        self._units = jax.jit(lambda params, given, keys: _even(system._run("text", params, given, keys)))
        self._sound = jax.jit(lambda params, given, keys: system._run("acoustic", params, given, keys))
        self._voices, self._begin, self._clip = jax.jit(system.voices), jax.jit(begin), jax.jit(clip)

    def stream(self, conditions, keys) -> Iterator[tuple[dict | None, float]]:
        """Conditions and keys of `System.generate` for a batch of one -> (None, seconds made) as they are made, last (what
        `generate` returns, all seconds). Streams are as long as they are, up to padding."""
        given = dict(conditions)
        if self._task != "avatar":
            given |= self._units(self._params, conditions, keys)
        length = int(given["units_length"][0])
        padded = 2 * self._frames * CLIPS
        padded = -(-max(length, 1) // padded) * padded
        units = np.asarray(given["units"])[:, :padded]
        given["units"] = np.pad(units, ((0, 0), (0, padded - units.shape[1]), (0, 0)))
        out = {"voices": self._voices(self._params, given)}
        out |= {name: given[name] for name in ("units", "units_length")} if self._task != "avatar" else {}
        out |= self._sound(self._params, given | {"voices": out["voices"], "prompt": None}, keys)
        if self._task != "speech":
            clips = [np.zeros((1, 0, *given["reference"].shape[1:]), np.float32)]
            for made in self._video(given, keys, length // 2):
                clips.append(made)
                yield None, min(2 * self._frames * (len(clips) - 1), length) / UNIT_RATE
            out |= {"latents": np.concatenate(clips, axis=1), "latents_length": np.array([length // 2], np.int32)}
        yield jax.device_get(out), length / UNIT_RATE

    def _video(self, given, keys, frames: int) -> Iterator[np.ndarray]:
        """(1, F, S, h, w, C) of every clip."""
        *always, before = self._begin(self._params, given, keys)
        for k in range(-(-frames // self._frames)):
            made_NFhwC = self._clip(self._params, k, *always, before)
            before = made_NFhwC[:, -self._before:]
            yield np.moveaxis(np.asarray(made_NFhwC), 0, 1)[None]
