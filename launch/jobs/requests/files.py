"""Files of requests, and the records of what was made of them."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from avjax.errors import UserError
from avjax.storage import atomic


def record_file(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / f"{name}.json"


def settings_of(workdir, settings: Mapping[str, Any]) -> dict:
    """For records: what a request was made with, of `launch.jobs.generate.Avatar`'s settings those
    that were given."""
    return {"workdir": str(pathlib.Path(workdir).absolute())} | {
        name: value for name, value in settings.items() if value}


def keep(out: pathlib.Path, name: str, request: Mapping, settings: Mapping, **told) -> None:
    """Writes the record: "files", once they are all there, and what else is to be told."""
    atomic.write(record_file(out, name), json.dumps(
        {"request": request, "settings": settings} | told, default=str))


def names_of(paths: Iterable[pathlib.Path]) -> list[str]:
    """For "files" of a record."""
    return sorted(path.name for path in paths)


def done_before(out: pathlib.Path, name: str) -> dict | None:
    """{"request", "settings"} that the files of a name were made from; None where any is
    missing."""
    try:
        record = json.loads(record_file(out, name).read_text())
        files = record.pop("files")
        record = {name: record[name] for name in ("request", "settings")}
    except (OSError, ValueError, KeyError):
        return None
    return record if all((out / file).is_file() for file in files) else None


def set_aside(out: pathlib.Path, name: str) -> None:
    """What an earlier request of that name has made becomes NAME.old.*, so that nobody takes it for
    what the one that failed has made."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for file in json.loads(record_file(out, name).read_text())["files"]:
            os.replace(out / file, out / f"{name}.old{file.removeprefix(name)}")


def read_requests(path: pathlib.Path) -> dict[str, dict]:
    """{id: inputs} of a file of JSON lines. UserError names the line that is none, an id that is
    missing, no file name, or there twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("unreadable requests", where=f"--requests={path}",
                        expected="a file with a JSON object a line", found=str(error)) from error
    found: dict[str, dict] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            request = json.loads(line)
        except ValueError as error:
            raise UserError("not a request", where=where, expected='{"id": "a", "text": "..."}',
                            found=line[:60]) from error
        name = request.pop("id", None) if isinstance(request, dict) else None
        if not isinstance(name, str) or not name or name.startswith(".") or "/" in name:
            raise UserError("a request without an id", where=where,
                            expected='"id", fit for a file name', found=line[:60])
        if name in found:
            raise UserError("two requests of one id", where=where, found=repr(name))
        found[name] = request
    if not found:
        raise UserError("no requests", where=str(path), expected="a JSON object a line")
    return found


class NotMade(UserError):
    """Of a file of requests all are made but these.

    Args:
      errors: {id: why}.
      count: requests that were to be made.
    """

    def __init__(self, path, errors: Mapping[str, str], count: int):
        (name, error), *others = errors.items()
        also = f"; also {', '.join(repr(name) for name, _ in others[:16])}" if others else ""
        super().__init__(
            f"{len(errors)} of {count} requests not made: request {name!r}: {error}{also}",
            where=str(path), hint="mend them: the same command keeps what it made")


def check_all_made(path, out: pathlib.Path) -> None:
    """`NotMade` if requests of a file have no record of having been made in `out`."""
    requests = read_requests(pathlib.Path(path))
    missing = {name: _why(out, name, request) for name, request in requests.items()
               if (done_before(out, name) or {}).get("request") != request}
    if missing:
        raise NotMade(path, missing, len(requests))


def _why(out: pathlib.Path, name: str, request: dict) -> str:
    """What the record of a request that was not made says."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads(record_file(out, name).read_text())
        if record["request"] == request:
            return record["error"]
    return "no record of it: the same command without --processes says why"
