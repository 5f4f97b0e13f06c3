"""Floating point operations of a function, from its jaxpr.

XLA's own cost analysis counts the body of a scan once and a custom kernel as nothing. Here every
matrix product and convolution counts 2 x multiply-adds, times the lengths of the loops around it.
Recomputation (remat) counts as executed; for the FLOPs that a model needs, count `without_remat` of
its config. Operations that no result needs, and elementwise work, do not count.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval
from ml_collections import ConfigDict


def count_flops(fn: Callable, *args: Any) -> int:
    """FLOPs of fn(*args); args are arrays or ShapeDtypeStructs. Global: shardings do not matter.

    A while loop counts as often as its trip count when that is a constant (counter `i < n`, step
    1), else once; of a conditional the most expensive branch counts; a Pallas kernel counts its
    body times its grid, fused attention as its formula, a shard_map its body times its devices.
    """
    return flops_of(live_jaxpr(fn, *args))


def without_remat(config):
    """A system's config with every field `remat`, at any depth, off; None where all are off."""
    if not isinstance(config, ConfigDict):
        return None
    copy = ConfigDict(config).copy_and_resolve_references()

    def switch_off(part):
        for name, value in part.items():
            if isinstance(value, ConfigDict):
                switch_off(value)
            elif name == "remat":
                part[name] = False if isinstance(value, bool) else "none"

    switch_off(copy)
    return None if copy.to_dict() == ConfigDict(config).to_dict() else copy


def barriers(jaxpr) -> int:
    """How many recomputed parts only a barrier keeps apart from the original. XLA:CPU drops
    barriers and merges both, so that nothing is recomputed and no memory is saved; a part inside a
    loop (a scan over layers) needs no barrier."""
    own = sum(bool(equation.params.get("differentiated"))
              and _prevents(equation.params.get("prevent_cse"))
              for equation in jaxpr.eqns)
    return own + sum(barriers(sub) for equation in jaxpr.eqns for value in equation.params.values()
                     for sub in subjaxprs(value))


def _prevents(value) -> bool:
    return any(value) if isinstance(value, tuple) else bool(value)


def live_jaxpr(fn: Callable, *args: Any):
    """The jaxpr of fn(*args) without operations that no result needs, such as gradients of frozen
    parameters."""
    return live(jax.make_jaxpr(fn)(*args).jaxpr)


def live(jaxpr):
    """A jaxpr without operations that no result needs."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]


def flops_of(jaxpr) -> int:
    """FLOPs of a jaxpr (`live_jaxpr`)."""
    return sum(_equation_flops(equation, jaxpr) for equation in jaxpr.eqns)


def _equation_flops(equation, jaxpr) -> int:
    name = equation.primitive.name
    params = equation.params
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[d] for d in contract)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        # The kernel's input-feature dimension is already divided by the groups.
        products = math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
        return 2 * products // params["batch_group_count"]
    if name == "cond":
        return max(flops_of(branch.jaxpr) for branch in params["branches"])
    if name == "while":
        body, cond = params["body_jaxpr"].jaxpr, params["cond_jaxpr"].jaxpr
        return _trip_count(equation, jaxpr) * (flops_of(body) + flops_of(cond))
    fused = _fused_flops(equation)
    if fused is not None:
        return fused
    inner = sum(flops_of(sub) for value in params.values() for sub in subjaxprs(value))
    return inner * _repeats(name, params)


# Products of one size that a fused kernel of attention stands for: those of its formula, not what
# it computes again, so that FLOPs do not depend on the kernel.
FUSED_PRODUCTS = {"dot_product_attention_fwd": 2, "dot_product_attention_bwd": 4,
                  "splash_mha_fwd": 2, "splash_mha_dq": 1, "splash_mha_dkv": 3}


def _fused_flops(equation) -> int | None:
    """FLOPs of cuDNN's attention, (B, T, H, K), or JAX's splash attention, (..., T, K); None of
    everything else."""
    name = equation.primitive.name
    cudnn = name.startswith("dot_product_attention_")
    if name == "pallas_call":
        name = str(equation.params.get("name") or equation.params.get("name_and_src_info"))
    products = next((n for part, n in FUSED_PRODUCTS.items() if name.startswith(part)), None)
    if products is None:
        return None
    queries, keys = [v.aval.shape for v in equation.invars
                     if len(v.aval.shape) > 2 and jnp.issubdtype(v.aval.dtype, jnp.floating)][:2]
    return products * 2 * math.prod(queries) * (keys[1] if cudnn else keys[-2])


def _repeats(name: str, params: dict) -> int:
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def subjaxprs(value: Any) -> Iterator[Any]:
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr) or hasattr(value, "eqns"):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from subjaxprs(item)


def _trip_count(equation, jaxpr) -> int:
    """n - i0 for a loop `while i < n` with constants and a counter that grows by one; else 1."""
    params = equation.params
    cond = params["cond_jaxpr"].jaxpr
    body = params["body_jaxpr"].jaxpr
    n_cond = params["cond_nconsts"]
    n_body = params["body_nconsts"]
    if len(cond.eqns) != 1 or cond.eqns[0].primitive.name != "lt":
        return 1
    outer = list(equation.invars[:n_cond]) + list(equation.invars[n_cond + n_body:])
    bounds = []
    for var in cond.eqns[0].invars:
        if isinstance(var, core.Literal):
            bounds.append(int(var.val))
            continue
        source = outer[cond.invars.index(var)]
        if not isinstance(source, core.Literal):
            return 1
        bounds.append(int(source.val))
    counter = cond.eqns[0].invars[0]
    if isinstance(counter, core.Literal) or cond.invars.index(counter) < n_cond:
        return 1
    slot = cond.invars.index(counter) - n_cond
    for step in body.eqns:
        if body.outvars[slot] in step.outvars and step.primitive.name == "add":
            start, one = step.invars
            if (start is body.invars[n_body + slot] and isinstance(one, core.Literal)
                    and int(one.val) == 1):
                return max(bounds[1] - bounds[0], 0)
    return 1
