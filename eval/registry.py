"""What a metric is, and the list of all of them.

A metric is declared once, at the end of the file of eval/metrics that computes it:

    declare("jerk", "down", "mean third difference of the face codes", family="motion",
            needs=("motion", "face"), score=jerk, recipe=lambda benchmark: RECIPE)

Tables, the report, the recipes in results.json, the evaluation in the loop and docs/metrics.md read
these declarations; nothing else lists metrics. Files are found by their place.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from eval import packages, pooling
from eval.metrics import alignment
from eval.networks.files import TABLE

BETTER = {"up": "higher is better", "down": "lower is better",
          "truth": "nearer to the truth is better", "zero": "nearer to 0 is better",
          "": "for comparison"}
# in the order of tables; a family that is not listed comes last
FAMILIES = ("lips", "expression", "pictures", "reactions", "motion", "diversity", "beats", "sound",
            "words", "length", "listening", "turn-taking", "retrieval", "speed")
# suffix of a metric's name -> what of a speaker's motion it is computed from
PARTS = {"e": "face codes", "h": "head pose", "m": "motion codes"}

AUDIO, MOTION, TOKENS = "audio", "motion", "tokens"  # what a variant may have made itself
NEEDS = {
    AUDIO: "sound that the variant made itself",
    MOTION: "motion that the variant made itself",
    TOKENS: "tokens that the variant made of a text",
    "durations": "phonemes whose times are known (puppets)",
    "letters": "tokens that are CTC logits of letters",
    "both": "sound and motion, of which the variant made one at least",
    "face": "motion that is a face code and a head pose",
    "codes": "motion codes that nothing here can take apart (LIA-X)",
    "lips": "face codes that tell the lip aperture (puppets), or landmarks of the pictures",
    "points": "landmarks of the pictures (clips that have them, and the package that finds them)",
    "pictures": "pictures that can be drawn; left out in the loop",
    "partner": "features that know the partner of a conversation",
    "turns": "clips whose events say who has the floor",
    "waveform": "the decoded waveform; left out in the loop",
    "words": "transcripts whose words the recogniser knows",
    "length": "a variant whose length was no input",
    "free": "a system that decides lengths itself",
    "patches": "a system that makes sound in patches of one length",
    "clip": "examples of one speaker",
    "each": "examples of one speaker, or of several who are scored one by one",
    "warped": "sound that may be warped in time to the truth's: of dialogues only that with their "
              "timing, up to half a minute",
    "conversation": "examples of several speakers, one channel each",
    "timed": "streams that a model made in this run, without compiling",
    "resynthesis": "a vocoder: sound of the truth's own mel",
    "voices": "a system that makes voice embeddings",
}
CODEC = "codec:"  # and the name of a codec or network whose weights the dataset carries
NETWORK = "network:"  # and the name of one of eval/networks/files.py, whose file the user has
PACKAGE = "package:"  # and the name of one of eval/packages.py


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """One number of the table.

    Attributes:
      name: its name in rows, tables, results.json and logs.
      better: a key of BETTER.
      meaning: one line for the report.
      family: heading in docs/metrics.md, and place in tables.
      recipe: benchmark -> the definition that is stored beside the number.
      score: Case -> entries of the example's row (plain JSON); None if the metric is pooled from
        stored frames, or from entries of another metric's `score`. Metrics that share a function
        share its one call.
      pool: (name, Pool) -> {"value", "n", "low", "high"} of all examples, or None where there is
        nothing; its `label` says how examples are pooled.
      unit: of the number; empty if it has none.
      needs: keys of NEEDS, or CODEC, NETWORK or PACKAGE + name.
      keep: Case -> {name: array} that `pool` finds in Pool.frames (float32), for what is too large
        for a row; not in the loop.
      in_loop: whether it is computed and logged during training.
      of_shuffled: whether its ratio to the shuffled baseline is logged there, too.
    """

    name: str
    better: str
    meaning: str
    _: dataclasses.KW_ONLY
    family: str
    recipe: Callable[[Any], dict]
    score: Callable[["Case"], dict] | None = None
    pool: Callable[[str, "Pool"], dict | None] = pooling.by_mean
    unit: str = ""
    needs: tuple[str, ...] = ()
    keep: Callable[["Case"], dict[str, np.ndarray]] | None = None
    in_loop: bool = False
    of_shuffled: bool = False

    def __post_init__(self):
        known = {*NEEDS, *(NETWORK + name for name in TABLE),
                 *(PACKAGE + name for name in packages.TABLE)}
        unknown = [n for n in self.needs if n not in known and not n.startswith(CODEC)]
        if unknown or self.better not in BETTER or not self.meaning:
            raise ValueError(f"metric {self.name!r}: unknown needs {unknown}, no such direction "
                             f"{self.better!r} or no meaning")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of eval/networks/files.py that it needs."""
        return tuple(n.removeprefix(NETWORK) for n in self.needs if n.startswith(NETWORK))

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages of eval/packages.py that it needs."""
        return tuple(n.removeprefix(PACKAGE) for n in self.needs if n.startswith(PACKAGE))

    def met_by(self, offers: Iterable[str]) -> bool:
        """Whether these are all that it needs, networks and packages aside."""
        return set(offers).issuperset(n for n in self.needs
                                      if not n.startswith((NETWORK, PACKAGE)))

    @property
    def explanation(self) -> str:
        """Meaning and direction for a reader of the report."""
        return f"{self.meaning}; {BETTER[self.better]}"


@dataclasses.dataclass
class Case:
    """One variant of one example beside the truth: what `Metric.score` gets.

    `signals` and `truth` are eval.data.clips.Signals or eval.data.conversations.Conversation.
    """

    benchmark: Any
    split: str
    index: int
    signals: Any
    truth: Any

    @functools.cached_property
    def aligned(self) -> bool:
        """Whether frame k of the variant belongs to frame k of the truth."""
        return self.benchmark.aligned(self.signals, self.truth)

    @functools.cached_property
    def path(self) -> np.ndarray:
        """(L, 2) time warping of the variant's sound to the truth's."""
        return alignment.align(self.signals.mel_TM, self.truth.mel_TM)

    def pictures(self, signals) -> tuple[int, Iterator[np.ndarray]]:
        """How many pictures there are of `signals` (the variant's, or `truth`), at
        `benchmark.decoder.fps`, and each (H, W, 3) uint8 RGB, made when it is asked for. Both are
        drawn as the example's own person."""
        identity = self.benchmark.identity(self.split, self.index)
        return self.benchmark.decoder.pictures(signals.streams, **identity)


class Pool:
    """All examples of one variant: what `Metric.pool` gets.

    Args:
      benchmark: that scored them.
      rows: one an example, with the entries of `Metric.score`.
      frames: {name: array} an example, as `Benchmark.frames` and `Metric.keep` made them.
    """

    def __init__(self, benchmark, rows: list[dict], frames: list[Mapping[str, np.ndarray]]):
        self.benchmark, self.rows, self.frames = benchmark, rows, frames
        self._memo: dict[Callable, Any] = {}

    def entries(self, key: str) -> list:
        """Entries `key` of all rows that have one."""
        return [row[key] for row in self.rows if key in row]

    def once(self, function: Callable[["Pool"], Any]) -> Any:
        """`function(self)`, computed once for all metrics that share it."""
        if function not in self._memo:
            self._memo[function] = function(self)
        return self._memo[function]


_DECLARED: dict[str, Metric] = {}


def declare(name: str, better: str, meaning: str, **fields) -> None:
    """Adds a Metric of these fields. ValueError if another has its name, or a field is wrong."""
    if name in _DECLARED:
        raise ValueError(f"two metrics are called {name!r}")
    _DECLARED[name] = Metric(name, better, meaning, **fields)


def needed(part: str) -> str:
    """The need of a metric of one of PARTS."""
    return "codes" if part == "m" else "face"


def forget(name: str) -> None:
    """Removes a metric."""
    del _DECLARED[name]


@functools.cache
def load() -> None:
    """Imports every file of eval/metrics and its folders, once."""
    from eval import metrics

    for module in pkgutil.walk_packages(metrics.__path__, f"{metrics.__name__}."):
        importlib.import_module(module.name)


def all_metrics() -> list[Metric]:
    """Every declared metric in the order of tables: those of networks last in their family,
    whichever file was imported first."""
    load()
    return sorted(_DECLARED.values(), key=lambda m: (
        FAMILIES.index(m.family) if m.family in FAMILIES else len(FAMILIES), m.networks))


def markdown() -> str:
    """docs/metrics.md: what every metric means, by family."""
    lines = ["# Metrics", "",
             "Written by `avjax evaluate --list` from the declarations in `eval/metrics`"
             " (`eval/registry.py` says how to add one).",
             "*Better*: `up`, `down`, nearer to the `truth`'s, nearer to `zero`, or nothing for a"
             " number that others are compared with. *Loop*: logged during training, with `ratio`"
             " also as a share of another example's. The exact definition of every number travels"
             " in `results.json` under `recipes`, by the metric's name."]
    found = all_metrics()
    for family in dict.fromkeys(m.family for m in found):
        lines += ["", f"## {family[:1].upper()}{family[1:]}", "",
                  "| metric | better | meaning | unit | pooled | needs | loop |",
                  "|---|---|---|---|---|---|---|"]
        for m in (m for m in found if m.family == family):
            loop = "ratio" if m.of_shuffled else "yes" if m.in_loop else ""
            lines.append(f"| `{m.name}` | {m.better} | {m.meaning} | {m.unit} | {m.pool.label} | "
                         f"{', '.join(m.needs)} | {loop} |")
    lines += ["", "## What metrics need", "", "| need | |", "|---|---|",
              *(f"| {name} | {text} |" for name, text in NEEDS.items()),
              f"| {CODEC}NAME | a codec or network whose weights the dataset carries |",
              f"| {NETWORK}NAME | a published network, in the folder of `--networks` |",
              *(f"| {PACKAGE}{name} | `{how}` |" for name, how in packages.TABLE.items()), "",
              "## Published networks", "",
              "`avjax evaluate --networks=DIR` looks for these files; a metric whose file is not "
              "there is not measured, and its row says so ([networks.md](networks.md)).", "",
              "| network | file | published at | licence |", "|---|---|---|---|",
              *(f"| {name} | {' or '.join(f'`{file}`' for file in n.files)} | {n.where} | "
                f"{n.licence or 'none given'} |" for name, n in TABLE.items())]
    return "\n".join(lines) + "\n"
