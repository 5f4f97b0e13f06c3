"""The contract between a paper's model and the rest of the codebase.

A *System* is one trainable thing. The loader makes batches of `batch_spec` from examples of
`example_spec`, the sharding rules place its parameters, the loop differentiates `loss`, the
generator calls `generate`, `steps` or `stream`; none of them knows which paper it is.
docs/adding_a_system.md builds one from nothing.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from ml_collections import FrozenConfigDict

from avjax.systems import registry

Params = Any  # a pytree of arrays, named as flax names them
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Spec:
    """One named array of a batch, a condition or an output stream.

    Attributes:
      shape: leads with the axis names "batch" and, for sequences, "time"; other entries are sizes.
      dtype: a numpy dtype's name.
      meaning: what the array holds, for error messages and tables.
      unit: of its numbers.
      rate: frames per second of anything with a time axis.
      recipe: the exact definition of the feature (sample rate, FFT size, normalisation, ...) that a
        feature shard must have been made with; None accepts any.
      sequence: the axis that is a sequence where its size is fixed and so has no name ("time" is
        one without being marked): the mesh axis `seq` splits it. A shape alone cannot say which of
        its sizes is time, and two sequences of a row (tokens, patches) have different lengths.
      granularity: so many consecutive entries of the sequence are never split (the two units of a
        video frame).
      speaker_axis: the axis that counts a conversation's speakers, batch axis included; None where
        the array belongs to one speaker or to all.
    """

    shape: tuple[str | int, ...]
    dtype: str
    meaning: str
    unit: str = ""
    rate: float | None = None
    recipe: dict | None = None
    sequence: int | None = None
    granularity: int = 1
    speaker_axis: int | None = None

    @property
    def sequence_axis(self) -> int | None:
        """Which axis the mesh axis `seq` splits, if any."""
        return (self.shape.index("time") if self.sequence is None and "time" in self.shape
                else self.sequence)

    def resolve(self, **sizes: int) -> jax.ShapeDtypeStruct:
        """The concrete shape, e.g. `spec.resolve(batch=8, time=172)`."""
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in self.shape)
        return jax.ShapeDtypeStruct(shape, np.dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What a stream made since its last chunk.

    Attributes:
      streams: {stream: new frames, batch axis first}; empty where only progress is reported.
        Concatenated along time, a stream's chunks are what `generate` returns of it.
      seconds: how much has been made so far, this chunk included.
    """

    streams: dict[str, np.ndarray]
    seconds: float


class Utterance(NamedTuple):
    """One of several that are streamed at once.

    Attributes:
      prompts, keys: as `System.stream` takes them, a batch of one.
      frames: the most that may be made of one of its prompts; 0 = all that there is room for.
    """

    prompts: Iterable[Batch]
    keys: jax.Array
    frames: int = 0


class Rows:
    """How a System that trains on complete examples lays them out in a batch's rows. All numpy, all
    pure. By default an example fills a row.

    A row is one entry of the batch axis and holds one or several examples, as many as fit. Where a
    System has no `rows`, the loader cuts a random segment of `config.data.segment` frames out of
    every example instead.
    """

    # what a row holds of each resource, e.g. {"tokens": 512, "patches": 128}
    capacity = {"examples": 1}
    # other ways to see examples, which a source of a mixture may ask for (config.data.mixture)
    views: tuple[str, ...] = ()
    # whether examples of one speaker will do where the System's have several
    one_speaker = False

    def view(self, name: str) -> "Rows":
        """The rows of a source whose examples are seen as one of `views`."""
        raise NotImplementedError

    def cost(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """What an example takes of each resource, from the lengths of its sequence features."""
        return {"examples": 1}

    def kind(self, lengths: Mapping[str, int]) -> str:
        """Examples of all kinds are drawn equally often: the smaller sets are repeated."""
        return ""

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of the batch (no batch axis) from examples that fit; `rng` decides random
        crops."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Turn:
    """One update of several within a step: some parameters, by a loss of their own, at the
    parameters as the turns before have left them.

    Attributes:
      name: of it, in metrics and in `System.turn_loss`.
      groups: the subtrees (entries of the top level of the parameters) that it updates. Each is
        clipped by its own norm. Every entry belongs to one turn.
      begins: the step from which it is taken; what it updates stays as it is before.
    """

    name: str
    groups: tuple[str, ...]
    begins: int = 0


class System:
    """Base class of every paper's model. Built once from its config by `build`; holds no arrays.

    A subclass sets the specs and `param_rules` and defines `init`, `loss`, `conditions` and
    `generate`. The rest are optional abilities with defaults.

    Attributes:
      batch_spec: what `loss` takes.
      example_spec: what a dataset's examples must hold for that.
      conditions_spec: what `generate` takes.
      streams_spec: what `generate` returns.
      param_rules: (regex over an "a/b/c" path, mesh axes per dimension); exactly one must match.
      tasks: what `generate` can be asked for; the first is the default.
      makes: {task: streams that it makes}; others that it returns are copies of its conditions.
      rows: how complete examples are packed; None trains on random segments.
      turns: how a step updates groups of parameters one after the other; () updates all at once.
        The last one's loss is the one that is reported and watched.
    """

    batch_spec: dict[str, Spec]
    example_spec: dict[str, Spec]
    conditions_spec: dict[str, Spec]
    streams_spec: dict[str, Spec]
    param_rules: tuple[tuple[str, tuple], ...]
    tasks: tuple[str, ...] = ("generate",)
    makes: Mapping[str, tuple[str, ...]] = {}
    rows: Rows | None = None
    turns: tuple[Turn, ...] = ()

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters (float32)."""
        raise NotImplementedError

    def loss(self, params: Params, batch: Batch,
             key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scalar loss and scalar metrics. Pure; `key` is the only randomness."""
        raise NotImplementedError

    def shared(self, params: Params, batch: Batch, key: jax.Array) -> Any:
        """What the losses of several turns need, made once a step from the parameters before it;
        float arrays. Gradients of the turns go through it."""
        return ()

    def turn_loss(self, turn: str, params: Params, shared: Any, batch: Batch, key: jax.Array,
                  step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As `loss`, of one turn; `params` are those that the turns before have left, `step` counts
        from 0. Metrics of different turns have different names, but for "loss"."""
        raise NotImplementedError

    def conditions(self, example: Mapping[str, Any],
                   task: str) -> tuple[dict[str, np.ndarray], int]:
        """(conditions of `generate` for one example of a dataset, without batch axis; frames to
        make room for). The caller pads the axes that `conditions_spec` names ("time" to at least
        that number) and adds "mask"."""
        raise NotImplementedError

    def generate(self, params: Params, conditions: Batch, keys: jax.Array, task: str = "") -> Batch:
        """Streams for a batch of conditions; `keys` is (batch,) typed keys, one an example, so that
        an example's noise does not depend on its neighbours or on padding. Pure and jittable. A
        System that decides lengths itself has no "mask" among its conditions, and "<stream>_length"
        (batch,) int32 says how many frames are real."""
        raise NotImplementedError

    def steps(self, task: str) -> Callable[..., Iterator[Chunk]] | None:
        """A function of a batch of one's (params, conditions, keys) that does what `generate` does
        in steps driven from the host, and yields the chunks of `stream`. Where there is one it is
        used instead: nothing is spent on, or compiled for, the longest answer that `generate` must
        make room for."""
        return None

    def can_stream(self, task: str) -> bool:
        """Whether `stream` can do this task under this config."""
        return False

    def look_ahead(self, task: str) -> tuple[float, float] | None:
        """(frames of conditions after a frame that what `stream` makes for it depends on, frames a
        second); None where that is all of them."""
        return None

    def stream(self, params: Params, prompts: Iterable[Batch], keys: jax.Array,
               task: str) -> Iterator[Chunk]:
        """The streams of `generate` in chunks, each as soon as it is made. Arrays without a time
        axis ("<stream>_length" among them) may come in any chunk; the last one that comes counts.

        Args:
          prompts: batches of conditions; one for most systems, consecutive pieces where a long
            input is read piece by piece.
          keys: (batch,) typed keys, as for `generate`.
        """
        raise NotImplementedError(f"{type(self).__module__} does not stream {task!r}")

    def stream_several(self, params: Params, utterances: Iterable[Utterance], task: str,
                       rows: int) -> Iterator[tuple[int, Chunk | None]]:
        """`stream` of several at once: (number of the utterance, chunk) as they are made; an empty
        chunk when it begins, None after its last. Each one's chunks join to what it makes alone. At
        most `rows` are under way, and the next begins when one has ended. Here they take turns; a
        System that can advance them as one batch overrides it."""
        waiting = enumerate(utterances)
        running: dict[int, Iterator[Chunk]] = {}
        while True:
            for number, one in itertools.islice(waiting, rows - len(running)):
                yield number, Chunk({}, 0.0)
                running[number] = self.stream(params, one.prompts, one.keys, task)
            if not running:
                return
            for number, chunks in list(running.items()):
                chunk = next(chunks, None)
                if chunk is None:
                    del running[number]
                yield number, chunk


def build(config) -> System:
    """The System that `config.name` picks: the class `System` of `avjax.systems.<name>`."""
    return registry.load(config.name)(config)


_DRAWN: dict[Any, tuple[Params, Callable, Callable]] = {}  # see `_drawn`; the newest last
_KEPT = 16


def abstract_params(system: System) -> Params:
    """Shapes of a system's parameters, without computing them. Traced once a config."""
    return jax.tree.map(lambda x: x, _drawn(system)[0])  # the caller's own tree


def params_keys(system: System, key: jax.Array) -> list[np.ndarray]:
    """The data of the keys that `system.init` derives from a typed key: what `params_of` takes. A
    program that derives them itself takes up to 1.7 times as long to compile on a CPU."""
    return [np.asarray(jax.random.key_data(k)) for k in _drawn(system)[1](key)]


def params_of(system: System, keys: Sequence[jax.Array]) -> Params:
    """What `system.init` makes of the key that `params_keys` was given, without the network's first
    pass. Pure and jittable; shares its trace with `abstract_params`."""
    shapes, _, draw = _drawn(system)
    return jax.tree.unflatten(jax.tree.structure(shapes),
                              draw(*map(jax.random.wrap_key_data, keys)))


def new_params(system: System, seed: int = 0) -> Params:
    """The parameters that a training with this seed begins with, on the default device."""
    return jax.jit(functools.partial(params_of, system))(params_keys(system, jax.random.key(seed)))


def _drawn(system: System) -> tuple[Params, Callable, Callable]:
    """(shapes; a key -> the keys derived from it; these -> the leaves). Kept by the config, since
    jobs build a system several times; a system of another making by itself."""
    config = getattr(system, "config", None)
    known = (type(system), config) if isinstance(config, FrozenConfigDict) else system
    if known not in _DRAWN:
        # no parameter depends on a mesh, and what is traced for one cannot be used on another
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            program, shapes = jax.make_jaxpr(system.init, return_shape=True)(jax.random.key(0))
        _DRAWN[known] = shapes, *_keys_and_draws(program)
        while len(_DRAWN) > _KEPT:
            del _DRAWN[next(iter(_DRAWN))]
    return _DRAWN[known]


def _keys_and_draws(program: ClosedJaxpr) -> tuple[Callable, Callable]:
    """`program`, of one key, as (a function of it that returns keys, a function of these)."""
    whole = program.jaxpr

    def part(**changes):
        return jaxpr_as_fun(ClosedJaxpr(whole.replace(**changes), program.consts))

    def is_key(x):
        return jax.dtypes.issubdtype(x.aval.dtype, jax.dtypes.prng_key)

    derive, draw = [], []
    for equation in _needed(whole.eqns, whole.outvars):
        (derive if all(map(is_key, equation.outvars)) else draw).append(equation)
    taken = _variables(x for equation in draw for x in equation.invars)
    keys = [x for x in (*whole.invars, *(x for equation in derive for x in equation.outvars))
            if x in taken]
    return (part(outvars=keys, eqns=_needed(whole.eqns, keys)),
            part(invars=keys, eqns=draw))


def _needed(equations: Sequence, results: Iterable) -> list:
    """Those of a program's equations that lead to the results, in order."""
    wanted, kept = _variables(results), []
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outvars):
            kept.append(equation)
            wanted |= _variables(equation.invars)
    return kept[::-1]


def _variables(atoms: Iterable) -> set:
    return {x for x in atoms if not isinstance(x, Literal)}


def example_batch(system: System, *, batch: int, time: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one training batch, without data."""
    return {name: spec.resolve(batch=batch, time=time) for name, spec in system.batch_spec.items()}


def bucket(length: int, quantum: int = 64) -> int:
    """Padded length: quantum times 1, 3/2, 2, 3, 4, 6, 8, ...: few shapes to compile, at most a
    third of it padding."""
    size = quantum
    while length > size * 3 // 2:
        size *= 2
    return size if length <= size else size * 3 // 2


def stream_names(system: System) -> tuple[str, ...]:
    """The streams of a system, without the lengths and other numbers that `generate` may return
    beside them: what has a time axis, and what a task says it makes."""
    made = {name for names in system.makes.values() for name in names}
    return tuple(name for name, spec in system.streams_spec.items() if "time" in spec.shape
                 or name in made)


def real_streams(system: System, out: Mapping[str, Any], row: int, frames: int) -> dict[str, Any]:
    """The streams that `generate` returned for one row of a batch, without padding:
    "<stream>_length" frames (or other entries) where the system says it, else `frames`."""
    def real(name):
        if f"{name}_length" in out:
            return out[name][row, :int(out[f"{name}_length"][row])]
        return out[name][row, :frames] if "time" in system.streams_spec[name].shape else (
            out[name][row])

    return {name: real(name) for name in stream_names(system) if name in out}
