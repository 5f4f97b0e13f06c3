"""Rows that cannot be used."""

import collections
import json
import pathlib
import sys

from tqdm import tqdm

from avjax.errors import UserError
from avjax.storage import atomic
from data_pipelines.ingest.talker.listing import BadRow

SHOWN = 20  # bad rows that are printed; the file has all


class Quarantine:
    """Bad rows: a line each on stderr (the first few) and in a file; too many of them end the
    job."""

    def __init__(self, path: pathlib.Path, total: int, max_bad: float, progress: bool):
        self.path = path
        self.reasons = collections.Counter()
        self._total = total
        self._max_bad = max_bad
        self._progress = progress

    def __enter__(self) -> "Quarantine":
        self._lines = []
        return self

    def __exit__(self, *error):
        atomic.write(self.path, "".join(self._lines))  # after a failure too: it says why

    def note(self, entry: dict) -> None:
        """Writes something down that is not a row of the dataset."""
        self._lines.append(json.dumps(entry, ensure_ascii=False) + "\n")

    def add(self, row_id: str, line: str, error: BadRow) -> None:
        """Writes a bad row down. Raises UserError when they are too many for any ending to be a
        good one."""
        self.note({"id": row_id, "row": line, "reason": error.reason, "detail": error.detail})
        self.reasons[error.reason] += 1
        bad = self.reasons.total()
        if self._progress and bad <= SHOWN:
            tqdm.write(f"refused {row_id} ({line}): {error.reason}: {error.detail}"
                       + ("\n(further ones only in the file)" if bad == SHOWN else ""),
                       file=sys.stderr)
        if bad > self._max_bad * self._total:
            raise UserError("too many bad rows", where=str(self.path),
                            expected=f"at most {self._max_bad:.0%} of "
                            f"{self._total}",
                            found=", ".join(f"{n} x {r}" for r, n in self.reasons.most_common()),
                            hint="mend what the file lists, or --max_bad")
