"""Config files: where they are, what they import, and what they return."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from avjax.errors import UserError
from launch import ROOT, overrides


def load_config(path: str | Path, changes: dict | None = None) -> ConfigDict:
    """The locked config of a file ("FILE.py" or "FILE.py:argument", see `config_file`) with {"a.b":
    value} changes. Raises UserError for a missing or broken file and for unknown keys."""
    file, argument = config_file(path)
    _make_siblings_importable(file)
    try:
        module = load_module(file)
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError("the config file fails", where=str(file),
                        found=f"{type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError("the config file fails", where=str(file),
                        expected="a ConfigDict from get_config()",
                        found=type(config).__name__)
    keys = overrides.all_keys(config)
    needed = overrides.all_keys(load_module(ROOT / "configs" / "base.py").get_config())
    if lacking := [key for key in needed if key not in keys]:
        raise UserError("the config lacks what every experiment has", where=str(file),
                        expected=", ".join(lacking[:5]), found=f"{len(lacking)} fields less",
                        hint="begin it with configs.base.get_config()")
    config = config.lock()
    for key, value in (changes or {}).items():
        overrides.assign(config, key, value, where=f"{file}, {key}")
    return config


def config_file(path: str | Path) -> tuple[Path, str]:
    """(file, argument) of "FILE.py" or "FILE.py:argument": a path from here, else from the
    project's root; "NAME" is configs/NAME.py. UserError: no such file."""
    name, _, argument = str(path).partition(":")
    places = [Path(name).expanduser(), ROOT / name]
    if re.fullmatch(r"\w+", name):
        places += [Path("configs", f"{name}.py"), ROOT / "configs" / f"{name}.py"]
    file = next((f for f in places if name and f.is_file()), None)
    if file is None:
        beside = sorted(p.name for p in (ROOT / "configs").glob("*.py")
                        if p.stem not in ("__init__", "base"))
        raise UserError("no such config file", where=f"--config={path}",
                        found="a folder" if Path(name).is_dir() else "",
                        expected="FILE.py or FILE.py:ARGUMENT, e.g. of configs/: "
                        f"{', '.join(beside)}")
    return file, argument


def _make_siblings_importable(file: Path) -> None:
    """What a config imports lies beside it: `from configs import base` is that of its own folder,
    where that is called configs and has one, else the project's."""
    import configs

    folder = str(file.absolute().parent)
    if file.absolute().parent.name == "configs" and folder not in configs.__path__:
        configs.__path__.insert(0, folder)
    if folder not in sys.path:
        sys.path.append(folder)


def load_module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_config_" + re.sub(r"\W", "_", file.stem), file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
