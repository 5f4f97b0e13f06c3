"""Is it complete, and was it made with the same arguments?

Whatever takes long to make keeps a record of the arguments that it was made with, a JSON object in
a file beside or inside it. Stages, extraction, ingest and the store use these functions, so that
one rule decides what counts as the same everywhere.
"""

import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from avjax.errors import UserError
from avjax.storage import atomic


def digest(arguments: Any) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: pathlib.Path, *, hint: str = "bring the file back") -> dict | None:
    """The record in a file, None where there is none. Raises UserError if it is damaged."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError("a record of what this was made of is unreadable", where=str(path),
                        found=str(error), hint=hint) from error
    if not isinstance(record, dict):
        raise UserError("a record of what this was made of is unreadable", where=str(path),
                        expected="a JSON object", found=type(record).__name__, hint=hint)
    return record


def write(path: pathlib.Path, record: Mapping, *, shared: bool = False) -> None:
    """Writes a record, completely or not at all. `shared`: others may write it, too."""
    atomic.write(path, json.dumps(record, indent=1), shared=shared)


def agree(path: pathlib.Path, record: Any) -> Any:
    """The record that all processes of a job share: the first one's."""
    return json.loads(atomic.first(path, json.dumps(record)))


def differing(before: Mapping, now: Mapping, places: Collection[str] = ()) -> list[str]:
    """Names of the arguments that differ, sorted.

    Args:
      before, now: arguments; JSON turns tuples into lists on both sides.
      places: arguments that are paths: only the last name counts, since folders may be moved.
    """
    def value(arguments: Mapping, name: str) -> Any:
        found = arguments.get(name)
        if name in places and isinstance(found, str):
            return pathlib.PurePath(found).name
        return found

    before, now = (json.loads(json.dumps(arguments)) for arguments in (before, now))
    return [n for n in sorted({*before, *now}) if value(before, n) != value(now, n)]


def check(expected: Mapping, found: Mapping, *, what: str, where: object, hint: str,
          names: Collection[str] | None = None) -> None:
    """Raises UserError that lists the arguments (of `names`, default all) that differ."""
    names = differing(expected, found) if names is None else names
    if names:
        raise UserError(what, where=str(where), hint=hint,
                        expected=", ".join(f"{n}={expected.get(n)!r}" for n in names),
                        found=", ".join(f"{n}={found.get(n)!r}" for n in names))
