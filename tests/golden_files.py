"""Finds recorded numbers: in tests/golden, or in $AVJAX_GOLDEN_DIR, so that other recordings can be dropped in."""

import ast
import glob
import json
import os

import numpy as np

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")


def folder() -> str:
    return os.environ.get("AVJAX_GOLDEN_DIR") or HERE


def golden(prefix: str, key: str = "") -> list[tuple[str, dict[str, np.ndarray]]]:
    """(file name, arrays) of every `<prefix>*.npz`, sorted; with `key`, only files with an entry starting so."""
    files = []
    for path in sorted(glob.glob(os.path.join(folder(), f"{prefix}*.npz"))):
        with np.load(path) as npz:
            if any(name.startswith(key) for name in npz.files):
                files.append((os.path.basename(path), {name: npz[name] for name in npz.files}))
    return files


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Entries whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


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
    return float(np.max(np.abs(np.asarray(ours, np.float64) - theirs)) / max(np.max(np.abs(theirs)), 1e-30))
