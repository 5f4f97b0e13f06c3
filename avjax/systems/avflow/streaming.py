"""Chunk in, chunk out: AV-Flow's sampler on a stream that has not ended yet.

Every Euler step runs one look-ahead (the sum of the right windows) behind the step before it, on a
window that holds the left context, so what comes out equals the offline sampler's result; it comes
`look_ahead(config)` frames late. The state is a pytree of fixed shapes; one compiled function does
every chunk.

Suffixes: B batch, C condition width, X state width, W window (left + chunk + right), S Euler steps,
N chunk.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Batch, Chunk, Params, System
from avjax.systems.avflow.config import look_ahead, receptive_field
from avjax.systems.avflow.noise import frame_noise

CHUNK = 64  # frames (0.74 s) that a single prompt is streamed by
MASK = "mask"


class StreamingSampler:
    """Feeds chunks of conditions to a System; `keys` (batch,) as in `System.generate`, whose noise
    it reproduces."""

    def __init__(self, system: System, params: Params, keys: jax.Array, *, chunk: int):
        if not can_stream(system.config):
            raise UserError("the cascade cannot stream: its face waits for the finished speech",
                            where="config.system.fusion", expected="highway | separate | shared",
                            found="cascaded")
        self.system, self.params, self.keys, self.chunk = system, params, keys, chunk
        self.steps = system.config.euler_steps
        # frames between a condition and its output
        self.delay = look_ahead(system.config, self.steps)[0]
        self._step = compiled(system, chunk, self.steps)
        c = system.config
        left, right = receptive_field(c)
        window = left + self.chunk + right
        batch = self.keys.shape[0]
        width = c.face_dim + c.head_dim + c.mel_dim
        late = window + (self.steps - 1) * right
        condition = sum(spec.shape[-1] for name, spec in self.system.conditions_spec.items() if name
                        != MASK)
        self.state = {"states": jnp.zeros((self.steps, batch, window, width)),
                      "condition": jnp.zeros((batch, late, condition)),
                      "segments": jnp.zeros((batch, late), jnp.int32),
                      "frame": jnp.zeros((), jnp.int32)}
        # where the parameters are, as it will be after a step: else the second one compiles again
        leaf = jax.tree.leaves(params)[0]
        if isinstance(leaf, jax.Array):
            self.state = jax.device_put(self.state, leaf.sharding)
        self.given = self.returned = 0

    def feed(self, conditions: Batch) -> dict[str, np.ndarray]:
        """Conditions of exactly `chunk` frames, all real -> streams that are final by now (0 to
        `chunk` frames)."""
        condition_BNC = self.system.condition(conditions)
        if condition_BNC.shape[1] != self.chunk:
            raise UserError("streaming chunk", expected=f"{self.chunk} frames",
                            found=f"{condition_BNC.shape[1]} frames",
                            hint="use finish() for a shorter last chunk")
        self.given += self.chunk
        return self._advance(condition_BNC, self.chunk)

    def finish(self, conditions: Batch | None = None) -> dict[str, np.ndarray]:
        """The last, possibly shorter chunk; returns everything still owed."""
        parts = list(self.finishing(conditions))
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def finishing(self, conditions: Batch | None = None) -> Iterator[dict[str, np.ndarray]]:
        """`finish`, chunk by chunk; at least one."""
        frames = 0 if conditions is None else frames_of(conditions)
        if frames > self.chunk:
            raise UserError("streaming chunk", expected=f"at most {self.chunk} frames",
                            found=f"{frames} frames",
                            hint="feed() complete chunks first")
        self.given += frames
        batch, _, width = self.state["condition"].shape
        nothing_BNC = np.zeros((batch, self.chunk, width), np.float32)
        condition_BNC = (nothing_BNC if conditions is None
                         else self.system.condition(filled(conditions, self.chunk)))
        if self.returned >= self.given:
            yield self._split(np.zeros((batch, 0, self.state["states"].shape[-1]), np.float32))
        while self.returned < self.given:
            yield self._advance(condition_BNC, frames)
            condition_BNC, frames = nothing_BNC, 0

    def _advance(self, condition_BNC, real: int):
        self.state, x1_BNX = self._step(self.params, self.keys, self.state, condition_BNC, real)
        # of the returned chunk; negative while filling up
        first = int(self.state["frame"]) - self.delay - self.chunk
        start = max(0, -first)
        stop = max(start, min(self.chunk, self.given - first))
        self.returned += stop - start
        return self._split(np.asarray(x1_BNX)[:, start:stop])  # a slice on a device is compiled

    def _split(self, x1_BTX: np.ndarray):
        c = self.system.config
        face, head, mel = np.split(x1_BTX, [c.face_dim, c.face_dim + c.head_dim],
                                   axis=-1)
        return {"mel": mel, "face": face, "head": head}


def can_stream(config) -> bool:
    """Not the cascade, whose face waits for the finished speech."""
    return config.fusion != "cascaded"


def stream(system: System, params: Params, prompts: Iterable[Batch], keys: jax.Array,
           task: str = "") -> Iterator[Chunk]:
    """See avjax.systems.api.System. Of several prompts each is a chunk, the last may be shorter; a
    single one is cut into chunks of `CHUNK` frames. All rows of a batch are equally long."""
    prompts = map(real, prompts)
    first = next(prompts)
    second = next(prompts, None)
    if second is None:
        pieces = cut(first, CHUNK)
        chunk = CHUNK
    else:
        pieces = itertools.chain((first, second), prompts)
        chunk = frames_of(first)
    sampler = StreamingSampler(system, params, keys, chunk=chunk)

    def made() -> Iterator[dict[str, np.ndarray]]:
        for piece in pieces:
            if frames_of(piece) < chunk:
                yield from sampler.finishing(piece)
                return
            yield sampler.feed(piece)
        yield from sampler.finishing()

    for streams in made():
        yield Chunk(streams, sampler.returned / system.config.frame_rate)


def real(conditions: Batch) -> Batch:
    """Conditions without their mask and without the frames that it hides. UserError for rows of
    different lengths."""
    lengths = np.sum(np.asarray(conditions[MASK]) > 0, axis=1)
    if len(set(lengths.tolist())) > 1:
        raise UserError("rows of different lengths cannot be streamed together", where=MASK,
                        expected="equally many frames in every row", found=str(lengths.tolist()),
                        hint="stream them one by one")
    given = {name: x for name, x in conditions.items() if name != MASK}
    return sliced(given, 0, int(lengths[0]))


def cut(conditions: Batch, chunk: int) -> Iterator[Batch]:
    """Consecutive pieces of at most `chunk` frames."""
    for first in range(0, frames_of(conditions), chunk):
        yield sliced(conditions, first, first + chunk)


def sliced(conditions: Batch, first: int, end: int) -> Batch:
    """Frames first..end - 1 of what has a time axis, (batch, time, width)."""
    return {name: x[:, first:end] if np.ndim(x) == 3 else x for name, x in conditions.items()}


def filled(conditions: Batch, frames: int) -> Batch:
    """Zeros behind what has a time axis, up to so many frames, so that nothing is compiled for the
    last chunk."""
    return {name: np.pad(x, ((0, 0), (0, frames - x.shape[1]), (0, 0))) if np.ndim(x) == 3 else x
            for name, x in conditions.items()}


def frames_of(conditions: Batch) -> int:
    return conditions["tokens"].shape[1]


@functools.lru_cache(maxsize=16)
def compiled(system: System, chunk: int, steps: int):
    """Kept, so that later streams compile nothing."""
    return jax.jit(functools.partial(advance, system, chunk=chunk, steps=steps))


def advance(system: System, params, keys, state, condition_BNC, real, *, chunk: int, steps: int):
    """One chunk through all Euler steps. `real`: how many of its frames exist. -> new state, (B, N,
    X) at t = 1."""
    left, right = receptive_field(system.config)
    window = left + chunk + right
    first = state["frame"]
    condition = jnp.concatenate([state["condition"][:, chunk:], condition_BNC], axis=1)
    fresh = jnp.broadcast_to(jnp.arange(chunk) < real, condition_BNC.shape[:2]).astype(jnp.int32)
    segments = jnp.concatenate([state["segments"][:, chunk:], fresh], axis=1)
    width = state["states"].shape[-1]
    noise_BNX = system.config.temperature * jax.vmap(
        lambda key: frame_noise(key, first + jnp.arange(chunk), width))(keys)

    def step(new_BNX, inputs):
        s, buffer_BWX, modulations = inputs
        buffer_BWX = jnp.concatenate([buffer_BWX[:, chunk:], new_BNX], axis=1)
        # step s works `s * right` frames behind the newest condition
        start = condition.shape[1] - window - s * right
        here = jax.lax.dynamic_slice_in_dim(condition, start, window, axis=1)
        seen = jax.lax.dynamic_slice_in_dim(segments, start, window, axis=1)
        velocity = system.step_velocity(params, seen, buffer_BWX, here, modulations=modulations)
        done = slice(left, left + chunk)
        return buffer_BWX[:, done] + velocity[:, done] / steps, buffer_BWX

    per_step = system.step_modulations(params, steps)
    x1_BNX, buffers = jax.lax.scan(step, noise_BNX, (jnp.arange(steps), state["states"], per_step))
    new = {"states": buffers, "condition": condition, "segments": segments, "frame": first + chunk}
    return new, x1_BNX
