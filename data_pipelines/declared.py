"""What can be prepared and extracted, as declarations that command lines, stages and checks read.

An option of `launch.prepare` or `launch.extract` is declared once, in the signature of the function
that takes it:

    def extract(clips_dir, out_dir, *,
                size: Annotated[int, Option("side of the pictures, pixels", above=0)] = 64,
                progress: bool = True): ...

Its name, type and default are the parameter's. A parameter without an `Option` is for Python only.
"""

import dataclasses
import inspect
import operator
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from avjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Option:
    """Documents a parameter.

    Attributes:
      help: one phrase for --help.
      choices: values that it takes; () for any.
      above, least, most, below: bounds of a number; None for none.
      flag: name on the command line, where another option has the parameter's name there.
    """

    help: str
    choices: tuple[str, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    flag: str = ""


MaxBad = Annotated[float, Option("largest share of unusable items that are left out, with the "
                                 "reasons in OUT.quarantine.jsonl", least=0, most=1)]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An option with what its function's signature says of it."""

    name: str
    flag: str
    kind: type  # int, float, bool or str
    default: Any
    option: Option


def options(function: Callable) -> dict[str, Parameter]:
    """The declared options of a function, by flag."""
    found = {}
    for name, hint in typing.get_type_hints(function, include_extras=True).items():
        option = next((x for x in typing.get_args(hint)[1:] if isinstance(x, Option)), None)
        if option is None:
            continue
        kinds = {typing.get_args(hint)[0], *typing.get_args(typing.get_args(hint)[0])}
        kind = next((k for k in (bool, int, float) if k in kinds), str)
        default = inspect.signature(function).parameters[name].default
        flag = option.flag or name
        found[flag] = Parameter(name, flag, kind, default, option)
    return found


def check(function: Callable, *positional, what: str, where: str, **arguments) -> None:
    """Raises UserError unless `function` takes these arguments, with these values."""
    signature = inspect.signature(function)
    try:
        signature.bind(*positional, **arguments)
    except TypeError as error:
        raise UserError(what, where=where, found=str(error),
                        expected=", ".join(signature.parameters)) from error
    check_values(function, arguments)


def check_values(function: Callable, arguments: Mapping[str, Any]) -> None:
    """Raises UserError for the first declared option whose value is out of bounds."""
    for parameter in options(function).values():
        value, option = arguments.get(parameter.name), parameter.option
        if option.choices and value is not None and value not in option.choices:
            raise UserError(f"unknown {parameter.flag}", where=f"--{parameter.flag}",
                            expected=" or ".join(option.choices), found=repr(value))
        bounds = {">": (operator.gt, option.above), ">=": (operator.ge, option.least),
                  "<=": (operator.le, option.most), "<": (operator.lt, option.below)}
        bounds = {sign: pair for sign, pair in bounds.items() if pair[1] is not None}
        if value is not None and not all(holds(value, bound) for holds, bound in bounds.values()):
            raise UserError(f"no such {parameter.flag}", where=f"--{parameter.flag}",
                            expected=" and ".join(f"{sign} {bound:g}"
                                                  for sign, (_, bound) in bounds.items()),
                            found=str(value))


@dataclasses.dataclass(frozen=True)
class Ingest:
    """A kind of raw media: DATASET of data_pipelines/ingest/<name>/prepare.py.

    Attributes:
      prepare: makes the dataset: prepare([source,] out, *, ..., parallel=None, progress=True).
      in_parts: `out` may be a merge.Part; several processes can share the work.
      takes_in_changes: prepared again into the same folder, it takes in what has changed in
        `source`; `changes_of(arguments)` lists that, a line each kind, "" for nothing.
      made_of: (arguments) -> digest of what `source` holds; None where nothing tells.
      retired: {option of earlier versions: what to do instead}.
    """

    prepare: Callable[..., Any]
    in_parts: bool = False
    takes_in_changes: bool = False
    changes_of: Callable[[Mapping[str, Any]], str] = lambda arguments: ""
    made_of: Callable[[Mapping[str, Any]], str] | None = None
    retired: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def follows_content(self) -> bool:
        """Whether what is in `source` decides, and not where it is."""
        return self.takes_in_changes or self.made_of is not None


def subclass_in(module, base: type) -> type:
    """The one subclass of `base` that a module defines."""
    [found] = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, base)
               and x.__module__ == module.__name__]
    return found
