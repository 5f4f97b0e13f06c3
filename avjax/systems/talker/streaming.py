"""Talker-T2AV patch by patch: the sampler's slots, handed out as they are made.

What comes out equals `System.generate` with the same keys. Patches that the stop head may still
take back (see `trim_stop` of the config) are held until it has decided; otherwise a patch leaves as
soon as its slot is done.
"""

from collections.abc import Iterator

import jax
import numpy as np

from avjax.systems.talker import sampler
from avjax.systems.talker.system import System


class StreamingSampler:
    """Compiled once a task and shape of conditions: one call for the prompts, one for a slot, its
    cache donated. The parameters are prepared once; `result` is what `generate` returns, after the
    last chunk."""

    def __init__(self, system: System, params, task: str = "t2av"):
        self._ready = jax.jit(lambda params: sampler.prepare(system, params, task))(params)

        def begin(ready, conditions, keys):
            noise = sampler.draw(system, keys, sampler.patches(system, conditions, task))
            return sampler.begin(system, ready, conditions, task, noise)

        def advance(ready, given, state):
            state = sampler.advance(system, ready, given, state, task)
            return state, sampler.settled(system, given, state, task), sampler.finished(state).all()

        self._check = lambda conditions: sampler.check_conditions(system, conditions, task)
        self._begin, self._advance = jax.jit(begin), jax.jit(advance, donate_argnums=2)
        self._finish = jax.jit(lambda given, state: sampler.streams(system, given, state, task))

    def stream(self, conditions, keys) -> Iterator[dict[str, list[np.ndarray]]]:
        """Conditions and keys of `System.generate` -> after each slot {"audio": [(frames, A) of
        each row], "motion": [(frames, M) of each row]}: what is new, 0 frames where there is
        nothing. Prefixes come out as well. UserError for conditions that do not fit."""
        self._check(conditions)
        given, state = self._begin(self._ready, conditions, keys)
        rows, over = range(len(keys)), False
        returned = {name: np.zeros(len(keys), int) for name in ("audio", "motion")}
        while not over:
            state, frames, over = self._advance(self._ready, given, state)
            chunk = {}
            for name, until in jax.device_get(frames).items():
                made = np.asarray(state["made"][name])
                made = made.reshape(len(keys), -1, made.shape[-1])
                # copies: the next slot writes over the state
                chunk[name] = [made[b, returned[name][b]:max(until[b], returned[name][b])].copy()
                               for b in rows]
                returned[name] = np.maximum(returned[name], until)
            yield chunk
        self.result = self._finish(given, state)
