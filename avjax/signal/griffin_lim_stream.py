"""Griffin-Lim on log-mel that has not ended yet: sound leaves as soon as its frames are there.

Griffin-Lim goes back and forth over a whole utterance, so its sound at any instant depends on all
of it. Here frames are inverted `block` at a time, in the manner of RTISI-LA (Zhu, Beauregard & Wyse
2007): sound that has left is fixed, and of the sound before a block only what its frames overlap,
n_fft - hop samples, matters. `ahead` frames after a block are inverted with it and then again in
their own turn, from the phases they have by then.

What comes out is not what `griffin_lim.waveform` makes, but it is the same however the frames are
fed, and a sample depends on no frame later than `look_ahead` says.

Suffixes: T frames, W frames of a window, K frequency bins, M mel bands, N samples.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avjax.signal import griffin_lim
from avjax.signal import mel as mel_lib

MOMENTUM = 0.99
ITERATIONS = 32


class State(NamedTuple):
    """Of a window: the frames that overlap sound which has left, the block and the frames ahead.

    Attributes:
      magnitude_WK, spectrum_WK: magnitudes, and the complex spectrum that is their best so far, of
        the frames that the next window begins with.
      sound_N: the last n_fft - hop samples that have left.
    """

    magnitude_WK: jax.Array
    spectrum_WK: jax.Array
    sound_N: jax.Array


class StreamedGriffinLim:
    """`feed` takes log-mel and returns the sound that is final by then, `finish` the rest; together
    as many samples as `griffin_lim.waveform` makes.

    Args:
      recipe: of the mel.
      block: frames inverted at a time, >= 1.
      ahead: frames after a block that help to invert it, >= 0.
      iterations: of each window.
    """

    def __init__(self, recipe: dict = mel_lib.RECIPE, *, block: int = 1, ahead: int = 0,
                 iterations: int = ITERATIONS):
        self.recipe, self.block, self.ahead, self.iterations = recipe, block, ahead, iterations
        self.hop = recipe["hop"]
        self._lost = (recipe["n_fft"] - self.hop) // 2  # samples before the first frame's own
        self._waiting = np.zeros((0, recipe["bands"]), np.float32)
        self._state = silent(recipe, ahead)
        self._given = self._made = 0  # frames, samples
        self._skipped = -self._lost - ahead * self.hop  # samples made of nothing before the first

    @property
    def look_ahead(self) -> float:
        """Frames after an instant that its sound depends on, at most; a frame is at its centre."""
        return self.block + self.ahead + self._lost / self.hop - 0.5

    def feed(self, log_mel_TM: np.ndarray) -> np.ndarray:
        """(T, M) log-mel, not normalised -> (N,) float32 samples in [-1, 1]. UserError on another
        shape or on values that are not finite."""
        log_mel_TM = np.asarray(log_mel_TM, np.float32)
        if not len(log_mel_TM):
            return np.zeros(0, np.float32)
        log_mel_TM = mel_lib.checked(log_mel_TM, self.recipe["bands"], "the streamed Griffin-Lim")
        self._given += len(log_mel_TM)
        return self._advance(log_mel_TM)

    def finish(self) -> np.ndarray:
        """The sound that is still owed, followed by silence as far as it looks ahead."""
        owed = self._given * self.hop - self._made
        if owed <= 0:
            return np.zeros(0, np.float32)
        frames = int(np.ceil(self.look_ahead)) + self.block
        silence_TM = np.full((frames, self.recipe["bands"]), mel_lib.FLOOR, np.float32)
        return self._advance(silence_TM)[:owed]

    def _advance(self, log_mel_TM) -> np.ndarray:
        waiting_TM = np.concatenate([self._waiting, log_mel_TM])
        count = len(waiting_TM) // self.block
        ready_TM, self._waiting = np.split(waiting_TM, [count * self.block])
        parts = [np.zeros(0, np.float32)]
        advance = compiled(self.block, self.iterations, tuple(self.recipe.items()))
        for part_TM in ready_TM.reshape(count, self.block, self.recipe["bands"]):
            self._state, audio_N = advance(self._state, np.clip(part_TM, mel_lib.FLOOR, 5.0))
            parts.append(np.asarray(audio_N))
        audio_N = np.concatenate(parts)
        if self._skipped < 0 and len(audio_N):
            drop = min(-self._skipped, len(audio_N))
            self._skipped += drop
            audio_N = audio_N[drop:]
        self._made += len(audio_N)
        return audio_N


def silent(recipe: dict, ahead: int) -> State:
    """Before the first frame."""
    overlap = recipe["n_fft"] - recipe["hop"]
    frames = overlap // recipe["hop"] + ahead
    shape = (frames, recipe["n_fft"] // 2 + 1)
    return State(jnp.zeros(shape), jnp.zeros(shape, jnp.complex64), jnp.zeros(overlap))


@functools.lru_cache(maxsize=16)
def compiled(block: int, iterations: int, recipe_items: tuple):
    """Kept, so that later streams compile nothing."""
    return jax.jit(functools.partial(advance, block=block, iterations=iterations,
                                     recipe=dict(recipe_items)))


def advance(state: State, log_mel_TM, *, block: int, iterations: int, recipe: dict):
    """(block, M) new frames -> new state, (block * hop,) samples that are final, the first of which
    follow those that the state remembers."""
    hop, overlap = recipe["hop"], recipe["n_fft"] - recipe["hop"]
    fresh_TK = griffin_lim.magnitudes(log_mel_TM, recipe=recipe)
    magnitude_WK = jnp.concatenate([state.magnitude_WK, fresh_TK])
    # silence has no spectrum whose phase could be gone on from
    known_WK = jnp.where(jnp.abs(state.spectrum_WK) > 0, state.spectrum_WK, 1.0)
    start_WK = magnitude_WK * unit(jnp.concatenate(
        [known_WK, continued(known_WK[-1], fresh_TK, recipe)]))

    def with_magnitude(spectrum_WK):
        return magnitude_WK * unit(spectrum_WK)

    def sound(spectrum_WK):
        audio_N = griffin_lim.istft(with_magnitude(spectrum_WK), recipe)
        return jnp.concatenate([state.sound_N, audio_N[overlap:]])

    def step(carry, _):
        spectrum_WK, previous_WK = carry
        consistent_WK = griffin_lim.stft(sound(spectrum_WK), recipe)
        return (consistent_WK + MOMENTUM * (consistent_WK - previous_WK), consistent_WK), None

    (spectrum_WK, _), _ = jax.lax.scan(step, (start_WK, start_WK), length=iterations)
    audio_N = sound(spectrum_WK)[:overlap + block * hop]
    new = State(magnitude_WK[block:], with_magnitude(spectrum_WK)[block:], audio_N[block * hop:])
    return new, jnp.clip(audio_N[overlap:] * recipe["gain"], -1.0, 1.0)


def unit(spectrum_WK):
    """Of the same phases."""
    return spectrum_WK / jnp.maximum(jnp.abs(spectrum_WK), 1e-8)


def continued(last_K, magnitude_TK, recipe: dict):
    """Unit spectra of frames that go on from the phases of the one before them, each bin at the
    frequency of its nearest peak."""
    phases_TK = griffin_lim.peak_phases(magnitude_TK, recipe)
    # `peak_phases` begins with one advance from nought
    offset_K = jnp.angle(last_K) - jnp.pi * (jnp.arange(last_K.shape[-1]) % 2)
    return jnp.exp(1j * (phases_TK + offset_K))
