"""Clips -> features, by the family of systems that reads them: data_pipelines/features/<name>."""

import importlib
import inspect
import pathlib
import pkgutil
import re

from avjax.errors import UserError
from data_pipelines import features as families
from data_pipelines.features.common.clips import PATHS
from data_pipelines.store import dataset as store
from data_pipelines.store import request
from data_pipelines.store.merge import Part

FEATURES = tuple(sorted(m.name for m in pkgutil.iter_modules(families.__path__) if m.name
                        != "common"))
_OURS = ("name", "progress", "fit_split")  # options that are not for the command line


def extract(clips_dir, out_dir, *, features: str = "avflow", **options) -> store.Dataset | None:
    """Writes the feature dataset of a clip dataset. A killed job goes on where it was when it is
    started again.

    Args:
      clips_dir: a dataset made by launch.prepare.
      out_dir: the folder to make; or a Part of it, on a file system that those who make the other
        parts see.
      features: which family, one of FEATURES.
      options: of that family's own `extract`.

    Returns:
      The dataset. None when `out_dir` is a Part and other parts are not whole; the last one puts
      them together.

    Raises:
      UserError: unknown family or option, or whatever that family cannot extract.
    """
    function = extractor(features)
    try:
        inspect.signature(function).bind(clips_dir, out_dir, **options)
    except TypeError as error:
        raise UserError(f"wrong options of features {features!r}", where="extract",
                        found=str(error), expected=str(inspect.signature(function))) from error
    if isinstance(out_dir, Part) and request.made_before(out_dir, {
            "clips": store.open_dataset(clips_dir).content, "features": features,
            "options": {k: pathlib.PurePath(v).name if k in PATHS and v else str(v)
                        for k, v in sorted(options.items()) if k != "progress"}}):
        return store.open_dataset(out_dir)
    try:
        return function(clips_dir, out_dir, **options)
    # the last part to end put all together meanwhile, and the parts' folder is gone
    except FileNotFoundError:
        if not (isinstance(out_dir, Part) and pathlib.Path(out_dir).exists()):
            raise
        return store.open_dataset(out_dir)


def extractor(features: str):
    """The family's own `extract(clips_dir, out_dir, **options)`."""
    if features not in FEATURES:
        raise UserError("unknown features", where="--features", expected=" or ".join(FEATURES),
                        found=repr(features))
    return importlib.import_module(f"data_pipelines.features.{features}.extract").extract


def options(features: str) -> dict[str, tuple[type, object, str]]:
    """{option: (type, default, help)} of a family, from its function's signature and docstring."""
    function = extractor(features)
    listed = (function.__doc__ or "").partition("Args:")[2].partition("Raises:")[0]
    said = dict(re.findall(r"^ {6}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE))
    return {n: (p.annotation if p.annotation in (int, float, bool) else str, p.default,
                " ".join(said.get(n, "").split()))
            for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY
            and n not in _OURS}
