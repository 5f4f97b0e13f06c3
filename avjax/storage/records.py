"""What a job keeps in its workdir, read back: files that were cut short or overwritten are told."""

import json
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from avjax.errors import UserError

_HINT = "copy the folder again from where it was trained"


def read_json(path: pathlib.Path) -> Any:
    """UserError: no JSON. OSError: it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("damaged file of a work folder", where=str(path), expected="JSON",
                        found=str(error), hint=_HINT) from error


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """{name: array} of an .npz, nothing of which is executed. UserError: none, or not whole.
    OSError: it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError("damaged file of a work folder", where=str(path), expected="named arrays",
                        found=str(error), hint=_HINT) from error
