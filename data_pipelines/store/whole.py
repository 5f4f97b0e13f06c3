"""Whether a dataset's files are those that were written: by their sizes, and by checksums."""

import hashlib
import json
import pathlib

from avjax.errors import StorageError, UserError
from data_pipelines.store.schema import CHECKSUMS_FILE

REMAKE = "delete the folder and make the dataset again"  # only of what is proven to be corrupt
BRING = "look after the disk or mount, or copy the folder again; then start the same command again"


def fingerprint(path: pathlib.Path) -> dict:
    """SHA-256 and size of a file."""
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                "bytes": path.stat().st_size}


def check_entries(directory: pathlib.Path, checksums: dict, *files: str) -> None:
    """Raises UserError unless all of these files have an entry."""
    for needed in files:
        if needed not in checksums:
            raise UserError("dataset is not whole", where=str(directory / CHECKSUMS_FILE),
                            expected=f"an entry {needed}", found="none",
                            hint=f"copy the folder again, or {REMAKE}")


def check_file(path: pathlib.Path, recorded: dict, *, contents: bool, missing=StorageError,
               said: str = "") -> None:
    """Raises `missing`, or UserError for a file that is not the recorded one. `said`: by whoever
    could not read it."""
    said = said and f"; {said}"
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing("file of the dataset is missing", where=str(path),
                      expected=f"{recorded['bytes']} bytes",
                      found=f"no file{said}", hint=BRING) from error
    if size != recorded["bytes"]:
        raise UserError("corrupt: truncated or overwritten file", where=str(path),
                        expected=f"{recorded['bytes']} bytes", found=f"{size} bytes{said}",
                        hint=f"copy it again, or {REMAKE}")
    if contents and (found := fingerprint(path)["sha256"]) != recorded["sha256"]:
        raise UserError("corrupt file", where=str(path),
                        expected=f"sha256 {recorded['sha256'][:16]}",
                        found=f"sha256 {found[:16]}{said}", hint=f"copy it again, or {REMAKE}")


def read_json(path: pathlib.Path):
    """Raises StorageError: it is missing; UserError: it is no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StorageError("file of the dataset is missing", where=str(path),
                           hint=BRING) from error
    except ValueError as error:
        raise UserError("unreadable file of a dataset", where=str(path), found=str(error),
                        hint=f"copy it again, or {REMAKE}") from error
