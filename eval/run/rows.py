"""Scored rows on disk, so that a killed job goes on where it stopped, and JSON that is whole or not
there.

    results.rows.jsonl         rows of an evaluation in one process
    results.rows.I-of-N.jsonl  rows of share I of N (from 0), on a folder that all processes see
    results.frames/            what is pooled over examples, one file a row

A process appends to its own file and reads all, so an evaluation goes on with any number of shares.
What could not be scored is a line, too, with its reason instead of a row; it is tried again.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from avjax.errors import UserError
from avjax.storage import atomic, failures, lock

ROWS_FILE, FRAMES_DIR = "results.rows.jsonl", "results.frames"
Share = tuple[int, int]  # (k, n): the k-th of n shares
WHOLE: Share = (0, 1)


def rows_file(share: Share) -> str:
    """Name of the file that a share's rows are appended to."""
    return ROWS_FILE if share[1] == 1 else f"results.rows.{share[0]}-of-{share[1]}.jsonl"


def lock_file(share: Share) -> str:
    """Name of the lock that whoever scores a share holds."""
    return lock.RESULTS if share[1] == 1 else f".results.{share[0]}-of-{share[1]}.lock"


def not_begun(folder, share: Share) -> list[int]:
    """Indices of the other shares that no process has begun."""
    return [k for k in range(share[1])
            if k != share[0] and not (folder / rows_file((k, share[1]))).exists()]


class Stored(Mapping):
    """Arrays of an npz file, each read when it is asked for. All are read once, and let go, to see
    that they are whole: the errors of np.load."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        with np.load(path, allow_pickle=False) as arrays:
            self._names = [name for name in arrays if arrays[name] is not None]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with np.load(self.path, allow_pickle=False) as arrays:
            return arrays[name]

    def __iter__(self):
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Rows:
    """Append-only store of scored rows. A line that a crash tore is dropped; any other damage is an
    error.

    Args:
      folder: of the rows files and the frames.
      share: whose file is appended to.
    """

    def __init__(self, folder, share: Share = WHOLE):
        self.folder, self.share = pathlib.Path(folder), share
        self.path, self.frames_dir = self.folder / rows_file(share), self.folder / FRAMES_DIR
        self.frames_dir.mkdir(parents=True, exist_ok=True)
        self.path.touch()  # tells the others that this share has begun
        self.rows: dict[str, dict] = {}
        # {key: {file kept of it: CRC-32}, None where none were asked for}
        self.media: dict[str, dict[str, int] | None] = {}
        self.failed: dict[str, str] = {}  # {key: why there is no row, if there is none}
        for path in sorted(self.folder.glob("results.rows*.jsonl")):
            self._load(path)

    def reload(self) -> None:
        """Reads what the other shares have added. Files are opened by their names, since a network
        file system may list a folder as it was a minute ago."""
        for k in range(self.share[1]):
            path = self.folder / rows_file((k, self.share[1]))
            if k != self.share[0] and path.exists():
                self._load(path)

    def _load(self, path: pathlib.Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        # torn by a crash: cut it off, so that the next row starts on a line of its own
        if whole < len(data) and path == self.path:
            os.truncate(path, whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                if "failed" in record:
                    self.failed[record["key"]] = record["failed"]
                else:
                    self.rows[record["key"]] = record["row"]
                    self.media[record["key"]] = record.get("media")
            except (ValueError, KeyError, TypeError) as error:
                raise UserError("unreadable row", where=f"{path}:{number}",
                                expected="JSON with key and row, or failed",
                                found=line[:60].decode(errors="replace"),
                                hint="delete the file: rows are computed "
                                "again") from error

    def get(self, key: str) -> tuple[dict, Mapping[str, np.ndarray]] | None:
        """(row, frames) when both are there and readable; frames are read again when they are asked
        for, so that those of all examples need not fit into memory."""
        if key not in self.rows:
            return None
        try:
            return self.rows[key], Stored(self._frames_path(key))
        except (OSError, ValueError, EOFError) as error:
            failures.check(error, self._frames_path(key))  # else it would be computed again
            return None

    def put(self, key: str, row: dict, frames: dict[str, np.ndarray],
            media: dict[str, int] | None = None) -> None:
        """Frames first, row last: a row promises its frames, and the files of `media`."""
        path = self._frames_path(key)
        with atomic.file(path, shared=self.share[1] > 1) as temporary:
            np.savez(temporary, **{k: np.asarray(v, np.float32) for k, v in frames.items()})
        self._append({"key": key, "row": clean(row)} | ({} if media is None else {"media": media}))
        self.rows[key], self.media[key] = clean(row), media

    def fail(self, key: str, reason: str, traceback: str) -> None:
        """Keeps why there is no row."""
        self._append({"key": key, "failed": reason, "traceback": traceback})
        self.failed[key] = reason

    def _append(self, record: dict) -> None:
        with failures.working_on(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

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
