"""Command lines shared by the launchers: `--config=FILE.py` with `--config.key=value` overrides on a locked schema.

Everything wrong with a command line becomes one line that names the nearest valid key.
"""

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from avjax.errors import UserError, exit_cleanly
from avjax.training import environment
from launch import overrides

ROOT = Path(__file__).parents[1]


def define_config(default: str | None = None):
    """The --config flag; `.value` of what is returned is the locked ConfigDict."""
    return config_flags.DEFINE_config_file("config", default, "Experiment file, e.g. configs/quickstart.py.",
                                           lock_config=True, sys_argv=[""])  # overrides are ours, see launch/overrides.py


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
        for line in environment.pin():
            print(line, file=sys.stderr, flush=True)
        with devices_told():
            return main(argv)

    app.run(exit_cleanly(quiet), flags_parser=parse)


@contextlib.contextmanager
def devices_told():
    """What JAX says of a platform that it does not find (a bare AssertionError for one without a plugin) becomes a UserError."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not last.replace("\\", "/").endswith("jax/_src/xla_bridge.py"):
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError("JAX finds no such device", where=f"JAX_PLATFORMS={asked}" if asked else "jax.devices()",
                        expected="a platform whose plugin is installed: cpu, or cuda or tpu by the extra of that name",
                        found=str(error).partition(" (set JAX_PLATFORMS")[0] or "no plugin for it",
                        way_out="pip install 'avjax[cuda]' or 'avjax[tpu]', or unset JAX_PLATFORMS") from error


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
    argv, given = overrides.split(flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False))
    if given and "config" not in flags.FLAGS:
        raise UserError("this command has no --config", found=f"--config.{given[0]}", way_out="--help lists the flags")
    if not any(a.lstrip("-") in ("help", "helpfull", "helpshort") for a in argv[1:]):
        _check_config(argv, needs_config)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError("the command line is not valid", found=str(error), way_out="--help lists the flags") from error
    if len(rest) > 1:
        raise UserError("the command line is not valid", found=f"stray argument {rest[1]!r}",
                        expected="--flag=value", way_out="--help lists the flags")
    if given:
        if not isinstance(config := flags.FLAGS.config, ConfigDict):
            raise UserError("no config given", expected="--config=FILE.py", found=f"--config.{given[0]}")
        overrides.apply(config, given)
    return rest


def _check_config(argv: list[str], needed: bool) -> None:
    path = None
    for i, arg in enumerate(argv[1:], 1):
        if not arg.startswith("-"):
            continue
        name, _, value = arg.lstrip("-").partition("=")
        if name == "config":
            path = value or (argv[i + 1] if i + 1 < len(argv) else "")
    if path is None:
        if needed:
            raise UserError("no config given", expected="--config=FILE.py, e.g. --config=configs/quickstart.py")
        return
    load_config(path)


def check_local(flag: str, path: str | None) -> None:
    """UserError for a URL where only a folder or file of this machine will do."""
    from avjax.training import paths

    if path and paths.is_remote(path):
        raise UserError("a path of this machine is needed", where=flag, found=path,
                        way_out=f"leave {flag} out to write into the workdir, wherever that is")


def fill(value: Any, workdir: Path) -> Any:
    """`value` with "{workdir}" replaced in every string inside; containers become plain dicts, lists and tuples."""
    if isinstance(value, str):
        return value.replace("{workdir}", str(workdir))
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {k: fill(v, workdir) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(v, workdir) for v in value)
    return value


def load_config(path: str | Path, changes: dict | None = None) -> ConfigDict:
    """The locked config of a file ("FILE.py" or "FILE.py:argument"; relative paths also from the project's root) with
    {"a.b": value} changes. Raises UserError for a missing or broken file and for unknown keys."""
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
    for key, value in (changes or {}).items():
        overrides.assign(config, key, value, where=f"{file}, {key}")
    return config
