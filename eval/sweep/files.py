"""The table's files: text, JSON, CSV, a page and its plots."""

import json
from typing import Any

from avjax.errors import UserError
from avjax.storage import lock, paths
from eval.run.rows import clean
from eval.sweep import page, text

NAME = "collected"


def write(table: dict, out: Any, name: str) -> list[str]:
    """Writes collected.txt, .json, .csv and .html, and the plots of each split and variant as .png.

    Args:
      table: from eval.sweep.collect.collect.
      out: folder, also of a bucket.
      name: the page's title.

    Returns:
      The files' paths. UserError: `out` is no folder and cannot be one.
    """
    folder = paths.folder(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError("not a folder", where=f"--out={out}", found=str(error)) from error
    content = {"txt": text.text(table) + "\n", "csv": text.as_csv(table),
               "json": json.dumps(clean(table), indent=1) + "\n", "html": page.write(table, name)}
    written = []
    with lock.hold(folder / f".{NAME}.lock", "the table in", folder, wait=60.0):
        for suffix, what in content.items():
            written.append(folder / f"{NAME}.{suffix}")
            paths.write_text(written[-1], what)
        for block in table["blocks"]:
            variant = "" if block["variant"] == "model" else f".{block['variant']}"
            written.append(folder / f"{NAME}.{block['split']}{variant}.png")
            paths.write_bytes(written[-1], page.figure(table, block))
    return list(map(str, written))
