"""Rows of a check on disk, so that a killed job goes on where it stopped."""

from collections.abc import Callable, Mapping

import numpy as np
from tqdm import tqdm

from eval.robustness.subject import Subject
from eval.run.rows import Rows

Row = tuple[dict, Mapping[str, np.ndarray]]


class Kept:
    """The rows of one folder (eval/run/rows.py), under keys of the subject."""

    def __init__(self, folder, subject: Subject, progress: bool = True):
        self._rows, self._subject, self._progress = Rows(folder), subject, progress

    def get(self, *names: str) -> Row | None:
        """(row, arrays), None where it is not there."""
        return self._rows.get(self._subject.key(*names))

    def put(self, row: dict, arrays: Mapping[str, np.ndarray], *names: str) -> None:
        """Keeps a row: plain JSON, and arrays beside it (float32)."""
        self._rows.put(self._subject.key(*names), row, dict(arrays))

    def of(self, make: Callable[[], Row], *names: str) -> Row:
        """The row of these names, made where it is missing."""
        if self.get(*names) is None:
            self.put(*make(), *names)
        return self.get(*names)

    def bar(self, total: int, what: str) -> tqdm:
        """A progress bar over `total` rows."""
        return tqdm(total=total, desc=what, unit="row", leave=False,
                    disable=None if self._progress else True)
