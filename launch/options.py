"""Command-line flags of options that several functions declare (data_pipelines/declared.py)."""

from collections.abc import Callable, Mapping

from absl import flags

from avjax.errors import UserError
from data_pipelines import declared

_DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
           str: flags.DEFINE_string}


def define(functions: Mapping[str, Callable]) -> None:
    """A flag for every option of any of the functions, with the names of those that take it."""
    kinds, helps = {}, {}
    for name, function in functions.items():
        for flag, parameter in declared.options(function).items():
            if kinds.setdefault(flag, parameter.kind) is not parameter.kind:
                raise TypeError(f"option {flag} of {name} has another type elsewhere")
            option, default = parameter.option, parameter.default
            choices = f" ({', '.join(option.choices)})" if option.choices else ""
            default = "" if default is None else f" [{default}]"
            text = f"{option.help}{choices}{default}."
            helps.setdefault(flag, {}).setdefault(text, []).append(name)
    for flag, kind in kinds.items():
        said = (f"{', '.join(names)}: {text}" for text, names in helps[flag].items())
        _DEFINE[kind](flag, None, " ".join(said))


def given(functions: Mapping[str, Callable], chosen: str, chooser: str) -> dict[str, object]:
    """{parameter: value} of the flags on the command line.

    Args:
      functions: as for `define`.
      chosen: the one that is called; `chooser`: the flag that chooses it.

    Raises:
      UserError: a flag that is for others only.
    """
    own = declared.options(functions[chosen])
    for function in functions.values():
        for flag in declared.options(function):
            if flag not in own and flags.FLAGS[flag].present:
                raise UserError(f"--{flag} means nothing here", where=f"--{chooser}={chosen}",
                                expected=", ".join(f"--{name}" for name in own), found=f"--{flag}",
                                hint=f"leave it out, or pick another --{chooser}")
    values = {parameter.name: flags.FLAGS[flag].value for flag, parameter in own.items()}
    return {name: value for name, value in values.items() if value is not None}
