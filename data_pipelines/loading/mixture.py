"""Several sources in one endless stream of rows, each with its share of it, and what has been drawn
from each.

The source of a row depends on the row's number alone: of any k first rows a source has its share,
to within a row or so. Grain's own `mix` makes whole numbers of the weights (.7 and .3 become 233
and 100) and ends with the smallest source; here shares are exact and every source is endless.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import grain

from avjax.errors import UserError
from data_pipelines.store.dataset import Dataset
from data_pipelines.store.schema import recipe_hash


@dataclasses.dataclass(frozen=True)
class Part:
    """A source of a mixture: a split of an opened dataset, its weight, and how the system is to see
    its examples (one of `System.rows.views`; "" = as it sees any)."""

    dataset: Dataset
    split: str
    weight: float = 1.0
    view: str = ""


class Interleaving(grain.transforms.DatasetSelectionMap):
    """Which source a row is of, and which of that source's rows it is: a pure function of its
    number.

    Args:
      weights: of the sources, above 0. Shares are those of the decimal numbers as written.
      length: rows that the stream pretends to have.
    """

    def __init__(self, weights: Sequence[float], length: int):
        exact = [Fraction(str(weight)) for weight in weights]
        whole = math.lcm(*(weight.denominator for weight in exact))
        self._parts = [int(weight * whole) for weight in exact]
        self._length = length

    def __len__(self) -> int:
        return self._length

    @property
    def shares(self) -> list[float]:
        """Of the sources; they sum to 1."""
        return [part / sum(self._parts) for part in self._parts]

    def drawn(self, rows: int) -> list[int]:
        """How many of the first `rows` rows are of each source."""
        counts, left, total = [], rows, sum(self._parts)
        for part in self._parts:
            after = left * (total - part) // total
            counts.append(left - after)
            left, total = after, total - part
        return counts

    def __getitem__(self, index: int) -> tuple[int, int]:
        before, after = self.drawn(index), self.drawn(index + 1)
        source = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        return source, before[source]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What an endless stream of batches takes from its sources.

    Attributes:
      parts: the sources.
      batch_size: rows a batch.
      interleaving: of the sources' rows.
      examples: of each source, how many examples its first n rows hold.
      sizes: of each source, the examples of an epoch.
    """

    parts: tuple[Part, ...]
    batch_size: int
    interleaving: Interleaving
    examples: tuple[Callable[[int], int], ...]
    sizes: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """folder.split of each, a view behind it; numbered where two are alike."""
        plain = [".".join(filter(None, (p.dataset.dir.name, p.split, p.view))) for p in self.parts]
        times = collections.Counter(plain)
        return tuple(name if times[name] == 1 else f"{i}.{name}" for i, name in enumerate(plain))

    def after(self, batches: int) -> dict[str, float]:
        """{"NAME/examples": drawn by the first `batches` batches, "NAME/epochs": how often each was
        seen}. Exact: counted from the order, which is the same however often a run was resumed."""
        found = {}
        for name, count, size, rows in zip(
                self.names, self.examples, self.sizes,
                self.interleaving.drawn(batches * self.batch_size), strict=True):
            drawn = count(rows)
            found |= {f"{name}/examples": drawn, f"{name}/epochs": drawn / size}
        return found

    def report(self, steps: int) -> str:
        """A line a source: its examples, its share, how often a run of `steps` steps sees each."""
        rows = self.interleaving.drawn(steps * self.batch_size)
        lines = ["data"]
        for part, name, share, size, count, n in zip(
                self.parts, self.names, self.interleaving.shares, self.sizes, self.examples, rows,
                strict=True):
            # a long packed run is not planned to its end for a line of print
            shown = min(n, _PLANNED)
            epochs = count(shown) / size * (n / shown if shown else 0)
            lines.append(f"  {name}: {part.dataset.splits[part.split]:,} examples, "
                         f"{share:.1%} of the rows, {epochs:,.3g} epochs in {steps:,} steps "
                         f"({part.dataset.dir})")
        return "\n".join(lines)


COUNTED = frozenset({"filler"})  # keys of recipes: the commonest unit of a corpus' silence
_PLANNED = 20_000  # rows whose examples are counted, of which the rest is estimated


def check_alike(parts: Sequence[Part], names: Sequence[str]) -> list[str]:
    """Compares every source's features `names` and their recipes with the first source's.

    Returns:
      A line for each source whose other columns differ: they are not read.

    Raises:
      UserError: names the first feature or recipe that differs, and both folders.
    """
    first, notes = parts[0].dataset, []
    for other in (part.dataset for part in parts[1:]):
        for name in names:
            _check_same(name, first, other)
        unlike = first.features.keys() ^ other.features.keys()
        if unlike:
            notes.append(f"columns that {first.dir} and {other.dir} do not share, and that this "
                         f"system does not read: {', '.join(sorted(unlike))}")
    return list(dict.fromkeys(notes))


def _check_same(name: str, first: Dataset, other: Dataset) -> None:
    a, b = first.features[name], other.features[name]
    for what, one, two in (("dtype", a.dtype, b.dtype), ("frame rate", a.rate, b.rate),
                           ("unit", a.unit, b.unit), ("recipe", _recipe(first, name),
                                                      _recipe(other, name))):
        if one != two:
            raise UserError(f"sources of a mixture differ in the {what} of {name!r}",
                            where=f"config.data.mixture, {other.dir}",
                            expected=f"{_shown(one)}, as in {first.dir}", found=_shown(two),
                            hint="extract both with the same options and codecs, or train on one")


def _recipe(dataset: Dataset, name: str) -> dict | None:
    """Less what was counted in the corpus, which does not say how the feature is made."""
    recipe = dataset.recipes.get(name)
    return recipe and {key: value for key, value in recipe.items() if key not in COUNTED}


def _shown(value) -> str:
    if not isinstance(value, dict):
        return "none" if value in (None, "") else str(value)
    return recipe_hash(value) + " " + ", ".join(f"{k}={str(v)[:40]}"
                                                for k, v in sorted(value.items())[:8])
