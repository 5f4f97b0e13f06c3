"""The training state: a plain dict {step, params, opt_state, ema}.

"ema" has the trainable parameters only, and is absent when the average is off. Frozen matrices are
kept in config.optimizer.frozen_dtype.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avjax.sharding.mesh import batch_shardings, replicated
from avjax.sharding.rules import Rules, like_params, param_shardings
from avjax.systems.api import abstract_params, example_batch, params_keys, params_of
from avjax.training.optimizer import Optimizer

State = dict[str, Any]


def trainable_part(params: Any, optimizer: Optimizer) -> Any:
    """The part of a tree like the parameters' that training changes."""
    flat, changes = flatten_dict(params), flatten_dict(optimizer.trainable)
    return unflatten_dict({path: x for path, x in flat.items() if changes[path]})


def stored(params: Any, optimizer: Optimizer) -> Any:
    """Parameters as the state keeps them: frozen ones of two axes and more in
    `optimizer.frozen_dtype`."""
    def cast(x, train):
        return x if train or x.ndim < 2 else x.astype(optimizer.frozen_dtype)

    return jax.tree.map(cast, params, optimizer.trainable)


def new_average(params: Any, optimizer: Optimizer) -> Any:
    """The moving average before the first step. A copy: the step donates the state, and one buffer
    cannot be given away twice."""
    return jax.tree.map(jnp.copy, trainable_part(params, optimizer))


def _new_state(system, optimizer: Optimizer, keys: list, ema: bool) -> State:
    params = stored(params_of(system, keys), optimizer)
    state = {"step": jnp.zeros((), jnp.int32), "params": params,
             "opt_state": optimizer.transform.init(params)}
    return state | ({"ema": new_average(params, optimizer)} if ema else {})


def state_shapes(params, optimizer: Optimizer, *, ema: bool) -> State:
    """Shapes of what `init_state` returns, without shardings, from those of `init`'s parameters."""
    params = jax.eval_shape(lambda p: stored(p, optimizer), params)
    state = {"step": jax.ShapeDtypeStruct((), jnp.int32), "params": params,
             "opt_state": jax.eval_shape(optimizer.transform.init, params)}
    return state | ({"ema": trainable_part(params, optimizer)} if ema else {})


def place_state(shapes: State, rules: Rules, mesh: Mesh, *, whole_params: bool = False) -> State:
    """`state_shapes` with shardings, the step counter's too: a scalar without one compiles the step
    twice. `whole_params`: fsdp does not split the parameters (ZeRO stage 1, Rajbhandari et al.
    2020, arXiv:1910.02054)."""
    places = param_shardings(shapes["params"], rules, mesh)
    shardings = {"step": replicated(mesh), "params": places,
                 "opt_state": like_params(shapes["opt_state"], shapes["params"], places, mesh)}
    if "ema" in shapes:
        flat = flatten_dict(places)
        shardings["ema"] = unflatten_dict({path: flat[path]
                                           for path in flatten_dict(shapes["ema"])})
    if whole_params:
        shardings["params"] = jax.tree.map(_without_fsdp, places)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
                        shapes, shardings)


def _without_fsdp(place: NamedSharding) -> NamedSharding:
    def kept(axes):
        if isinstance(axes, tuple):
            return tuple(axis for axis in axes if axis != "fsdp")
        return None if axes == "fsdp" else axes

    return NamedSharding(place.mesh, PartitionSpec(*map(kept, place.spec)))


def abstract_state(system, optimizer: Optimizer, mesh: Mesh, *, ema: bool) -> State:
    """The state of `init_state` as ShapeDtypeStructs with shardings: the target of a restore and
    the input of a compilation."""
    return place_state(state_shapes(abstract_params(system), optimizer, ema=ema),
                       system.param_rules, mesh, whole_params=optimizer.whole_params)


def abstract_batch(system, mesh: Mesh, *, batch: int, time: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch as ShapeDtypeStructs with shardings. Raises UserError where a sequence does
    not divide over the mesh."""
    places = batch_shardings(mesh, system.batch_spec, time=time)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[name])
            for name, x in example_batch(system, batch=batch, time=time).items()}


def init_state(system, optimizer: Optimizer, mesh: Mesh, *, seed: int, ema: bool) -> State:
    """A new state, made on the mesh. Its values depend on `seed` but not on the mesh."""
    target = abstract_state(system, optimizer, mesh, ema=ema)
    places = jax.tree.map(lambda x: x.sharding, target)
    # Runs once: on CPU, optimising this program takes several times longer than running it.
    cpu = mesh.devices.flat[0].platform == "cpu"
    make = jax.jit(lambda keys: _new_state(system, optimizer, keys, ema), out_shardings=places,
                   compiler_options={"xla_backend_optimization_level": "0"} if cpu else None)
    return make(params_keys(system, jax.random.key(seed)))


def evaluation_params(state: State) -> Any:
    """The parameters for evaluation and generation: the average when there is one, and what is
    frozen."""
    return unflatten_dict(flatten_dict(state["params"]) | flatten_dict(state.get("ema", {})))
