"""Clips -> features, by the family of systems that reads them: data_pipelines/features/<name>."""

import importlib
import importlib.util
import inspect
import os
import pathlib
import pkgutil
import shutil
from collections.abc import Callable

from avjax.errors import UserError
from avjax.storage import made
from data_pipelines import declared
from data_pipelines import features as families
from data_pipelines.features.common.clips import PATHS
from data_pipelines.store import dataset as store
from data_pipelines.store import made_from, merge
from data_pipelines.store.merge import Part
from data_pipelines.store.resume import clean

FEATURES = tuple(sorted(  # a folder without extract.py has what only prompts or decodes
    m.name for m in pkgutil.iter_modules(families.__path__)
    if importlib.util.find_spec(f"{families.__name__}.{m.name}.extract")))


def extract(clips_dir, out_dir, *, features: str = "avflow", **options) -> store.Dataset | None:
    """Writes the feature dataset of a clip dataset.

    A killed job resumes when it is started again. Features that were made with the same options are
    kept; if the clips have changed since, they are made again beside the old ones and then replace
    them.

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
      UserError: unknown family or option, features made otherwise, or whatever that family cannot
        extract.
    """
    function = check(clips_dir, out_dir, features=features, **options)
    out = pathlib.Path(out_dir).absolute()
    clean(out)
    put_in_place(out)
    asked = request(features, **options)
    if out.exists() and not changed(clips_dir, out, asked):
        return store.open_dataset(out)
    new = target(out)
    clips = store.open_dataset(clips_dir, begun=merge.begun(new) is not None)
    made_from.ask(new, asked | {"clips": clips.content}, clips_dir)
    part = Part(new, out_dir.index, out_dir.count) if isinstance(out_dir, Part) else new
    try:
        dataset = function(clips_dir, part, **options)
    except UserError:
        if merge.begun(new) is None:
            made_from.withdraw(new)
        raise
    except FileNotFoundError:
        # the last part has put all together meanwhile, and the parts' folder is gone
        if not (isinstance(part, Part) and (new.exists() or out.exists())):
            raise
        dataset = out
    if dataset is None:
        return None
    put_in_place(out)
    return store.open_dataset(out)


def check(clips_dir, out_dir, *, features: str = "avflow", **options) -> Callable:
    """The family's function. Raises UserError unless it takes these arguments."""
    function = extractor(features)
    declared.check(function, clips_dir, out_dir, **options, where="extract",
                   what=f"wrong options of features {features!r}")
    return function


def extractor(features: str) -> Callable[..., store.Dataset | None]:
    """The family's own `extract(clips_dir, out_dir, **options)`."""
    if features not in FEATURES:
        raise UserError("unknown features", where="--features", expected=" or ".join(FEATURES),
                        found=repr(features))
    return importlib.import_module(f"{families.__name__}.{features}.extract").extract


def request(features: str, **options) -> dict:
    """The record of an extraction: the family and all its options, files by their names."""
    everything = _defaults(extractor(features)) | options
    everything.pop("progress", None)
    return {"features": features,
            "options": {name: pathlib.PurePath(value).name if name in PATHS and value
                        else str(value) for name, value in sorted(everything.items())}}


def changed(clips_dir, out: pathlib.Path, asked: dict) -> bool:
    """Whether the clips that existing features were made from have changed since.

    Raises UserError: the features have no record, or were made with other options or from other
    clips.
    """
    record = made_from.read(out)
    if record is None:
        store.refuse_existing(out)
    defaults = request(asked["features"])["options"]  # earlier versions recorded no defaults
    before = {"features": record.get("features")} | defaults | record.get("options", {})
    made.check(before, {"features": asked["features"]} | asked["options"],
               what="features were made with other options", where=out,
               hint="repeat those, choose another folder or delete this one")
    now = store.open_dataset(clips_dir).content
    place = made_from.source_of(out)
    if now != record["clips"] and place and not place.samefile(clips_dir):
        raise UserError("features were made from other clips", where=str(out),
                        expected=str(place), found=str(clips_dir),
                        hint="choose another folder or delete this one")
    return now != record["clips"]


def target(out: pathlib.Path) -> pathlib.Path:
    """Where features are written: `out`, or beside it while it has the old ones."""
    return _next(out) if out.exists() else out


def _next(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(f".{out.name}.next")


def put_in_place(out: pathlib.Path) -> None:
    """Moves features that were made again to `out`, also where a kill has interrupted that."""
    new, old = _next(out), out.with_name(f".{out.name}.old")
    if not new.exists() and not old.exists():
        return
    guard = out.with_name(f".{out.name}.moving")
    with merge.lock(guard, wait=True):
        if new.exists():
            shutil.rmtree(old, ignore_errors=True)
            if out.exists():
                os.rename(out, old)
            os.rename(new, out)
        shutil.rmtree(old, ignore_errors=True)
        guard.unlink(missing_ok=True)


def _defaults(function: Callable) -> dict[str, object]:
    """{name: default} of a family's options."""
    return {n: p.default for n, p in inspect.signature(function).parameters.items()
            if p.default is not p.empty}
