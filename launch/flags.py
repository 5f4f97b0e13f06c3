"""Command lines shared by the launchers: `--config=FILE.py` with `--config.key=value` overrides on a locked schema.

Everything wrong with a command line becomes one line that names the nearest valid key.
"""

import difflib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from avjax import storage
from avjax.errors import UserError, exit_cleanly

ROOT = Path(__file__).parents[1]


def define_config(default: str | None = None):
    """The --config flag; `.value` of what is returned is the locked ConfigDict."""
    return config_flags.DEFINE_config_file("config", default, "Experiment file, e.g. configs/quickstart.py.",
                                           lock_config=True)


def run(main: Callable[[Sequence[str]], None], *, needs_config: bool = True) -> None:
    """absl's app.run with one-line errors. Exit code 2 for anything the user can mend."""
    def parse(argv):
        try:
            return parse_flags(argv, needs_config=needs_config)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    def quiet(argv):
        if not flags.FLAGS["verbosity"].present:  # app.run turns libraries' remarks on: Orbax's, JAX's on backends
            logging.set_verbosity(logging.ERROR)
        storage.allow_open_files()
        return main(argv)

    app.run(exit_cleanly(quiet), flags_parser=parse)


def launcher(name: str) -> ModuleType:
    """Imports another launcher for its function. Its command-line flags, which may have the names of this one's, are
    forgotten again."""
    ours = {flag: flags.FLAGS[flag] for flag in flags.FLAGS}
    for flag in ours.values():
        flag.allow_override = True
    module = importlib.import_module(name)
    for flag in list(flags.FLAGS):
        if flag not in ours:
            delattr(flags.FLAGS, flag)
        elif flags.FLAGS[flag] is not ours[flag]:
            flags.FLAGS[flag] = ours[flag]
    return module


def parse_flags(argv: Sequence[str], *, needs_config: bool = True) -> list[str]:
    """Parses absl's flags; returns the positional arguments. Raises UserError."""
    argv = list(argv)
    if not any(a.lstrip("-") in ("help", "helpfull", "helpshort") for a in argv[1:]):
        _check_config(argv, needs_config)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError("the command line is not valid", found=str(error), way_out="--help lists the flags") from error
    if len(rest) > 1:
        raise UserError("the command line is not valid", found=f"stray argument {rest[1]!r}",
                        expected="--flag=value", way_out="--help lists the flags")
    return rest


def _check_config(argv: list[str], needed: bool) -> None:
    path, overrides = None, []
    for i, arg in enumerate(argv[1:], 1):
        if not arg.startswith("-"):
            continue
        name, _, value = arg.lstrip("-").partition("=")
        if name == "config":
            path = value or (argv[i + 1] if i + 1 < len(argv) else "")
        elif name.startswith("config."):
            overrides.append(name.removeprefix("config."))
    if path is None:
        if needed:
            raise UserError("no config given", expected="--config=FILE.py, e.g. --config=configs/quickstart.py")
        return
    config = load_config(path)
    for key in overrides:
        check_key(config, key, where=f"--config.{key}")


def check_local(flag: str, path: str | None) -> None:
    """UserError for a URL where only a folder or file of this machine will do."""
    from avjax.training import paths

    if path and paths.is_remote(path):
        raise UserError("a path of this machine is needed", where=flag, found=path,
                        way_out=f"leave {flag} out to write into the workdir, wherever that is")


def all_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every valid key, "a" and "a.b"."""
    keys = []
    for name, value in config.items():
        keys.append(prefix + name)
        if isinstance(value, ConfigDict):
            keys += all_keys(value, f"{prefix}{name}.")
    return keys


def check_key(config: ConfigDict, key: str, *, where: str) -> None:
    """UserError naming the nearest valid key unless `key` ("a.b") is one. Indices such as "a[0]" pass."""
    keys = all_keys(config)
    plain = key.split("[")[0]
    if plain in keys:
        return
    last = plain.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(plain, keys, n=1, cutoff=0.0)
    same_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == last]  # the right name in the wrong group
    nearest = same_leaf[0] if same_leaf else near[0]
    raise UserError("unknown config key", where=where, found=plain, expected=f"nearest valid key: {nearest}")


def fill(value: Any, workdir: Path) -> Any:
    """`value` with "{workdir}" replaced in every string inside; containers become plain dicts, lists and tuples."""
    if isinstance(value, str):
        return value.replace("{workdir}", str(workdir))
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {k: fill(v, workdir) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(v, workdir) for v in value)
    return value


def unfill(value: Any, workdir: Any) -> Any:
    """The reverse of `fill`: what lies in the workdir is named "{workdir}/...", which stays true when the workdir is moved."""
    if isinstance(value, str):
        inside = value == str(workdir) or value.startswith(f"{workdir}/")
        return "{workdir}" + value[len(str(workdir)):] if inside else value
    if isinstance(value, Mapping):
        return {k: unfill(v, workdir) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(unfill(v, workdir) for v in value)
    return value


def load_config(path: str | Path, overrides: dict | None = None) -> ConfigDict:
    """The locked config of a file ("FILE.py" or "FILE.py:argument"; relative paths also from the project's root) with
    {"a.b": value} overrides. Raises UserError for a missing or broken file and for unknown keys."""
    name, _, argument = str(path).partition(":")
    file = Path(name) if Path(name).is_file() else ROOT / name
    if not file.is_file():
        beside = sorted(p.name for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "base"))
        raise UserError("no such config file", where=name, expected=f"a file, e.g. of configs/: {', '.join(beside)}")
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError("the config file fails", where=str(file), found=f"{type(error).__name__}: {error}") from error
    config = config.lock()
    for key, value in (overrides or {}).items():
        check_key(config, key, where=str(file))
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise UserError("a config value has the wrong type", where=f"{file}, {key}", found=repr(value),
                            expected=str(error)) from error
    return config
