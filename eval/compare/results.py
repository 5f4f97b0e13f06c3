"""Results that are to be compared: read, and refused where their numbers mean different things."""

import dataclasses
import json
from typing import Any

from avjax.errors import UserError
from avjax.storage import paths

FILE = "results.json"
# of recipes, that are no metric's: what made the sound belongs to what is compared
_OF_MODELS = ("vocoder",)


@dataclasses.dataclass(frozen=True)
class Scored:
    """One evaluation.

    Attributes:
      name: as it was given.
      content: of its results.json.
      rows: {split: {id: row}}.
    """

    name: str
    content: dict
    rows: dict[str, dict[str, dict]]

    @property
    def recipes(self) -> dict[str, Any]:
        return {name: recipe for name, recipe in self.content["recipes"].items()
                if name not in _OF_MODELS}


def read(path: str) -> Scored:
    """From a folder with results.json, or the file, local or a URL. UserError: not there, not
    results, or two rows of one example."""
    place = paths.folder(path)
    file = place if place.suffix == ".json" else place / FILE
    try:
        content = json.loads(file.read_text())
        rows: dict[str, dict[str, dict]] = {split: {} for split in content["summary"]}
        _ = content["models"], content["recipes"].items(), content["benchmark"]
        for row in content["rows"]:
            if row["id"] in rows[row["split"]]:
                raise UserError("two rows of one example", where=str(file),
                                found=f"{row['split']}, {row['id']}",
                                hint="avjax evaluate writes the results again")
            rows[row["split"]][row["id"]] = row
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError("no results here", where=str(file), expected="a folder that avjax evaluate "
                        "wrote, or its results.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("unreadable results", where=str(file), expected="what avjax evaluate "
                        "writes", found=f"{type(error).__name__}: {error}",
                        hint="avjax evaluate writes them again") from error
    return Scored(str(path), content, rows)


def check(first: Scored, other: Scored) -> None:
    """UserError unless the numbers of both mean the same: one benchmark, one recipe of every metric
    that both have, the same texts under the same ids, and an example in common."""
    where = f"{first.name}, {other.name}"
    if first.content["benchmark"] != other.content["benchmark"]:
        raise UserError("results of two benchmarks", where=where, expected="the same",
                        found=f"{first.content['benchmark']}, {other.content['benchmark']}")
    for name, recipe in first.recipes.items():
        if name in other.recipes and recipe != (found := other.recipes[name]):
            expected, found = _where_they_differ(recipe, found)
            raise UserError(f"results of two recipes of {name}", where=where, expected=expected,
                            found=found, hint="score both by the same code, options and networks")
    for split, id_, row, theirs in common(first, other):
        if row.get("text") != theirs.get("text"):
            raise UserError("one id, two texts: results of different examples", where=where,
                            expected=f"{split}, {id_}: {row.get('text')!r}",
                            found=repr(theirs.get("text")))
    if not any(True for _ in common(first, other)):
        raise UserError("no example in common", where=where, expected="the same splits and ids",
                        found=f"splits {', '.join(first.rows)} and {', '.join(other.rows)}")


def common(first: Scored, other: Scored):
    """Yields (split, id, row of the first, row of the other) of what both have scored."""
    for split, rows in first.rows.items():
        theirs = other.rows.get(split, {})
        yield from ((split, name, row, theirs[name]) for name, row in rows.items()
                    if name in theirs)


def variants(first: Scored, other: Scored) -> list[tuple[str, str]]:
    """(variant of the first, of the other) that are compared: those of one name; where each has one
    alone, these. UserError where there is none."""
    ours, theirs = first.content["models"], other.content["models"]
    if found := [(v, v) for v in ours if v in theirs]:
        return found
    if len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    raise UserError("no variant in common", where=f"{first.name}, {other.name}",
                    expected=", ".join(ours), found=", ".join(theirs),
                    hint="score the same tasks (--config.evaluate.tasks)")


def _where_they_differ(one: Any, two: Any) -> tuple[str, str]:
    """The first entry of two recipes that is not the same, in both."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(k for k in two if k not in one)]:
            if one.get(key) != two.get(key):
                return tuple(f"{key} = {x[key]}" if key in x else f"no {key}" for x in (one, two))
    return str(one), str(two)
