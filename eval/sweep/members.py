"""The runs that a table is made of: members of sweeps by their sweep.json, or any folders with
results."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from avjax.errors import UserError
from avjax.storage import paths

FILE, RESULTS, CONFIG = "sweep.json", "results.json", "config.json"
SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Member:
    """One run.

    Attributes:
      name: for messages: its folder's name.
      values: what tells it from the others, {axis: value}.
      results: the content of its results.json; None where there is none.
      missing: why not.
    """

    name: str
    values: dict[str, str]
    results: dict | None
    missing: str = ""


def record(root: Any) -> dict | None:
    """The sweep.json of a folder; None if there is none. UserError: not as avjax submit writes
    it."""
    try:
        found = json.loads((root / FILE).read_text())
        for member in found["members"].values():
            _ = dict(member["values"]), str(member["workdir"])
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("unreadable record of a sweep", where=str(root / FILE),
                        expected="what avjax submit --sweep writes",
                        found=f"{type(error).__name__}: {error}",
                        hint="delete it and submit the sweep again: members that are trained are "
                             "not trained again") from error


def find(folders: Iterable[Any], by: Iterable[str] = ()) -> list[Member]:
    """The members of all folders, each a sweep's workdir, a run, or a folder of runs.

    Args:
      folders: paths or URLs.
      by: keys of the runs' configs ("system.fusion") that tell runs apart, instead of the axes of
        their sweep or the names of their folders.

    Raises:
      UserError: a folder is missing or holds no run, two runs have the same values, unreadable
        files, or a key that a config does not have.
    """
    out, by = [], list(by)
    for folder in map(paths.folder, folders):
        if sweep := record(folder):
            for member in sweep["members"].values():
                out.append(_member(_below(folder, member["workdir"]), dict(member["values"]), by,
                                   _why(member)))
        else:
            out += [_member(run, None, by, "") for run in _runs(folder)]
    seen: dict[tuple, str] = {}
    for member in out:
        values = tuple(sorted(member.values.items()))
        if values in seen:
            raise UserError("two runs with the same values", where=f"{seen[values]}, {member.name}",
                            found=", ".join(f"{k}={v}" for k, v in values),
                            hint="leave one out, or --by=KEY,... of a config that differs")
        seen[values] = member.name
    return out


def _below(folder: Any, workdir: str) -> Any:
    """A member's folder: a URL, absolute, or relative to the sweep's."""
    return paths.folder(workdir) if paths.is_remote(workdir) else folder / workdir


def _runs(folder: Any) -> list[Any]:
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), expected="a run or a sweep's workdir")
    if (folder / RESULTS).exists():
        return [folder]
    found = sorted((run for run in folder.iterdir() if (run / RESULTS).exists()),
                   key=lambda run: run.name)
    if not found and (folder / CONFIG).exists():
        return [folder]  # begun: named as missing
    if not found:
        raise UserError("no runs here", where=str(folder),
                        expected=f"{FILE}, {RESULTS}, or folders with {RESULTS}",
                        hint="avjax train or avjax evaluate writes results where the config "
                             "names a benchmark")
    return found


def _member(folder: Any, values: dict | None, by: list[str], why: str) -> Member:
    results, missing = None, ""
    try:
        results = json.loads((folder / RESULTS).read_text())
        _ = results["summary"].items(), results["models"], results["rows"]
    except (FileNotFoundError, NotADirectoryError):
        missing = why or (f"no {RESULTS} in {folder}" if folder.exists() else f"no {folder}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("unreadable results", where=str(folder / RESULTS),
                        expected="what avjax evaluate writes", found=type(error).__name__,
                        hint="avjax evaluate writes them again") from error
    if by and (results is not None or values is None):
        config = _config(folder)
        values = {key: _value(config, key, folder) for key in by} | _seed(config)
    elif values is None:
        config = _config(folder)
        bare = re.sub(rf"[-_.]*{SEED}[-_=.]*\d+", "", folder.name, flags=re.IGNORECASE)
        values = {"run": bare or folder.absolute().parent.name} | _seed(config)
    return Member(folder.name, {key: str(value) for key, value in values.items()}, results, missing)


def _why(member: dict) -> str:
    """Why a member has no results, as its sweep knows."""
    state = member.get("evaluate") or member.get("train") or {}
    if state.get("state") == "failed":
        return f"failed with {state.get('code')}: {state.get('reason')}"
    return {"waiting": "not begun", "running": "running, or killed",
            "stopped": "stopped"}.get(state.get("state"), "")


def _config(folder: Any) -> dict:
    try:
        return json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):  # results written elsewhere by --out
        return {}


def _seed(config: dict) -> dict:
    return {SEED: config[SEED]} if SEED in config else {}


def _value(config: dict, key: str, folder: Any) -> Any:
    found, parts = config, key.removeprefix("config.").split(".")
    for part in parts:
        if not isinstance(found, dict) or part not in found:
            near = difflib.get_close_matches(part, found if isinstance(found, dict) else (), 1)
            raise UserError("no such key in a run's config", where=str(folder / CONFIG), found=key,
                            expected=f"for instance {near[0]}" if near else "a.b",
                            hint="avjax config --config=FILE lists the keys")
        found = found[part]
    return found
