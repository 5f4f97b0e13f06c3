"""Sweeps over config values, one job per combination, with the values in its name and workdir:

    --sweep=config.optimizer.learning_rate=1e-4,3e-4 --sweep=config.seed=0,1,2      is six jobs
    --sweep=config=highway,separate         runs --config=FILE.py:highway and FILE.py:separate
"""

import dataclasses
import itertools
import re

from avjax.errors import UserError
from launch import overrides

# Letters of a job's name: xpk's limit, which leaves room for JobSet's suffixes in a pod's 63.
LONGEST = 40
VARIANT = "config"  # the axis whose values follow --config=FILE.py


@dataclasses.dataclass(frozen=True)
class Point:
    """One combination.

    Attributes:
      overrides: "--config.a.b=value".
      values: {short name of the key: value}, as in the label.
      variant: what follows the config's file, see VARIANT; "" = nothing.
      alike: another combination has the same values in a job's name (a=-1 and a=1).
    """

    overrides: tuple[str, ...] = ()
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    variant: str = ""
    index: int = 0
    alike: bool = False

    @property
    def label(self) -> str:
        """Added to the job's name and workdir; "" = no sweep."""
        return "_".join(f"{name}={value}" for name, value in self.values.items())

    def config(self, path: str) -> str:
        """--config of this job."""
        return f"{path}:{self.variant}" if self.variant else path

    def name(self, base: str) -> str:
        """The job's name: with the values, or with the combination's number where those are too
        long or alike."""
        if not self.label:
            return base
        name = f"{base}-{slug(self.label)}"
        return f"{base}-{self.index:03d}" if self.alike or len(name) > LONGEST else name

    def workdir(self, base: str) -> str:
        return f"{base.rstrip('/')}/{self.label}" if self.label and base else base


def points(specs: list[str]) -> list[Point]:
    """The product of all specs ("config.KEY=VALUE,VALUE,..."), the last one changing fastest; one
    plain point for none.

    Commas inside brackets or quotes belong to a value. Raises UserError: not of that form, a key or
    a value twice.
    """
    axes = [_axis(spec) for spec in specs]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise UserError("a key is swept twice", where="--sweep", found=", ".join(keys),
                        hint="name all its values once")
    last = [key.rpartition(".")[2] for key in keys]
    short = [leaf if last.count(leaf) == 1 else key for leaf, key in zip(last, keys, strict=True)]
    out = []
    for index, values in enumerate(itertools.product(*(values for _, values in axes))):
        of = dict(zip(keys, values, strict=True))
        variant = of.pop(VARIANT, "")
        named = dict(zip(short, map(_plain, values), strict=True))
        changed = tuple(f"--config.{key}={value}" for key, value in of.items())
        out.append(Point(changed, named, variant, index))
    if len({point.label for point in out}) < len(out):
        raise UserError("two combinations have the same name", where="--sweep",
                        found=", ".join(specs),
                        expected="values that differ in letters, digits, dots or signs")
    alike = len({slug(point.label) for point in out}) < len(out)
    return [dataclasses.replace(point, alike=alike) for point in out]


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes, as clusters require of names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def check_name(name: str) -> None:
    """Raises UserError unless clusters accept it as a job's name."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > LONGEST:
        raise UserError("clusters do not take this name", where="--name", found=repr(name),
                        expected=f"at most {LONGEST} of a-z, 0-9 and -, beginning with a letter")


def _axis(spec: str) -> tuple[str, list[str]]:
    key, equals, text = spec.partition("=")
    key = key.removeprefix("--").removeprefix("config.")
    values = overrides.at_commas(text)
    if not key or not equals or not all(values) or len(set(values)) < len(values):
        raise UserError("not a sweep", where="--sweep",
                        expected="config.KEY=VALUE,VALUE,... with different values",
                        found=repr(spec))
    return key, values


def _plain(value: str) -> str:
    """A value as a part of a path."""
    return "-".join(re.sub(r"[^\w.+-]+", " ", value).split())  # a sign stays
