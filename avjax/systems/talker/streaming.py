"""Talker-T2AV patch by patch: the sampler's slots, handed out as they are made.

What comes out equals `System.generate` with the same keys. Patches that the stop head may still
take back (see `trim_stop` of the config) are held until it has decided; otherwise a patch leaves as
soon as its slot is done.
"""

import itertools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from avjax.systems.api import Batch, Chunk, Params, System, Utterance
from avjax.systems.talker import sampler, several
from avjax.systems.talker.config import MAKES
from avjax.systems.talker.several import STREAMS, compiled


class StreamingSampler:
    """The parameters are prepared once; `result` is what `generate` returns, after the last
    chunk."""

    def __init__(self, system: System, params: Params, task: str = "t2av"):
        self._compiled = compiled(system, task)
        self._ready = self._compiled.prepare(params)
        self._check = lambda conditions: sampler.check_conditions(system, conditions, task)

    def stream(self, conditions: Batch, keys: jax.Array) -> Iterator[dict[str, list[np.ndarray]]]:
        """Conditions and keys of `System.generate` -> after each slot {"audio": [(frames, A) of
        each row], "motion": [(frames, M) of each row]}: what is new, 0 frames where there is
        nothing. Prefixes come out as well. UserError for conditions that do not fit."""
        self._check(conditions)
        given, state = self._compiled.begin(self._ready, conditions, keys)
        rows = range(len(keys))
        over = np.zeros(len(keys), bool)
        returned = {name: np.zeros(len(keys), int) for name in STREAMS}
        while not np.all(over):
            state, frames, over = self._compiled.advance(self._ready, given, state)
            chunk = {}
            for name, until in jax.device_get(frames).items():
                made = np.asarray(state["made"][name])
                made = made.reshape(len(keys), -1, made.shape[-1])
                # copies: the next slot writes over the state
                chunk[name] = [made[b, returned[name][b]:max(until[b], returned[name][b])].copy()
                               for b in rows]
                returned[name] = np.maximum(returned[name], until)
            yield chunk
        self.result = self._compiled.finish(given, state)


def stream(system: System, params: Params, prompts: Iterable[Batch], keys: jax.Array,
           task: str) -> Iterator[Chunk]:
    """See avjax.systems.api.System. A batch advances with its slowest row; the last chunk brings
    the lengths and the stop logits. Several pieces, of a batch of one: see `several`."""
    prompts = iter(prompts)
    conditions = next(prompts)
    if (second := next(prompts, None)) is not None:
        pieces = itertools.chain((conditions, second), prompts)
        made = several.stream(system, params, [Utterance(pieces, keys)], task, 1)
        yield from (chunk for _, chunk in made if chunk is not None)
        return
    sampling = StreamingSampler(system, params, task)
    prefix = {name: int(np.min(conditions[f"{name}_length"])) if f"{name}_length" in conditions
              else 0 for name in MAKES[task]}
    returned = dict.fromkeys(STREAMS, 0)
    held: dict[str, list] = {}

    def seconds() -> float:
        made = min(returned[name] - frames for name, frames in prefix.items())
        return max(made, 0) / system.config.frame_rate

    for chunk in sampling.stream(conditions, keys):
        held = {name: [np.concatenate(pair) for pair in zip(held[name], rows, strict=True)]
                if held else rows for name, rows in chunk.items()}
        new = {}
        for name, rows in held.items():
            count = min(map(len, rows))
            new[name] = np.stack([row[:count] for row in rows])
            held[name] = [row[count:] for row in rows]
            returned[name] += count
        yield Chunk(new, seconds())
    result = jax.device_get(sampling.result)
    for name in STREAMS:  # rows that ended earlier are padded with zeros
        end = int(result[f"{name}_length"].max())
        result[name] = result[name][:, returned[name]:max(end, returned[name])]
        returned[name] = max(end, returned[name])
    yield Chunk(result, seconds())
