"""Conditions of single examples -> a padded batch.

The axes that `conditions_spec` names are padded to `api.bucket` sizes, by their last entry. A mask
or lengths hide the padding and noise is drawn frame by frame, so it changes nothing but the shapes
that are compiled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.systems.api import System, bucket

TIME, MASK = "time", "mask"
Conditions = Mapping[str, Any]  # of one example: no batch axis, nothing padded


def complete(system: System, values: Conditions) -> dict[str, np.ndarray]:
    """`values` with zeros, of no length, for every condition that is absent.

    Raises:
      UserError: an array whose fixed axes are not the system's.
    """
    out = {}
    for name, spec in system.conditions_spec.items():
        if name == MASK:
            continue
        shape = tuple(0 if isinstance(size, str) else size for size in spec.shape[1:])
        value = np.asarray(values[name]) if name in values else np.zeros(shape, spec.dtype)
        fixed = tuple(size for size, axis in zip(value.shape, spec.shape[1:], strict=False)
                      if not isinstance(axis, str))
        wanted = tuple(axis for axis in spec.shape[1:] if not isinstance(axis, str))
        if value.ndim != len(shape) or fixed != wanted:
            raise UserError(f"{name} of another size", where=name, expected=str(spec.shape[1:]),
                            found=str(value.shape),
                            hint="use the codecs that the model was trained with")
        out[name] = value
    return out


def sizes(system: System, conditions: Conditions) -> dict[str, int]:
    """{named axis: its longest length} of one example."""
    found: dict[str, int] = {}
    for name, value in conditions.items():
        axes = system.conditions_spec[name].shape[1:]
        for axis, size in zip(axes, np.shape(value), strict=True):
            if isinstance(axis, str):
                found[axis] = max(found.get(axis, 0), size)
    return found


def room(members: Sequence[Mapping[str, int]], time: int) -> dict[str, int]:
    """{named axis: padded length} for a batch whose examples have these `sizes`; `time`: the
    padded length of the axis "time"."""
    axes = {axis for member in members for axis in member} - {TIME}
    return {axis: bucket(max(member.get(axis, 0) for member in members))
            for axis in axes} | {TIME: time}


def pad(system: System, name: str, value: Any, room: Mapping[str, int]) -> np.ndarray:
    """One condition with its named axes at their padded lengths: its last entry is repeated, zeros
    where it is empty."""
    spec = system.conditions_spec[name]
    value = np.asarray(value, spec.dtype)
    missing = [(0, room[axis] - size if isinstance(axis, str) else 0)
               for axis, size in zip(spec.shape[1:], value.shape, strict=True)]
    if not any(after for _, after in missing):
        return value
    return np.pad(value, missing, mode="edge" if value.size else "constant")


def batch(system: System, rows: Sequence[Conditions], frames: Sequence[int],
          room: Mapping[str, int]) -> dict[str, np.ndarray]:
    """A batch of `System.generate`; `frames` of each example are real where the system takes a
    mask."""
    out = {name: np.stack([pad(system, name, row[name], room) for row in rows])
           for name in rows[0]}
    if MASK in system.conditions_spec:
        out[MASK] = (np.arange(room[TIME]) < np.array(frames)[:, None]).astype(np.float32)
    return out
