"""An estimate of the bytes that a function keeps alive at once, from its jaxpr.

Equations are walked in program order; a value is alive from the equation that makes it to the last
one that reads it; a loop's body or a recomputed (remat) part is walked inside its equation. XLA
fuses elementwise work, reorders, shares buffers and needs memory for its kernels, so it may use
more or less; but what dominates a large model (activations for the backward pass, and the largest
layer) follows from the shapes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from avjax.training.flops import live_jaxpr, subjaxprs

NO_MEMORY = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "stop_gradient",
                       "copy", "name", "transpose"})


def bytes_of(tree: Any) -> int:
    """Of all arrays or shapes in a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def peak_bytes(fn: Callable, *args: Any) -> int:
    """The largest number of bytes alive at once, without the arguments.

    Layout changes and broadcasts do not count, because they are fused or cheap to repeat; results
    count.

    Args:
      args: arrays or ShapeDtypeStructs.
    """
    return peak_of(live_jaxpr(fn, *args))


def _size(var) -> int:
    aval = var.aval
    if not hasattr(aval, "shape") or not hasattr(aval.dtype, "itemsize"):
        return 0
    return math.prod(aval.shape) * aval.dtype.itemsize


def peak_of(jaxpr, results: bool = True) -> int:
    """`peak_bytes` of a jaxpr (`live_jaxpr`), without its inputs and constants, and unless
    `results` without its results."""
    owner: dict = {}  # a view's variable -> whose memory it is
    last: dict = {}
    for at, equation in enumerate(jaxpr.eqns):
        source = equation.invars[0] if equation.invars else None
        if equation.primitive.name in NO_MEMORY and not isinstance(source, core.Literal):
            owner[equation.outvars[0]] = owner.get(source, source)
        for var in equation.invars:
            if not isinstance(var, core.Literal):
                last[owner.get(var, var)] = at
    for var in jaxpr.outvars:
        if not isinstance(var, core.Literal):
            last[owner.get(var, var)] = len(jaxpr.eqns)
    returned = set() if results else {owner.get(v, v) for v in jaxpr.outvars
                                      if not isinstance(v, core.Literal)}
    ends: dict[int, list] = {}
    for var, at in last.items():
        ends.setdefault(at, []).append(var)
    alive = peak = 0
    sizes: dict = {}
    for at, equation in enumerate(jaxpr.eqns):
        made = [v for v in equation.outvars if v not in owner and v in last]
        for var in made:
            sizes[var] = 0 if var in returned else _size(var)
        new = sum(sizes[v] for v in made)
        inside = max((peak_of(sub) for value in equation.params.values()
                      for sub in subjaxprs(value)), default=0)
        # what is inside an equation includes its results, once
        peak = max(peak, alive + max(new, inside))
        alive += new - sum(sizes.pop(v, 0) for v in ends.get(at, ()))
    return max(peak, alive)
