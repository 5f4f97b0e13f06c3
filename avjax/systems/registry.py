"""Finds systems by their folders: a package of avjax.systems that holds a `system.py` is one.

A part of a system is named with a dot ("tavid.visual"). Packages are searched along their
`__path__`, so that a folder `avjax/systems/x/` anywhere on PYTHONPATH is a system as well. Only
folders are listed here; nothing is imported before `load`, `published` or `benchmark` asks for it.
"""

import difflib
import importlib
import importlib.machinery
import importlib.util
import pkgutil
from collections.abc import Mapping
from types import ModuleType

from avjax import systems
from avjax.errors import UserError
from avjax.fields import Section

PACKAGE = "avjax.systems"


def names() -> tuple[str, ...]:
    """The names of all systems and their parts, sorted."""
    return tuple(sorted(_below(systems.__path__, "")))


def _below(path, prefix: str) -> list[str]:
    found = []
    for module in pkgutil.iter_modules(path):
        if not module.ispkg:
            continue
        name = prefix + module.name
        inside = importlib.machinery.PathFinder.find_spec(module.name, path)
        folders = list(inside.submodule_search_locations)
        if any(m.name == "system" for m in pkgutil.iter_modules(folders)):
            found.append(name)
        found += _below(folders, f"{name}.")
    return found


def check(name: str) -> None:
    """UserError with the nearest name unless there is a system of this name."""
    if name in names():
        return
    near = difflib.get_close_matches(str(name), names(), n=1, cutoff=0.0)
    raise UserError("unknown system", where="config.system.name", expected=", ".join(names()),
                    found=repr(name), hint=f"did you mean {near[0]!r}?")


def load(name: str) -> type:
    """The class `System` of a system's folder. UserError: unknown name."""
    check(name)
    return importlib.import_module(f"{PACKAGE}.{name}").System


def schema(name: str) -> type[Section] | None:
    """The class `Config` of a system's config.py, which declares its fields; None where it has
    none. UserError: unknown name."""
    return getattr(_beside(name, "config"), "Config", None)


def completed(recorded: Mapping) -> dict:
    """A recorded config.system with the defaults of the fields that its system has got since; as it
    is where its system is not here or declares no fields."""
    name = recorded.get("name")
    section = schema(name) if name in names() else None
    return section.completed(recorded) if section else dict(recorded)


def published(name: str):
    """The `PUBLISHED` of a system's published.py (avjax.weights.published.Published): how its
    weights are published; None where they are not. UserError: unknown name."""
    module = _beside(name, "published")
    return getattr(module, "PUBLISHED", None)


def benchmark(name: str):
    """An instance of the `Benchmark` of a system's benchmark.py
    (avjax.systems.benchmarking.Benchmark); the base class's where a system has none. UserError:
    unknown name."""
    module = _beside(name, "benchmark") or importlib.import_module(f"{PACKAGE}.benchmarking")
    return module.Benchmark()


def _beside(name: str, file: str) -> ModuleType | None:
    """The module `file` of a system's folder, None where there is none."""
    check(name)
    module = f"{PACKAGE}.{name}.{file}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None
