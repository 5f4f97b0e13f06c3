"""Clips -> features, by the family of systems that reads them: data_pipelines/features/<name>.py."""

import importlib
import inspect

from avjax.errors import UserError
from data_pipelines import store

FEATURES = ("avflow", "talker")


def extract(clips_dir, out_dir, *, features: str = "avflow", **options) -> store.Dataset:
    """Writes the feature dataset of a clip dataset; all of it, or nothing.

    Args:
      clips_dir: a dataset made by launch.prepare.
      out_dir: the folder to make.
      features: which family, one of FEATURES.
      options: of that family's own `extract`.

    Raises:
      UserError: unknown family or option, or whatever that family cannot extract.
    """
    function = extractor(features)
    try:
        inspect.signature(function).bind(clips_dir, out_dir, **options)
    except TypeError as error:
        raise UserError(f"wrong options of features {features!r}", where="extract", found=str(error),
                        expected=str(inspect.signature(function))) from error
    return function(clips_dir, out_dir, **options)


def extractor(features: str):
    """The family's own `extract(clips_dir, out_dir, **options)`."""
    if features not in FEATURES:
        raise UserError("unknown features", where="--features", expected=" or ".join(FEATURES), found=repr(features))
    return importlib.import_module(f"data_pipelines.features.{features}").extract
