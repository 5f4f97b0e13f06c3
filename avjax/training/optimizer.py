"""The update rule of config.optimizer: optax transformations, masked by parameter path.

The train step applies the learning rate by its step number; it is not part of the optimiser state,
so that a skipped update does not shift the schedule.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from avjax.errors import UserError
from avjax.sharding.rules import matches, named_leaves, path_name
from avjax.systems.api import Turn

SCHEDULES = ("constant", "cosine", "linear", "rsqrt", "exponential")
ALGORITHMS: dict[str, Callable] = {
    "adamw": lambda c: optax.scale_by_adam(b1=c.b1, b2=c.b2, eps=c.eps),
    "adam": lambda c: optax.scale_by_adam(b1=c.b1, b2=c.b2, eps=c.eps),
    "lion": lambda c: optax.scale_by_lion(b1=c.b1, b2=c.b2),
    "adafactor": lambda c: optax.scale_by_factored_rms(),
    "muon": lambda c: optax.contrib.muon(-1.0, adam_b1=c.b1, adam_b2=c.b2, consistent_rms=0.2,
                                         muon_weight_dimension_numbers=_matrices),
    "sgd": lambda c: optax.trace(decay=c.b1) if c.b1 else optax.identity(),
}


def _matrices(params):
    """Which axes Muon takes as a matrix's: of kernels of two axes and of convolutions, what they
    read and what they give. None: Adam, also of kernels of heads and of stacked layers, whose axes
    do not say which is which."""
    numbers = {2: optax.contrib.MuonDimensionNumbers(0, 1),
               4: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)}
    return jax.tree.map(lambda x: numbers.get(x.ndim), params)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The parameter change is -schedule(step) * direction.

    Attributes:
      transform: maps gradients to a direction.
      schedule: learning rate by step.
      trainable: tree of bool like the parameters.
      frozen_dtype: of frozen parameters of two axes and more, in the state.
      turns: of a system with turns, the transform of each by name; `transform` then makes the
        states of all, and updates none.
      rates: {turn: factor of the learning rate}; 1 where it is not named.
      whole_params: fsdp splits the optimiser state and the average, not the parameters.
    """

    transform: optax.GradientTransformation
    schedule: Callable[[jax.Array], jax.Array]
    trainable: Any
    frozen_dtype: str = "float32"
    turns: Mapping[str, optax.GradientTransformation] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    whole_params: bool = False


def make_schedule(config, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """The learning rate of update `step` (from 0): linear warm-up over w updates, then the named
    decay. cosine and linear reach `final_fraction` of the peak at `total_steps`; rsqrt is
    peak * sqrt(w / t); exponential multiplies by `decay` every update."""
    peak = float(config.learning_rate)
    warm = int(config.warmup_steps)
    final = float(config.final_fraction)
    if config.schedule not in SCHEDULES:
        raise UserError("unknown schedule", where="config.optimizer.schedule",
                        expected=", ".join(SCHEDULES), found=repr(config.schedule))
    if config.schedule == "rsqrt" and warm < 1:
        raise UserError("rsqrt needs a warm-up, which sets its scale",
                        where="config.optimizer.warmup_steps", expected=">= 1", found=str(warm))

    def schedule(step):
        t = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum(1.0, (t + 1) / max(warm, 1))
        done = jnp.clip((t - warm) / max(total_steps - warm, 1), 0.0, 1.0)
        decay = {"constant": lambda: 1.0,
                 "cosine": lambda: final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * done)),
                 "linear": lambda: final + (1 - final) * (1 - done),
                 # float32 has no .9999996
                 "exponential": lambda: jnp.exp(math.log(config.decay)
                                                * jnp.maximum(t - warm, 0.0)),
                 "rsqrt": lambda: jnp.sqrt(warm / jnp.maximum(t + 1, warm))}[config.schedule]()
        return jnp.asarray(peak * rise * decay, jnp.float32)

    return schedule


def path_mask(params: Any, patterns, *, where: str = "") -> Any:
    """Tree of bool: whether a parameter's whole path matches a pattern. With `where`, raises
    UserError for a pattern that matches nothing, such as a misspelt name."""
    names = [name for name, _ in named_leaves(params)]
    for pattern in patterns if where else ():
        if not any(matches([pattern], name) for name in names):
            raise UserError("a pattern matches no parameter", where=where, found=repr(pattern),
                            expected=f"a regex over whole paths such as {names[0]!r}")
    return jax.tree_util.tree_map_with_path(lambda path, _: matches(patterns, path_name(path)),
                                            params)


def make_optimizer(config, total_steps: int, params: Any, turns: Sequence[Turn] = ()) -> Optimizer:
    """The optimiser of config.optimizer. Raises UserError for unknown names and patterns that match
    nothing.

    Args:
      params: arrays or shapes.
      turns: of the system, see avjax.systems.api.Turn.
    """
    if config.name not in ALGORITHMS:
        raise UserError("unknown optimiser", where="config.optimizer.name",
                        expected=", ".join(ALGORITHMS), found=repr(config.name))
    frozen = path_mask(params, config.frozen, where="config.optimizer.frozen")
    trainable = jax.tree.map(lambda x: not x, frozen)
    rates = dict(config.get("turn_rates", ()))
    if unknown := sorted(rates.keys() - {turn.name for turn in turns}):
        raise UserError("no such turn", where="config.optimizer.turn_rates", found=unknown[0],
                        expected=" or ".join(turn.name for turn in turns)
                        or "none: this system is updated at once")
    schedule = make_schedule(config, total_steps)
    if not turns:
        return Optimizer(_transform(config, params, trainable), schedule, trainable,
                         config.frozen_dtype, whole_params=config.get("whole_params", False))
    by_turn = {turn.name: _by_group(config, turn.groups, params, trainable) for turn in turns}
    together = optax.GradientTransformation(
        lambda params: {turn.name: by_turn[turn.name].init({g: params[g] for g in turn.groups})
                        for turn in turns}, optax.identity().update)
    return Optimizer(together, schedule, trainable, config.frozen_dtype, by_turn, rates,
                     config.get("whole_params", False))


def _by_group(config, groups, params, trainable) -> optax.GradientTransformation:
    """Each group by itself: its gradients have a norm of their own."""
    def part(tree, group):
        return {group: tree[group]}

    rules = {group: _transform(config, part(params, group), part(trainable, group))
             for group in groups}

    def init(params):
        return {group: rule.init(part(params, group)) for group, rule in rules.items()}

    def update(grads, state, params):
        found = {group: rule.update(part(grads, group), state[group], part(params, group))
                 for group, rule in rules.items()}
        return ({group: directions[group] for group, (directions, _) in found.items()},
                {group: state for group, (_, state) in found.items()})

    return optax.GradientTransformation(init, update)


def _transform(config, params, trainable) -> optax.GradientTransformation:
    """Clipping, the algorithm and weight decay, of those parameters that are trainable."""
    pieces = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    pieces.append(ALGORITHMS[config.name](config))
    if config.weight_decay:
        decays = jax.tree.map(lambda no, train: train and not no,
                              path_mask(params, config.no_decay), trainable)
        # A callable mask sees the tree after the outer mask: frozen leaves are absent in both.
        pieces.append(optax.add_decayed_weights(config.weight_decay, mask=_masked_like(decays)))
    transform = optax.chain(*pieces)
    if not all(jax.tree.leaves(trainable)):
        frozen = jax.tree.map(lambda x: not x, trainable)
        transform = optax.chain(optax.masked(transform, trainable),
                                optax.masked(optax.set_to_zero(), frozen))
    return transform


def _masked_like(mask: Any) -> Callable[[Any], Any]:
    by_name = dict(named_leaves(mask))
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: by_name[path_name(path)],
                                                         tree)


def ema_decay_at(decay: float, step: jax.Array) -> jax.Array:
    """min(decay, (1 + t) / (10 + t)) for update t = 0, 1, ..., so that initial values do not
    dominate short runs."""
    t = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + t) / (10 + t))
