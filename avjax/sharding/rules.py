"""Sharding rules of parameters: a list of (regex over a parameter's path, mesh axes of each
dimension).

Strict on purpose: exactly one rule must match all of a path such as "visual/block_0/mlp/kernel"
(re.fullmatch). A misspelt axis, an uncovered parameter or a dimension that does not divide is an
error that names the parameter, never a silent replication. `()` replicates a parameter of any rank.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avjax.errors import UserError

Rules = Sequence[tuple[str, tuple]]


def path_name(path) -> str:
    """A key path of jax.tree_util as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) in tree order."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether any pattern matches the whole path."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _axes_of(entry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def spec_for(name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> PartitionSpec:
    """The placement of one parameter. Raises UserError, see the module's docstring."""
    found = [(pattern, axes) for pattern, axes in rules if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise UserError("a parameter is covered by no sharding rule" if not found else
                        "a parameter is covered by more than one sharding rule",
                        where=f"parameter {name} {shape}",
                        expected="exactly one rule whose regex matches the whole path",
                        found=", ".join(repr(pattern) for pattern, _ in found) or "none",
                        hint="edit the system's param_rules")
    pattern, axes = found[0]
    if axes == ():
        return PartitionSpec()
    if len(axes) != len(shape):
        raise UserError("a sharding rule has another rank than its parameter",
                        where=f"parameter {name} {shape}", expected=f"{len(shape)} entries",
                        found=f"rule {pattern!r}: {axes}")
    used = [axis for entry in axes for axis in _axes_of(entry)]
    if len(set(used)) != len(used):
        raise UserError("a sharding rule uses a mesh axis twice", where=f"parameter {name} {shape}",
                        found=f"rule {pattern!r}: {axes}")
    for dim, entry in enumerate(axes):
        parts = math.prod(mesh.shape[axis] for axis in _axes_of(entry))
        if shape[dim] % parts:
            raise UserError("a parameter's dimension does not divide over the mesh",
                            where=f"parameter {name} {shape}",
                            expected=f"dimension {dim} a multiple of {parts} (mesh axes "
                            f"{'*'.join(_axes_of(entry))})", found=str(shape[dim]),
                            hint=f"change config.mesh, the width, or the rule {pattern!r}")
    return PartitionSpec(*axes)


def check_axes(rules: Rules, mesh: Mesh) -> None:
    """Raises UserError where a rule, even one that matches nothing, names an unknown axis."""
    for pattern, axes in rules:
        for entry in axes:
            for axis in _axes_of(entry):
                if axis not in mesh.shape:
                    raise UserError("a sharding rule names an unknown mesh axis",
                                    where=f"rule {pattern!r}", expected=", ".join(mesh.shape),
                                    found=repr(axis))


def param_shardings(params: Any, rules: Rules, mesh: Mesh) -> Any:
    """A tree of NamedSharding like `params` (arrays or shapes)."""
    check_axes(rules, mesh)

    def place(path, leaf):
        return NamedSharding(mesh, spec_for(path_name(path), tuple(leaf.shape), rules, mesh))

    return jax.tree_util.tree_map_with_path(place, params)


def like_params(tree: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings for a tree that contains copies of `params` (an optimiser state): a leaf whose path
    ends in a parameter's path and has its shape is sharded like it; everything else (counters) is
    replicated."""
    known = {name: (tuple(leaf.shape), place) for (name, leaf), place in
             zip(named_leaves(params), jax.tree.leaves(shardings), strict=True)}
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(path, leaf):
        parts = path_name(path).split("/")
        for start in range(len(parts)):
            shape, sharding = known.get("/".join(parts[start:]), (None, None))
            if shape == tuple(leaf.shape):
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(place, tree)
