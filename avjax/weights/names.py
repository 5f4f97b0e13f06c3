"""Moving arrays along a name table, in both directions.

A row is (published names, our path "a/b/c", (to ours, to theirs), layer). Several published arrays
may make one of ours, side by side on axis 1; with a layer, ours is stacked along a leading layer
axis.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from avjax.errors import UserError
from avjax.weights.fold import put, stack

PREFIXED = "check which model the file is of; names with a prefix are read by --select=PREFIX"

Row = tuple[tuple[str, ...], str, tuple, int | None]


def gather(state: Mapping[str, np.ndarray], rows: Iterable[Row]) -> dict:
    """A state dict -> our parameters. UserError for an entry that is missing, does not fit or is
    left over."""
    params = {}
    left = {name: np.asarray(value) for name, value in state.items()}
    stacked = {}
    for names, ours, (to_ours, _), layer in rows:
        parts = []
        for name in names:
            if name not in left:
                raise UserError("checkpoint entry missing", where=name,
                                expected=f"an array for {ours}",
                                hint="check that the config's kind and number of layers are the "
                                "checkpoint's")
            value = left.pop(name)
            try:
                parts.append(to_ours(value))
            except ValueError as error:
                raise UserError("checkpoint entry does not fit", where=name, found=str(value.shape),
                                hint="check the config's width and numbers of heads") from error
        value = np.ascontiguousarray(np.stack(parts, axis=1) if len(parts) > 1 else parts[0])
        if layer is None:
            put(params, ours, value)
        else:
            stacked.setdefault(ours, []).append(value)
    for ours, values in stacked.items():
        put(params, ours, stack(values, ours))
    if left:
        raise UserError("checkpoint entries left over", where=sorted(left)[0],
                        found=f"{len(left)} unused entries",
                        hint="check that the config is this checkpoint's")
    return params


def scatter(params, rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """Our parameters -> a state dict; the inverse of `gather`, bit for bit."""
    out = {}
    for names, ours, (_, to_theirs), layer in rows:
        value = params
        for part in ours.split("/"):
            value = value[part]
        value = np.asarray(value) if layer is None else np.asarray(value)[layer]
        parts = [value] if len(names) == 1 else [value[:, i] for i in range(len(names))]
        for name, part in zip(names, parts, strict=True):
            out[name] = np.ascontiguousarray(to_theirs(part))
    return out
