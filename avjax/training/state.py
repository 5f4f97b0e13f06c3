"""The training state: a plain dict {step, params, opt_state, ema}; "ema" is absent when the average
is off."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from avjax.sharding.mesh import batch_shardings, replicated
from avjax.sharding.rules import Rules, like_params, param_shardings
from avjax.systems.api import example_batch
from avjax.training.optimizer import Optimizer

State = dict[str, Any]


def abstract_params(system) -> Any:
    """Shapes of a system's parameters, without computing them."""
    return jax.eval_shape(system.init, jax.random.key(0))


def _new_state(system, optimizer: Optimizer, seed: int, ema: bool) -> State:
    params = system.init(jax.random.key(seed))
    state = {"step": jnp.zeros((), jnp.int32), "params": params,
             "opt_state": optimizer.transform.init(params)}
    # A copy: the step donates the state, and one buffer cannot be given away twice.
    return state | ({"ema": jax.tree.map(jnp.copy, params)} if ema else {})


def state_shapes(params, optimizer: Optimizer, *, ema: bool) -> State:
    """Shapes of what `init_state` returns, without shardings, from those of the parameters."""
    state = {"step": jax.ShapeDtypeStruct((), jnp.int32), "params": params,
             "opt_state": jax.eval_shape(optimizer.transform.init, params)}
    return state | ({"ema": params} if ema else {})


def place_state(shapes: State, rules: Rules, mesh: Mesh) -> State:
    """`state_shapes` with shardings, the step counter's too: a scalar without one compiles the step
    twice."""
    places = param_shardings(shapes["params"], rules, mesh)
    shardings = {"step": replicated(mesh), "params": places,
                 "opt_state": like_params(shapes["opt_state"], shapes["params"], places, mesh)}
    if "ema" in shapes:
        shardings["ema"] = places
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
                        shapes, shardings)


def abstract_state(system, optimizer: Optimizer, mesh: Mesh, *, ema: bool) -> State:
    """The state of `init_state` as ShapeDtypeStructs with shardings: the target of a restore and
    the input of a compilation."""
    return place_state(state_shapes(abstract_params(system), optimizer, ema=ema),
                       system.param_rules, mesh)


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
    make = jax.jit(lambda: _new_state(system, optimizer, seed, ema), out_shardings=places,
                   compiler_options={"xla_backend_optimization_level": "0"} if cpu else None)
    return make()


def evaluation_params(state: State) -> Any:
    """The parameters for evaluation and generation: the average when there is one."""
    return state.get("ema", state["params"])
