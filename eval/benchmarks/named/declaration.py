"""What a named benchmark is: which recordings, what a system is given and makes, how sound and
pictures are taken, which metrics, and what a paper reports beside them."""

import dataclasses
import textwrap
from collections.abc import Mapping

from avjax.errors import UserError
from data_pipelines import prepare
from eval.data.recorded import MIDDLE, Frame
from eval.registry import AUDIO, MOTION, all_metrics

WIDTH = 100  # of a list for the terminal


@dataclasses.dataclass(frozen=True)
class Column:
    """Numbers that a paper reports.

    Attributes:
      source: the paper, and where in it.
      values: {metric of ours: its number}.
      note: what holds for all of them.
      caveats: {metric: in what its definition differs from ours, or is not known}.
      elsewhere: {metric that nothing here computes: its number}.
    """

    source: str
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""
    caveats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    elsewhere: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if strange := self.caveats.keys() - self.values.keys():
            raise ValueError(f"caveats of what is not reported: {sorted(strange)}")


@dataclasses.dataclass(frozen=True)
class Named:
    """One benchmark.

    Attributes:
      name: of `--benchmark`.
      about: one line.
      corpora: of `avjax prepare --dataset`, whose clips it is of; a folder of recordings will do
        for `--generated`.
      splits: that are scored.
      given: what a system is given.
      made: AUDIO, MOTION: what is scored of generated files; a mute film is heard with the
        recording's sound.
      free_length: whether a system decides how long its files are; else they must be as long as the
        recordings.
      frame: how pictures of files are taken. Clips that keep pictures were taken otherwise where
        their recipe says so, and generated files are then taken as they were.
      metrics: {metric: protocol, as the paper has it, or why this one}; empty: all that there are.
      columns: {name: what a paper reports}.
      no_column: why there is none.
      as_configured: a checkpoint is scored by its config's own benchmark, instead of the one for
        real recordings.
    """

    name: str
    about: str
    _: dataclasses.KW_ONLY
    corpora: tuple[str, ...]
    splits: tuple[str, ...]
    given: str
    made: tuple[str, ...] = (AUDIO, MOTION)
    free_length: bool = False
    frame: Frame = Frame(25, MIDDLE)
    metrics: Mapping[str, str] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    no_column: str = ""
    as_configured: bool = False

    def check(self) -> None:
        """ValueError for metrics or corpora that there are not, or no word about a paper."""
        known = {m.name for m in all_metrics()}
        used = {*self.metrics, *(m for c in self.columns.values() for m in c.values)}
        if used - known or set(self.corpora) - set(prepare.names()):
            raise ValueError(f"benchmark {self.name}: unknown {sorted(used - known)} or "
                             f"{self.corpora}")
        if not self.columns and not self.no_column:
            raise ValueError(f"benchmark {self.name}: no column, and no word why")

    @property
    def published(self) -> dict[str, dict]:
        """The papers' columns as results.json has them."""
        return {name: {"source": c.source, "note": c.note, "caveats": dict(c.caveats),
                       "elsewhere": dict(c.elsewhere),
                       "values": {split: dict(c.values) for split in self.splits}}
                for name, c in self.columns.items()}

    @property
    def protocol(self) -> dict:
        """What it is, for results.json."""
        return {"name": self.name, "about": self.about, "corpora": list(self.corpora),
                "splits": list(self.splits), "given": self.given, "made": list(self.made),
                "free_length": self.free_length, "metrics": dict(self.metrics),
                **({} if self.columns else {"no_column": self.no_column})}


def named(name: str) -> Named:
    """The benchmark of a name. UserError with all names for another one."""
    from eval.benchmarks.named.table import TABLE

    if name not in TABLE:
        raise UserError("no benchmark of this name", where="--benchmark", found=repr(name),
                        expected=" or ".join(TABLE), hint="avjax evaluate --benchmarks lists them")
    return TABLE[name]


def listed() -> str:
    """Every benchmark for the reader."""
    from eval.benchmarks.named.table import TABLE

    lines = []
    for one in TABLE.values():
        about = [one.about, f"data: {', '.join(one.corpora)}, split {' or '.join(one.splits)}",
                 f"given: {one.given}",
                 f"scored: {' and '.join(one.made)}"
                 + ("; lengths are the system's" if one.free_length else ""),
                 f"metrics: {', '.join(one.metrics) or 'all that can be computed'}",
                 *(f"{name}: {column.source}" for name, column in one.columns.items())]
        about += [f"no paper's column: {one.no_column}"] if not one.columns else []
        lines += [one.name, *(line for text in about for line in textwrap.wrap(
            text, WIDTH, initial_indent="  ", subsequent_indent="      ")), ""]
    return "\n".join(lines)
