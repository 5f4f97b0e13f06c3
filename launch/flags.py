"""Command lines shared by the launchers: `--config=FILE.py` with `--config.key=value` overrides on
a locked schema.

Everything wrong with a command line becomes one line that names the nearest valid key.
"""

import contextlib
import gc
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from avjax.errors import UserError
from avjax.hosts import environment
from avjax.storage import failures
from avjax.storage.failures import exit_cleanly
from avjax.systems import registry
from launch import ROOT, overrides, schema
from launch.config_files import config_file, load_config


def define_config(default: str | None = None):
    """The --config flag; `.value` of what is returned is the locked ConfigDict."""
    return config_flags.DEFINE_config_file("config", default,
                                           "Experiment file, e.g. configs/quickstart.py; its "
                                           "fields: avjax config --config=FILE. Systems "
                                           "(config.system.name): " + ", ".join(registry.names()),
                                           # overrides are ours, see launch/overrides.py
                                           lock_config=True, sys_argv=[""])


def run(main: Callable[[Sequence[str]], None], *, needs_config: bool = True) -> None:
    """absl's app.run with one-line errors. Exit code 2 for anything the user can mend."""
    def parse(argv):
        _help_lists_all()
        try:
            return parse_flags(argv, needs_config=needs_config)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    def quiet(argv):
        # app.run turns libraries' remarks on: Orbax's, JAX's on backends
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)
        failures.allow_open_files()
        for line in environment.pin():
            print(line, file=sys.stderr, flush=True)
        with devices_told():
            return main(argv)

    gc.freeze()  # what is imported stays
    gc.enable()  # see launch/cli.py
    app.run(exit_cleanly(quiet), flags_parser=parse)


def _help_lists_all() -> None:
    """--help also lists the flags that a command takes from other modules of this package."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("launch."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


@contextlib.contextmanager
def devices_told():
    """What JAX says of a platform that it does not find (a bare AssertionError for one without a
    plugin) becomes a UserError."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not last.replace("\\", "/").endswith("jax/_src/xla_bridge.py"):
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            "JAX finds no such device",
            where=f"JAX_PLATFORMS={asked}" if asked else "jax.devices()",
            expected="a platform whose plugin is installed: cpu, or cuda or tpu by the extra of "
            "that name",
            found=str(error).partition(" (set JAX_PLATFORMS")[0] or "no plugin for it",
            hint="pip install 'avjax[cuda]' or 'avjax[tpu]', or unset JAX_PLATFORMS") from error


def parse_flags(argv: Sequence[str], *, needs_config: bool = True) -> list[str]:
    """Parses absl's flags; returns the positional arguments. Raises UserError."""
    argv, given = overrides.split(flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False))
    if given and "config" not in flags.FLAGS:
        raise UserError("this command has no --config", found=f"--config.{given[0]}",
                        hint="--help lists the flags")
    if not any(a.lstrip("-") in ("help", "helpfull", "helpshort") for a in argv[1:]):
        _check_config(argv, needs_config)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError("the command line is not valid", found=str(error),
                        hint="--help lists the flags") from error
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError("no number", where=f"--{name}", expected="a finite one",
                            found=str(value))
    if len(rest) > 1:
        raise UserError("the command line is not valid", found=f"stray argument {rest[1]!r}",
                        expected="--flag=value", hint="--help lists the flags")
    if given:
        if not isinstance(config := flags.FLAGS.config, ConfigDict):
            raise UserError("no config given", expected="--config=FILE.py",
                            found=f"--config.{given[0]}")
        overrides.apply(config, given)
    config = flags.FLAGS.config if "config" in flags.FLAGS else None
    if isinstance(config, ConfigDict):
        schema.validate(config)
    return rest


def _check_config(argv: list[str], needed: bool) -> None:
    """Checks --config. A path that is relative to the project becomes one that absl can open."""
    path = None
    for i, arg in enumerate(argv[1:], 1):
        if not arg.startswith("-"):
            continue
        name, equals, value = arg.lstrip("-").partition("=")
        if name == "config":
            at = i if equals else i + 1
            path = value if equals else argv[at] if at < len(argv) else ""
            file, argument = config_file(path)
            if at < len(argv) and not Path(path.partition(":")[0]).is_file():
                argv[at] = f"{'--config=' * (at == i)}{file}{':' * bool(argument)}{argument}"
            ours = ROOT / path.partition(":")[0]
            if ours.is_file() and not ours.samefile(file):
                print(f"config: {file.absolute()}, not the project's {ours}", file=sys.stderr,
                      flush=True)
    if path is None:
        if needed:
            check_given(None)
        return
    load_config(path)


def check_given(config: Any) -> None:
    """UserError if there is no config."""
    if config is None:
        raise UserError("no config given", expected="--config=FILE.py, e.g. "
                                                    "--config=configs/quickstart.py")


def check_local(flag: str, path: str | None) -> None:
    """UserError for a URL where only a folder or file of this machine will do."""
    from avjax.storage import paths

    if path and paths.is_remote(path):
        raise UserError("a path of this machine is needed", where=flag, found=path,
                        hint=f"leave {flag} out to write into the workdir, wherever that is")


def fill(value: Any, workdir: Path) -> Any:
    """`value` with "{workdir}" replaced in every string inside; containers become plain dicts,
    lists and tuples."""
    if isinstance(value, str):
        return value.replace("{workdir}", str(workdir))
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {k: fill(v, workdir) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(v, workdir) for v in value)
    return value


def unfill(value: Any, workdir: Any) -> Any:
    """The reverse of `fill`: what lies in the workdir is named "{workdir}/...", which stays true
    when the workdir is moved."""
    if isinstance(value, str):
        inside = value == str(workdir) or value.startswith(f"{workdir}/")
        return "{workdir}" + value[len(str(workdir)):] if inside else value
    if isinstance(value, Mapping):
        return {k: unfill(v, workdir) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(unfill(v, workdir) for v in value)
    return value
