"""Fields of a config, declared once: type, default, meaning, choices, bounds, and whether a resumed
run may change it.

    class Config(Section):
        d_model: int = field(512, "Width of the residual stream.", minimum=8)
        fusion: str = field("highway", "How the towers exchange.", choices=FUSIONS)
        loss_weights: LossWeights = field(None, "Weight of each stream's loss.")

`Config.make()` is the ml_collections.ConfigDict of all defaults, which presets and experiments
change; `Config.check(config)` raises UserError for a value that cannot be; `describe(Config,
config)` lists the fields with their documents (avjax config).

Presets are functions beside a system's Config that return a ConfigDict. One name means the same in
every system:

    published   the sizes and shares that the authors published; those of their code where the
                paper differs
    full        for a cluster; ours where the authors print none
    small       for one accelerator
    tiny        for two CPU cores and the puppets, and for tests

A preset that is named after another work (usdm, covomix, paper) has that work's numbers.
"""

import dataclasses
import numbers
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from avjax.errors import UserError

Recipe = Mapping | None  # the type of a recipe's field: how a feature must be made; None = any
# what happens to a field when a run is resumed
RESUME = {
    "fixed": "fixed once a run has begun",
    "free": "may change on resume",
    "unscheduled": "may change on resume unless the schedule ends at train.steps",
}


@dataclasses.dataclass(frozen=True)
class Field:
    """See `field`. `type`: the annotation, one of bool, int, float, str, Recipe, tuple[...] or a
    Section."""

    default: Any
    doc: str
    choices: Callable[[], tuple] | None
    minimum: float | None
    above: float | None
    maximum: float | None
    below: float | None
    resume: str | None
    type: Any = None

    @property
    def section(self) -> "type[Section] | None":
        is_section = isinstance(self.type, type) and issubclass(self.type, Section)
        return self.type if is_section else None

    @property
    def bounds(self) -> str:
        """E.g. ">= 1", "0 to 1", "" where there are none."""
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        limits = ((">=", self.minimum), (">", self.above), ("<=", self.maximum), ("<", self.below))
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)

    @property
    def type_name(self) -> str:
        return "section" if self.section else _type_name(self.type)

    def allows(self, value: Any) -> bool:
        """Whether a number is within the bounds."""
        return ((self.minimum is None or value >= self.minimum)
                and (self.above is None or value > self.above)
                and (self.maximum is None or value <= self.maximum)
                and (self.below is None or value < self.below))


def field(default: Any, doc: str, *, choices: tuple | Callable[[], tuple] | None = None,
          minimum: float | None = None, above: float | None = None, maximum: float | None = None,
          below: float | None = None, resume: str | None = None) -> Any:
    """Declares a field of a Section.

    Args:
      default: its value in `Section.make()`; ignored where the type is a Section, which has its own
        defaults.
      doc: what it means, in a sentence.
      choices: the values that it may have, or a function that returns them. Those of a tuple's
        field are its items'.
      minimum, above, maximum, below: bounds of a number, or of a tuple's numbers: >=, >, <=, <.
      resume: a key of `RESUME`; None takes the enclosing section's, in the end "fixed".
    """
    listed = choices if choices is None or callable(choices) else lambda: choices
    return Field(default, doc, listed, minimum, above, maximum, below, resume)


class Section:
    """Base class of a group of fields. Subclasses of subclasses inherit their fields."""

    FIELDS: dict[str, Field] = {}

    def __init_subclass__(cls):
        hints = typing.get_type_hints(cls)
        own = {name: dataclasses.replace(value, type=hints[name])
               for name, value in vars(cls).items() if isinstance(value, Field)}
        inherited = {name: f for base in reversed(cls.__mro__[1:]) for name, f in
                     getattr(base, "FIELDS", {}).items()}
        cls.FIELDS = inherited | own

    @classmethod
    def make(cls, **changes) -> ConfigDict:
        """The defaults with some fields changed."""
        config = ConfigDict({name: f.section.make() if f.section else _fresh(f.default)
                             for name, f in cls.FIELDS.items()})
        config.lock().update(changes)
        return config.unlock()

    @classmethod
    def completed(cls, recorded: Mapping) -> dict:
        """Fields that a version of before recorded, with the defaults of those that came since."""
        out = dict(recorded)
        for name, f in cls.FIELDS.items():
            if name not in out:
                out[name] = f.section.make().to_dict() if f.section else f.default
            elif f.section and isinstance(out[name], Mapping):
                out[name] = f.section.completed(out[name])
        return out

    @classmethod
    def check(cls, config, where: str = "config.system") -> None:
        """UserError for the first field of `config` that is missing, of another type, none of its
        choices or out of bounds, or that does not fit another field.

        Args:
          config: a (frozen) ConfigDict of these fields; further ones are not looked at.
          where: its key.
        """
        for name, f in cls.FIELDS.items():
            if name not in config:
                raise UserError("the config lacks a field", where=f"{where}.{name}",
                                expected=f"{f.type_name}, by default {f.default!r}",
                                hint="add it, or begin with the default config")
            if f.section is None:
                _check_value(f, config[name], f"{where}.{name}")
            elif isinstance(config[name], Mapping | ConfigDict):
                f.section.check(config[name], f"{where}.{name}")
            else:
                _wrong_type(f, config[name], f"{where}.{name}")
        cls.relations(config, Need(config, where))

    @staticmethod
    def relations(c, need: "Need") -> None:
        """What must hold between fields: calls `need(condition, field, expected, hint=...)`. Runs
        once each field by itself is valid."""


@dataclasses.dataclass(frozen=True)
class Need:
    """Raises UserError for a field of `config` unless a condition holds."""

    config: Any
    where: str

    def __call__(self, good: bool, name: str, expected: str, hint: str = "") -> None:
        if not good:
            value = self.config
            for key in name.split("."):
                value = value[key]
            raise UserError("a config value is not valid", where=f"{self.where}.{name}",
                            expected=expected, found=repr(plain(value)), hint=hint)


def _check_value(f: Field, value: Any, where: str) -> None:
    if not _is_a(value, f.type):
        _wrong_type(f, value, where)
    values = value if isinstance(value, tuple | list) else (value,)
    if f.choices:
        choices = f.choices()
        for item in values:
            if item not in choices:
                name = where.rpartition(".")[2].replace("_", " ")
                raise UserError(f"unknown {name}", where=where, found=repr(item),
                                expected=" | ".join(str(c) or "''" for c in choices))
    if f.bounds and not all(f.allows(item) for item in _numbers(values)):
        raise UserError("a config value is out of range", where=where, expected=f.bounds,
                        found=repr(value))


def _wrong_type(f: Field, value: Any, where: str):
    raise UserError("a config value has the wrong type", where=where, expected=f.type_name,
                    found=repr(plain(value)))


def _numbers(values) -> Iterator:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _numbers(value)
        else:
            yield value


def _is_a(value: Any, kind: Any) -> bool:
    """Lists count as tuples (JSON has no other), whole numbers as floats."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is float:
        return isinstance(value, numbers.Real)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(_is_a(value, option) for option in typing.get_args(kind))
    if kind is types.NoneType:
        return value is None
    if kind is Mapping:
        return isinstance(value, Mapping | ConfigDict)
    if kind is tuple:
        return isinstance(value, tuple | list)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            return all(_is_a(item, kinds[0]) for item in value)
        return len(value) == len(kinds) and all(map(_is_a, value, kinds))
    return isinstance(value, kind)


def _type_name(kind: Any) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text",
             tuple: "a list", Mapping: "a mapping", types.NoneType: "None"}
    if kind in names:
        return names[kind]
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if inner[-1] is Ellipsis:
            return f"a list of {_plural(inner[0])}"
        return f"({', '.join(_type_name(item) for item in inner)})"
    return " or ".join(_type_name(item) for item in inner)


def _plural(kind: Any) -> str:
    names = {int: "whole numbers", float: "numbers", str: "texts", bool: "True or False",
             Mapping: "mappings"}
    return names.get(kind) or _type_name(kind)


def plain(value: Any) -> Any:
    """A (frozen) ConfigDict as nested dicts; anything else as it is."""
    if isinstance(value, FrozenConfigDict):
        value = value.as_configdict()
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _fresh(default: Any) -> Any:
    return ConfigDict(default) if isinstance(default, Mapping) else default


@dataclasses.dataclass(frozen=True)
class Entry:
    """A field of a config with its value, for people and programs.

    Attributes:
      key: such as "train.steps".
      value: plain; None for a section.
      default: the schema's.
      resume: a key of `RESUME`.
    """

    key: str
    type: str
    doc: str
    choices: tuple
    bounds: str
    default: Any
    value: Any
    resume: str
    is_section: bool = False

    @property
    def changed(self) -> bool:
        return not self.is_section and self.value != self.default


def describe(schema: type[Section], config, prefix: str = "", resume: str = "fixed",
             defaults=None) -> Iterator[Entry]:
    """Every field of a config in the schema's order, sections before their fields; then those that
    the schema does not have, without a document. `defaults`: see `Entry.default`."""
    defaults = schema.make() if defaults is None else defaults
    for name, f in schema.FIELDS.items():
        key, kept = f"{prefix}{name}", f.resume or resume
        choices = tuple(f.choices()) if f.choices else ()
        if f.section:
            yield Entry(key, f.type_name, f.doc, (), "", None, None, kept, True)
            yield from describe(f.section, config[name], f"{key}.", kept, defaults[name])
        elif name in config:
            yield Entry(key, f.type_name, f.doc, choices, f.bounds, plain(defaults[name]),
                        plain(config[name]), kept)
    for name, value in config.items():
        if name not in schema.FIELDS:
            yield Entry(f"{prefix}{name}", type(plain(value)).__name__, "", (), "", None,
                        plain(value), resume)


def resume_of(schema: type[Section], key: str) -> str:
    """The key of `RESUME` of a field "a.b"; of one that is not declared, its section's."""
    resume = "fixed"
    for name in key.split("."):
        f = schema.FIELDS.get(name)
        if f is None:
            break
        resume = f.resume or resume
        schema = f.section or Section
    return resume
