"""What a network makes of several records together, for a job that asks for one after the
other."""

from collections.abc import Callable, Sequence

import numpy as np


class Ahead:
    """What is made of record `index`, and of some behind it, when it is asked for.

    Args:
      read: a record; what it raises ends the job.
      prepared: of a record what `many` takes; what it raises is raised when that record is asked
        for.
      many: of several of these, what is made of each.
      last: the index behind the last record.
      most: numbers that go together; one record at least.
    """

    def __init__(self, read: Callable, prepared: Callable[..., np.ndarray],
                 many: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]], last: int,
                 most: int):
        self._read, self._prepared, self._many = read, prepared, many
        self._last, self._most, self._made = last, most, {}

    def __call__(self, index: int) -> np.ndarray:
        if index not in self._made:
            self._make(index)
        made = self._made.pop(index)
        if isinstance(made, Exception):
            raise made
        return made

    def _make(self, index: int) -> None:
        waiting, self._made = {}, {}
        for i in range(index, self._last):
            record = self._read(i)
            try:
                waiting[i] = self._prepared(record)
            except Exception as error:
                self._made[i] = error
            if sum(x.size for x in waiting.values()) >= self._most:
                break
        if waiting:
            self._made |= dict(zip(waiting, self._many(list(waiting.values())), strict=True))
