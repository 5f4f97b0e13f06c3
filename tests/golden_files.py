"""Finds recorded numbers: in tests/golden, or in $AVJAX_GOLDEN_DIR, so that other recordings can be
dropped in.

Sizes and counts come from the files. What another folder lacks, a file or an entry, is skipped by
name; in tests/golden itself it is an error.
"""

import ast
import glob
import json
import os
import re

import numpy as np
import pytest

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")


def folder() -> str:
    return os.environ.get("AVJAX_GOLDEN_DIR") or HERE


class Recording(dict):
    """The arrays of a file, or those under a prefix of it; asked for one that is not there, the
    test is skipped."""

    def __init__(self, arrays, where: str):
        super().__init__(arrays)
        self.where = where

    def __missing__(self, name):
        lacks(f"{self.where}{name}")

    def __or__(self, other):
        return Recording({**self, **other}, self.where)


def lacks(what: str):
    """Skips the running test, by name: another recording need not have everything. Ours must."""
    if folder() == HERE:
        raise KeyError(f"tests/golden has no {what}")
    pytest.skip(f"{folder()} has no {what}")


def recordings(prefix: str, key: str | tuple[str, ...] = "") -> list[tuple[str, Recording]]:
    """(file name, arrays) of every `<prefix>*.npz`, sorted; with `key`, only files with an entry
    that starts so."""
    files = []
    for path in sorted(glob.glob(os.path.join(folder(), f"{prefix}*.npz"))):
        with np.load(path) as npz:
            if any(name.startswith(key) for name in npz.files):
                name = os.path.basename(path)
                files.append((name, Recording({name: npz[name] for name in npz.files},
                                              f"{name}: ")))
    return files


def golden(prefix: str, key: str | tuple[str, ...] = "") -> list:
    """Test parameters (file name, arrays) of `recordings`; a skipped one if there are none."""
    files = recordings(prefix, key)
    if files:
        return [pytest.param(name, arrays, id=name) for name, arrays in files]
    keys = [key] if isinstance(key, str) else key
    what = f"{prefix}*.npz" + (" with " + " or ".join(f"{k}*" for k in keys) if key else "")
    if folder() == HERE:
        raise FileNotFoundError(f"tests/golden has no {what}")
    return [pytest.param(None, None, id=f"no {prefix}",
                         marks=pytest.mark.skip(f"{folder()} has no {what}"))]


def cases(prefix: str, key: str | tuple[str, ...] = "") -> list:
    """As `golden`, without the names."""
    return [pytest.param(case.values[1], id=case.id, marks=case.marks)
            for case in golden(prefix, key)]


def some(prefix: str, index: int = 0) -> Recording:
    """The arrays of one file, whichever; skips the running test if there is none."""
    files = recordings(prefix)
    return files[index][1] if files else lacks(f"{prefix}*.npz")


def under(arrays: dict[str, np.ndarray], prefix: str) -> Recording:
    """Entries whose name starts with `prefix`, without it; skips the running test if there are
    none."""
    where = getattr(arrays, "where", "")
    inner = {name.removeprefix(prefix): value for name, value in arrays.items()
             if name.startswith(prefix)}
    return Recording(inner, f"{where}{prefix}") if inner else lacks(f"{where}{prefix}*")


def numbered(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """`<prefix>0`, `<prefix>1` and so on, as many as there are; skips the running test if there are
    none."""
    numbers = sorted(int(n) for n in matching(arrays, re.escape(prefix) + r"(\d+)"))
    assert numbers == list(range(len(numbers))), f"{prefix}: {numbers}"
    return [arrays[f"{prefix}{n}"] for n in numbers]


def matching(arrays: dict[str, np.ndarray], pattern: str) -> list[str]:
    """The group of `pattern` in every name that matches it, each once; skips the running test if
    there are none."""
    found = [match[1] for name in arrays if (match := re.fullmatch(pattern, name))]
    return list(dict.fromkeys(found)) or lacks(f"{getattr(arrays, 'where', '')}{pattern}")


def config(arrays: dict[str, np.ndarray]) -> dict:
    """The `config` string of a file: a JSON or Python dict literal."""
    text = str(arrays["config"])
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def relative_error(ours, theirs) -> float:
    """Largest absolute difference over the largest recorded magnitude."""
    theirs = np.asarray(theirs, np.float64)
    return float(np.max(np.abs(np.asarray(ours,
                                          np.float64) - theirs)) / max(np.max(np.abs(theirs)),
                                                                       1e-30))
