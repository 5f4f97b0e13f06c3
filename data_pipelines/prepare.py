"""Raw media -> clips, by the kind of raw media: data_pipelines/ingest/<name>/prepare.py."""

import contextlib
import functools
import importlib
import inspect
import pkgutil

from avjax.errors import UserError
from avjax.storage import lock
from data_pipelines import declared, ingest
from data_pipelines.store.merge import Part


def names() -> list[str]:
    """What there is: folders of data_pipelines/ingest."""
    return sorted(m.name for m in pkgutil.iter_modules(ingest.__path__) if m.name != "common")


@functools.cache
def load(dataset: str) -> declared.Ingest:
    """The declaration of a kind of raw media. Raises UserError: unknown."""
    if dataset not in names():
        raise UserError("unknown dataset", where="--dataset", expected=f"one of "
                        f"{', '.join(names())}", found=repr(dataset))
    return importlib.import_module(f"{ingest.__name__}.{dataset}.prepare").DATASET


def check(dataset: str, **arguments) -> None:
    """Raises UserError: unknown dataset, option that it does not take, missing or wrong value."""
    kind = load(dataset)
    parameters = inspect.signature(kind.prepare).parameters
    for name in arguments:
        if name in kind.retired:
            out = str(arguments.get("out", "OUT"))
            raise UserError(f"avjax prepare makes clips only: no --{name}", where=f"--{name}",
                            hint=kind.retired[name].replace("OUT", out))
        if name not in parameters:
            known = ("source", "out", *declared.options(kind.prepare))
            raise UserError(f"--dataset={dataset} has no --{name}", where=f"--{name}",
                            expected=", ".join(f"--{p}" for p in known if p in parameters),
                            found=f"--{name}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"--dataset={dataset} needs --{name}", where="command line",
                            expected=f"--{name}=...")
    declared.check_values(kind.prepare, arguments)


def prepare(dataset: str, **arguments):
    """Makes a dataset: what `load(dataset).prepare` returns.

    Args:
      dataset: one of `names()`.
      arguments: of its own `prepare`. While it runs no other process makes `out`; a Part of it has
        a lock of its own (data_pipelines/store/resume.py).

    Raises:
      UserError: as `check`, or what cannot be prepared.
    """
    check(dataset, **arguments)
    out = arguments["out"]
    alone = contextlib.nullcontext() if isinstance(out, Part) else lock.hold(
        lock.beside(out), "the dataset", out)
    with alone:
        return load(dataset).prepare(**arguments)
