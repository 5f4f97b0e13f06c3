"""Whole examples of any length, packed into rows of fixed capacity.

The endless sequence of rows is a pure function of the seed and the examples' lengths: epoch e
shuffles the examples with (seed, e) and packs them first-fit into a few open rows. So row k needs
no state to find, no record is read to plan, and the position in the data stays one integer.
Capacities are by resource (tokens, patches, ...): a row is full in any of them first. An example
that takes nothing of any (speech alone, for a system that learns pictures) is in no row.
"""

import functools
import operator
import threading
import zlib
from collections.abc import Mapping

import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Rows

OPEN_ROWS = 16  # rows that are filled side by side: more pack tighter, and cost more per example
EPOCH = 2**40  # rows that the endless stream pretends to have


def plan(costs_NR: np.ndarray, capacity_R: np.ndarray,
         rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of example indices for one epoch: every example once, in shuffled order, each row within
    capacity.

    Args:
      costs_NR: (examples, resources) what each takes.
      capacity_R: (resources,) what a row holds.
    """
    # lists: far faster than arrays of two or three numbers
    costs, capacity = costs_NR.tolist(), capacity_R.tolist()
    rows: list[list[int]] = []
    # (one of rows, what is left of each resource)
    open_rows: list[tuple[list[int], list[int]]] = []
    for example in rng.permutation(len(costs)).tolist():
        cost = costs[example]
        fits = (one for one in open_rows if not any(map(operator.gt, cost, one[1])))
        if (found := next(fits, None)) is None:
            if len(open_rows) == OPEN_ROWS:
                open_rows.pop(0)
            rows.append([])
            open_rows.append(found := (rows[-1], list(capacity)))
        row, left = found
        row.append(example)
        left[:] = map(operator.sub, left, cost)
    order = rng.permutation(len(rows))  # rows that were opened late are emptier: not always last
    return [np.array(rows[i]) for i in order]


class PackedRows:
    """Random access to the endless sequence of rows; row k is {name: array} of `rows.build`.

    Args:
      source: examples by index (data_pipelines.store.dataset.Source).
      lengths: {sequence feature: (examples,)}.
      rows: the System's `rows`.
      seed: of the order and of random crops.

    Raises:
      UserError: an example that no row can hold, named; no example that takes anything.
    """

    def __init__(self, source, lengths: Mapping[str, np.ndarray], rows: Rows, seed: int,
                 where: str):
        self._source, self._rows, self._seed = source, rows, seed
        # {}: no sequences
        each = [{name: values[i] for name, values in lengths.items()} for i in range(len(source))]
        names = tuple(rows.capacity)
        costs = np.array([[cost[n] for n in names] for cost in map(rows.cost, each)], np.int64)
        capacity = np.array([rows.capacity[n] for n in names], np.int64)
        too_large = np.flatnonzero((costs > capacity).any(-1))
        if len(too_large):
            first = int(too_large[0])
            raise UserError(f"{len(too_large)} of {len(costs)} examples are larger than a row",
                            where=f"{where}, example {source.ids[first]!r}",
                            expected=", ".join(f"{n} <= {c}" for n,
                                               c in zip(names, capacity, strict=True)),
                            found=", ".join(f"{n} {c}" for n,
                                            c in zip(names, costs[first], strict=True)),
                            hint="raise the row's capacity in config.system, or leave the long "
                            "ones out of the dataset")
        used = np.flatnonzero(costs.any(-1))
        if not len(used):
            raise UserError("no example to train on", where=where,
                            expected=f"some that take {' or '.join(names)}",
                            found=f"{len(costs)} that take nothing",
                            hint="extract the dataset with what this system learns, or train on "
                            "another split")
        self._examples = np.repeat(used, _balance([rows.kind(each[i]) for i in used]))
        self._costs, self._capacity = costs[self._examples], capacity
        self._ends = [0]  # number of rows before epoch e
        self._lock = threading.Lock()
        self._plan = functools.lru_cache(maxsize=4)(self._plan_epoch)

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        members = self.members(int(index))
        rng = np.random.default_rng([self._seed, 1, int(index)])
        examples = [self._source[i] for i in members]
        row = self._rows.build(examples, rng)
        return row | {"example":
                      np.uint32(zlib.crc32("\n".join(e["id"] for e in examples).encode()))}

    def members(self, index: int) -> list[int]:
        """Example indices of a row."""
        with self._lock:
            while self._ends[-1] <= index:
                self._ends.append(self._ends[-1] + len(self._plan(len(self._ends) - 1)))
            epoch = int(np.searchsorted(self._ends, index, side="right")) - 1
            row = self._plan(epoch)[index - self._ends[epoch]]
        return [int(self._examples[i]) for i in row]

    @property
    def epoch_size(self) -> int:
        """Examples of an epoch, the repeated ones as often as they are."""
        return len(self._examples)

    def examples_before(self, index: int) -> int:
        """Examples of all rows before one."""
        if index <= 0:
            return 0
        self.members(index - 1)  # plans as far as that
        with self._lock:
            epoch = int(np.searchsorted(self._ends, index - 1, side="right")) - 1
            rows = self._plan(epoch)[:index - self._ends[epoch]]
        return epoch * self.epoch_size + sum(map(len, rows))

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        return plan(self._costs, self._capacity, np.random.default_rng([self._seed, 0, epoch]))


def _balance(kinds: list[str]) -> np.ndarray:
    """How often each example is in an epoch: the smaller sets are repeated a whole number of
    times."""
    names, which, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    return np.maximum(1, np.round(counts.max() / counts).astype(int))[which]
