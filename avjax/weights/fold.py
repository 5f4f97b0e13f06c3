"""Small helpers of the name tables: weight norm, numbered names, nested and stacked parameters."""

import re

import numpy as np

from avjax.errors import UserError

_MAGNITUDE = re.compile(r"(?P<module>.*)\.(?:weight_g|parametrizations\.weight\.original0)")


def fold_weight_norm(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replaces every (magnitude g, direction v) pair by `<module>.weight` = g * v / |v|.

    Knows both of PyTorch's namings: `weight_g`/`weight_v` and
    `parametrizations.weight.original0`/`original1`. The norm runs over the dimensions where g has
    size 1 (all but one, which one differs between networks). Where g is |v| to float32, as
    `split_weight_norm` writes it, the weight is v itself, not v rounded once more.
    """
    folded = dict(state)
    for name in state:
        if match := _MAGNITUDE.fullmatch(name):
            direction_name = re.sub(r"original0$", "original1",
                                    re.sub(r"weight_g$", "weight_v", name))
            if direction_name not in state:
                raise UserError("a weight-normed layer is incomplete", where=name,
                                expected=direction_name, found="nothing",
                                hint="fetch the file again")
            magnitude, direction = folded.pop(name), folded.pop(direction_name)
            axes = tuple(i for i, n in enumerate(magnitude.shape) if n == 1)
            norm = np.sqrt(np.sum(np.square(direction, dtype=np.float64), axes, keepdims=True))
            weight = np.where(magnitude == norm.astype(magnitude.dtype), direction,
                              magnitude * (direction / norm))
            folded[match["module"] + ".weight"] = weight.astype(direction.dtype)
    return folded


def split_weight_norm(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `fold_weight_norm` for a network all of whose convolutions are normed over all
    but their first axis: `weight_g` and `weight_v` in place of each `weight`."""
    out = {}
    for name, value in state.items():
        if not name.endswith(".weight"):
            out[name] = value
            continue
        axes = tuple(range(1, value.ndim))
        norm = np.sqrt(np.sum(np.square(value, dtype=np.float64), axes, keepdims=True))
        out |= {f"{name}_g": norm.astype(value.dtype), f"{name}_v": value}
    return out


def check_computed(name: str, found: np.ndarray, ours: np.ndarray, what: str) -> None:
    """A table that a file carries and we compute. UserError: it differs, so that the
    network is another one."""
    rows = min(len(found), len(ours))
    if found.shape[1:] != ours.shape[1:] or \
            np.abs(np.asarray(found, np.float32)[:rows] - ours[:rows]).max() > 1e-2:
        raise UserError("the checkpoint's table is not the published one", where=name,
                        expected=f"{what}, {ours.shape}", found=f"other numbers, {found.shape}",
                        hint="only the published positions are implemented")


def numbered(name: str) -> re.Pattern:
    """The pattern of a published name whose `{}` stand for layer numbers."""
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))


def put(tree: dict, path: str, value: np.ndarray) -> None:
    """tree["a"]["b"]["c"] = value, for path "a/b/c"."""
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def stack_layers(layers: dict[str, dict], where: str = "", limit: int | None = None) -> dict:
    """{"0": tree, "1": tree, ...} -> one tree of arrays with a leading layer axis (the first
    `limit` layers).

    UserError: a gap in the numbers, or layers of different structure.
    """
    found = sorted(layers, key=int)
    count = limit or len(found)
    if found[:count] != [str(i) for i in range(count)]:
        raise UserError("encoder layers are missing", where=where,
                        expected=f"layers 0 to {count - 1}",
                        found=f"{len(found)}: {', '.join(found[:12])}",
                        hint="check which model the file is of")
    return _stack([layers[str(i)] for i in range(count)], where)


def _stack(trees: list, where: str):
    if not isinstance(trees[0], dict):
        return stack(trees, where)
    for i, tree in enumerate(trees):
        if tree.keys() != trees[0].keys():
            raise UserError("encoder layers differ in their names", where=f"{where}, layer {i}",
                            expected=", ".join(sorted(trees[0])), found=", ".join(sorted(tree)),
                            hint="fetch the file again")
    return {key: _stack([tree[key] for tree in trees], f"{where}, {key}") for key in trees[0]}


def stack(arrays: list[np.ndarray], where: str) -> np.ndarray:
    """One array with a leading layer axis. UserError: layers of different sizes."""
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise UserError("layers differ in size", where=f"{where}, layer {i}",
                            expected=str(arrays[0].shape), found=str(array.shape),
                            hint="fetch the file again")
    return np.stack(arrays)
