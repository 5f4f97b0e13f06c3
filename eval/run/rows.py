"""Scored rows on disk, so that a killed job goes on where it stopped, and JSON that is whole or not
there."""

import hashlib
import json
import math
import os
import pathlib

import numpy as np

from avjax.errors import UserError
from avjax.storage import atomic, failures

ROWS_FILE, FRAMES_DIR = "results.rows.jsonl", "results.frames"


class Rows:
    """Append-only store of scored rows. A line that a crash tore is dropped; any other damage is an
    error."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.path, self.frames_dir = self.folder / ROWS_FILE, self.folder / FRAMES_DIR
        self.frames_dir.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, dict] = {}
        if self.path.exists():
            self._load()

    def _load(self):
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        # torn by a crash: cut it off, so that the next row starts on a line of its own
        if whole < len(data):
            os.truncate(self.path, whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                self.rows[record["key"]] = record["row"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError("unreadable row", where=f"{self.path}:{number}",
                                expected="JSON with key and row",
                                found=line[:60].decode(errors="replace"),
                                hint="delete the file: rows are computed "
                                "again") from error

    def get(self, key: str) -> tuple[dict, dict[str, np.ndarray]] | None:
        """(row, frames) when both are there and readable."""
        if key not in self.rows:
            return None
        try:
            with np.load(self._frames_path(key), allow_pickle=False) as arrays:
                return self.rows[key], dict(arrays)
        except (OSError, ValueError, EOFError) as error:
            failures.check(error, self._frames_path(key))  # else it would be computed again
            return None

    def put(self, key: str, row: dict, frames: dict[str, np.ndarray]) -> None:
        """Frames first, row last: a row promises its frames."""
        path = self._frames_path(key)
        with atomic.file(path) as temporary:
            np.savez(temporary, **{k: np.asarray(v, np.float32) for k, v in frames.items()})
        with failures.working_on(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "row": clean(row)}, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[key] = clean(row)

    def _frames_path(self, key: str) -> pathlib.Path:
        return self.frames_dir / (hashlib.sha256(key.encode()).hexdigest()[:20] + ".npz")


def clean(value):
    """JSON without NaN (null instead) and without numpy's types."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [clean(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def write_json(path, value) -> None:
    """Whole or not at all."""
    atomic.write(path, json.dumps(clean(value), indent=1, allow_nan=False) + "\n")
