"""What a step processes, from the System's batch_spec alone, so that speeds mean the same for every
paper.

A batch has *rows* (entries of its first axis: examples, or several packed together where the System
has `rows`) and
*sequences*: arrays whose sequence axis has the same length share one. It is called "frames" where
that axis is named "time", by the resource that a row holds so many of (System.rows.capacity:
"tokens", "patches"), else after the first of its arrays. A step's positions of a sequence are rows
x length, padding included: what the devices compute on. Where the batch says which are real, those
are counted as well.
"""

from collections.abc import Mapping

import numpy as np


def sequences(system, time: int) -> dict[str, int]:
    """{name of a sequence: its length in a row}; `time` is the length of axes named "time"."""
    found: dict[int | str, tuple[str, int]] = {}
    resources = {n: name for name, n in system.rows.capacity.items()} if system.rows else {}
    for name, spec in system.batch_spec.items():
        axis = spec.sequence_axis
        if axis is None or name in ("mask", "weight"):
            continue
        length = spec.shape[axis]
        if isinstance(length, str):
            found.setdefault(length, ("frames" if length == "time" else length, time))
        else:
            found.setdefault(length, (resources.get(length, name), length))
    return dict(found.values())


def positions(system, *, rows: int, time: int) -> dict[str, int]:
    """{"examples" or "rows": rows, sequence: positions of a step with padding}, over all hosts."""
    packed = system.rows is not None
    return {"rows" if packed else "examples": rows} | {name: rows * n for name,
                                                       n in sequences(system, time).items()}


def real_positions(batch: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> dict[str, int]:
    """{"real_" + sequence: positions that are not padding} of one host's share of a batch, where
    the batch says so: by "<name>_length", or by an array of two axes that is 0 on padding ("mask",
    or ids "segment" and "<...>_segment").

    lengths: of `sequences`.
    """
    real: dict[str, int] = {}
    marks = [batch[name] for name in batch if name in ("mask", "segment")
             or name.endswith("_segment")]
    for name, length in lengths.items():
        mark = next((m for m in marks if m.ndim == 2 and m.shape[1] == length), None)
        if f"{name}_length" in batch:
            real[f"real_{name}"] = int(batch[f"{name}_length"].sum())
        elif mark is not None:
            real[f"real_{name}"] = int(np.count_nonzero(mark))
    return real
