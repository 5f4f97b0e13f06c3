"""The report's plots: in the page, and as files beside it."""

import html
import pathlib
import re

from avjax.storage import atomic
from eval.report import media, plots

FOLDER = "plots"
_FILE = re.compile(rf"data-file='{FOLDER}/([\w.-]+\.png)'")


class Drawn:
    """Draws figures into a page and into OUT/plots.

    Args:
      out_dir: folder of the report.
    """

    def __init__(self, out_dir):
        self.folder = pathlib.Path(out_dir) / FOLDER
        self.names: set[str] = set()

    def picture(self, name: str, figure, alt: str) -> str:
        """An <img> of a figure, which is closed, and plots/NAME.png. `alt` says what is to be
        seen."""
        plain = stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")
        while f"{stem}.png" in self.names:
            stem = f"{plain}.{len(self.names)}"
        self.names.add(f"{stem}.png")
        content = plots.png(figure)
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write(self.folder / f"{stem}.png", content)
        return media.picture(content, html.escape(alt, quote=True), f"{FOLDER}/{stem}.png")

    def forget_others(self, page: str) -> None:
        """Removes what an earlier report, whose text this is, drew and this one did not."""
        for name in set(_FILE.findall(page)) - self.names:
            (self.folder / name).unlink(missing_ok=True)
