"""What every benchmark does: metrics and their definitions, rows of examples and their summary.

A benchmark scores *variants* of every held-out example by the same code: what the system generated
(of a system with several tasks, one variant a task) and baselines such as the truth. Which metrics
it has follows from what it offers (`offers`) and what each metric needs.
"""

import functools
import json
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.store.schema import recipe_hash
from eval import packages
from eval.data import pictured
from eval.metrics import lips
from eval.networks.files import TABLE, Networks
from eval.registry import AUDIO, CODEC, MOTION, NEEDS, Case, Metric, Pool, all_metrics

MODEL = "model"  # the only variant of a system with one task
# needs that differ between variants
_OF_A_CASE = {AUDIO, MOTION, "both", "length", "voices", "timed"}


def models_of(tasks: tuple[str, ...], wanted: tuple[str, ...]) -> dict[str, str]:
    """{variant: task}. UserError if a wanted task is unknown."""
    if unknown := [task for task in wanted if task not in tasks]:
        raise UserError("unknown task", where="config.evaluate.tasks", expected=" or ".join(tasks),
                        found=", ".join(map(repr, unknown)),
                        hint="leave it empty to score all tasks")
    return {MODEL: tasks[0]} if len(tasks) == 1 else {task: task for task in wanted or tasks}


class Benchmark:
    """Scores generated examples against held-out ones.

    A subclass says what it offers, how an example is read (`read`), what its baselines are
    (`baseline`), what a model's streams are (`model`), and what is pooled (`frames`).

    Args:
      config: the experiment's config (`evaluate.seed`, `evaluate.tasks`, `data.train_split` are
        read).
      decoder: data_pipelines.decode.Decoder of the dataset's codecs.
      dataset: an opened feature dataset with the system's streams.
      system: the system to score: its streams, its tasks and what each of them makes.
      clips: the clip dataset that the features were extracted from, where it is at hand.
      full: False leaves out everything that needs a waveform or a published network (the
        evaluation in the loop).
    """

    name = "base"
    baselines: tuple[str, ...] = ("truth", "shuffled", "mean")
    has_words = False
    truth_title = "ground truth via codec"  # in the report
    has_codes = True  # motion is numbers that can be drawn as curves
    label_field = "speaker"  # what `labels` returns beside the text
    stored_parts: dict[str, str] = {}  # {part of motion: its name in `frames`}
    common_frames: dict = {}  # of recipes: which frames are compared where lengths differ
    pooling_of_motion = "per clip, mean over clips"
    kept_truths = 128
    parties = 1  # who speak in an example
    has_lips = False  # the face codes, or landmarks of the pictures, tell the lip aperture
    lip_recipe = lips.RECIPE
    reader: pictured.Reader | None = None  # of real faces
    not_measured: dict[str, str] = {}  # {metrics: what they need that is not here}
    wanted: tuple[str, ...] = ()  # metrics that a named benchmark has; empty: all that there are
    fields: tuple[str, ...]  # of an example, that scoring needs; absent ones are left out

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        self.config = config
        self.decoder = decoder
        self.dataset = dataset
        self.clips = clips
        self.full = full
        self.models = models_of(system.tasks, tuple(config.evaluate.tasks))
        self.sample_rate = decoder.sample_rate
        self.seed = int(config.evaluate.seed)
        self.networks = Networks(getattr(config.evaluate, "networks", "") if full else "")
        self._truths: dict[tuple[str, int], object] = {}
        self._sources: dict[tuple, object] = {}
        self._labels: dict[str, tuple[list[str], list[str]]] = {}

    def read_pictures(self, shown: bool) -> None:
        """Reads lips, smiles and blinks off the pictures of every variant from now on, where clips
        have landmarks; else `not_measured` says what is missing. shown: whether there are
        pictures."""
        self.reader, lacking = pictured.reader(self.clips, shown, self.decoder.fps)
        if self.reader:
            self.has_lips, self.lip_recipe = True, self.reader.lip_recipe
        elif lacking:
            self.not_measured = {pictured.NAMES: lacking}

    @property
    def variants(self) -> tuple[str, ...]:
        """What is scored: models first."""
        return (*self.models, *self.baselines)

    # ---- metrics and their definitions

    @property
    def offers(self) -> set[str]:
        """Keys of registry.NEEDS that at least one variant meets."""
        return {AUDIO, MOTION, "both", "timed", *(f"{CODEC}{name}" for name in self.dataset.codecs)}

    @functools.cached_property
    def metrics(self) -> list[Metric]:
        """Those whose needs are met, in the order of tables."""
        return [m for m in self._possible
                if self.networks.found(m.networks) and packages.found(m.packages)]

    @functools.cached_property
    def without_network(self) -> dict[str, str]:
        """{metric that would be scored if its network's file, or its package, were here: what it
        needs}, and of the metrics that are `wanted` also those that lack something else."""
        if not self.full:
            return {}
        lacking = {m.name: [*self.networks.lacking(m.networks), *packages.lacking(m.packages)]
                   for m in self._possible}
        return {name: "needs " + ", ".join(of) for name, of in lacking.items() if of} | self._unmet

    @property
    def _unmet(self) -> dict[str, str]:
        """{metric that is wanted: what nothing here offers}."""
        offers = self.offers
        return {m.name: "needs " + "; ".join(NEEDS[n] for n in m.needs
                                             if n in NEEDS and n not in offers)
                for m in all_metrics() if m.name in self.wanted and not m.met_by(offers)}

    @property
    def _possible(self) -> list[Metric]:
        offers = self.offers
        return [m for m in all_metrics()
                if m.met_by(offers) and (not self.wanted or m.name in self.wanted)]

    def load_networks(self) -> None:
        """Reads the networks that metrics need. UserError for a file of another network, and where
        none of the metrics that are wanted can be computed."""
        if self.wanted and not self.metrics:
            lacking = "; ".join(dict.fromkeys(self.without_network.values()))
            raise UserError("no metric of this benchmark can be computed",
                            where=str(self.dataset.dir), expected=", ".join(self.wanted),
                            found=lacking)
        for name in dict.fromkeys(name for m in self.metrics for name in m.networks):
            self.networks[name]

    def hear_ahead(self, makes: Iterable[Callable[[], Any]]) -> None:
        """Lets networks hear the sounds of several examples together; scoring each finds what they
        made. makes: functions that give Signals. What fails here fails again, and is listed, when
        its example is scored."""
        names = [name for name in dict.fromkeys(name for m in self.metrics for name in m.networks)
                 if TABLE[name].ahead]
        waves: list[np.ndarray] = []
        for make in makes if names else ():
            with failures.tolerated("", lambda *_: None):
                signals = make()
                waves += self.sounds(signals) if AUDIO in signals.scored else []
        for name in names:
            with failures.tolerated("", lambda *_: None):
                self.networks[name].ahead(waves, self.sample_rate)

    def sounds(self, signals) -> list[np.ndarray]:
        """Waveforms that networks judge, each by itself."""
        return [signals.waveform]

    @functools.cached_property
    def recipes(self) -> dict[str, dict]:
        """{metric: how it is computed}; travels with the numbers."""
        return {m.name: self.recipe_of(m) for m in self.metrics} | dict(self.decoder.decoding)

    def recipe_of(self, metric: Metric) -> dict:
        """With the files of its networks."""
        return metric.recipe(self) | self.networks.recipe(metric.networks)

    @functools.cached_property
    def recipe_hash(self) -> str:
        """Changes whenever a stored row could have come out differently for the same parameters."""
        return recipe_hash(self._row_recipe())

    def _row_recipe(self) -> dict:
        data = {k: v for k, v in self.dataset.checksums.items() if k != "dataset_info.json"}
        return {"recipes": self.recipes, "seed": self.seed,
                "data": json.dumps(data, sort_keys=True),
                "train_split": self.config.data.train_split, "benchmark": self.name}

    # ---- data

    def source(self, split: str):
        """Examples of a split, with the fields that scoring needs."""
        return self._source(self.dataset, split, self.fields)

    def _source(self, dataset, split: str, fields: tuple[str, ...]):
        """With those of the fields that the dataset has. Kept: opening a source costs more than
        reading an example."""
        key = id(dataset), split, fields
        if key not in self._sources:
            self._sources[key] = dataset.source(split, tuple(
                dict.fromkeys(f for f in fields if f in dataset.features)))
        return self._sources[key]

    def labels(self, split: str) -> tuple[list[str], list[str]]:
        """(`label_field`s, texts) of a split, in record order; empty strings where the dataset has
        none, or the example cannot be read: it fails when it is scored."""
        if split not in self._labels:
            names = self.label_field, "text"
            fields = tuple(name for name in names if name in self.dataset.features)
            source, examples = self.dataset.source(split, fields) if fields else (), []
            for index in range(self.dataset.splits[split]):
                example = {}
                with failures.tolerated(index, lambda *_: None):
                    example = source[index] if fields else {}
                examples.append(example)
            self._labels[split] = tuple([e.get(name, "") for e in examples] for name in names)
        return self._labels[split]

    def select(self, split: str, count: int) -> list[int]:
        """Indices of the examples to score: all that can be, or a fixed random subset of `count`
        (in order of the checksums of their ids)."""
        ids = self.source(split).ids
        order = sorted(self._candidates(split), key=lambda i: (zlib.crc32(ids[i].encode()), ids[i]))
        return order[:count] if count else order

    def _candidates(self, split: str):
        return range(len(self.source(split).ids))

    def _draw(self, split: str, index: int) -> np.random.Generator:
        """Random numbers that depend on the seed and the example's id only."""
        return np.random.default_rng([self.seed,
                                      zlib.crc32(self.source(split).ids[index].encode())])

    def identity(self, split: str, index: int) -> dict:
        """What `pictures` needs beside streams."""
        return {}

    def pictures(self, streams, identity: dict) -> np.ndarray | None:
        """(N, H, W, 3) uint8 at `picture_fps`; None where none can be drawn."""
        raise NotImplementedError

    def speaking(self, split: str, index: int, frames: int) -> np.ndarray | None:
        """(speakers, frames) bool at `motion_fps`: who speaks in the truth of an example; None
        where nobody knows."""
        return None

    def given(self, variant: str, example: dict) -> dict:
        """The example that a variant is generated from."""
        return example

    def generator_of(self, variant: str, generator):
        """What generates a variant: avjax.inference.generator.Generator."""
        return generator

    # ---- variants

    def content(self, variant: str, split: str, index: int) -> str:
        """What decides one example of a variant in place of parameters: of a file, its digest;
        "" where there is none."""
        return ""

    def truth(self, split: str, index: int):
        """The example's own features through the codecs; the last `kept_truths` are kept, since
        all variants need them."""
        key = split, index
        if key not in self._truths:
            while len(self._truths) >= self.kept_truths:
                self._truths.pop(next(iter(self._truths)))
            self._truths[key] = self.read_at(split, index)
        return self._truths[key]

    def read_at(self, split: str, index: int):
        """Signals of one example of the dataset."""
        return self.read(self.source(split)[index])

    def read(self, example: dict):
        """Signals of an example's own features."""
        raise NotImplementedError

    def model(self, streams: dict[str, np.ndarray], variant: str, split: str, index: int):
        """Signals of generated streams."""
        raise NotImplementedError

    def baseline(self, variant: str, split: str, index: int):
        """Signals of one of `baselines` for one example."""
        raise NotImplementedError

    # ---- scores and summary

    def aligned(self, signals, truth) -> bool:
        """Whether frame k of a variant belongs to frame k of the truth."""
        return True

    def offered(self, signals, truth) -> set[str]:
        """The needs that one variant of one example meets."""
        own = signals.scored & truth.scored
        out = (self.offers - _OF_A_CASE) | own
        if own and all(s.has_audio and s.has_motion for s in (signals, truth)):
            out.add("both")
        if signals.own_length and truth.length:
            out.add("length")
        timed = vars(signals).get("computed_s") is not None
        if timed and signals.scored and signals.seconds:  # else it made nothing that lasts
            out.add("timed")
        if len(signals.streams.get("voices", ())):
            out.add("voices")
        if self.reader and MOTION in own and not (signals.expressions and truth.expressions):
            out -= {"lips", "points"}  # no face is seen in the pictures
        return out

    def score(self, split: str, index: int, signals) -> dict:
        """One row: numbers and counts of one variant of one example, as plain JSON. Only what the
        variant made itself is scored."""
        return self._made_by("score", split, index, signals)

    def kept(self, split: str, index: int, signals) -> dict[str, np.ndarray]:
        """{name: array} that metrics keep of one variant of one example, to be pooled with
        `frames`."""
        return self._made_by("keep", split, index, signals)

    def _made_by(self, kind: str, split: str, index: int, signals) -> dict:
        """Of one function of all metrics that this variant can be scored by."""
        case, out = Case(self, split, index, signals, self.truth(split, index)), {}
        for function in self._functions(kind, self.metrics, case):
            out |= function(case)
        return out

    def _functions(self, kind: str, metrics: list[Metric], case: Case) -> list:
        """Each function of the metrics once."""
        offered = self.offered(case.signals, case.truth)
        return list(dict.fromkeys(getattr(m, kind) for m in metrics
                                  if getattr(m, kind) and m.met_by(offered)))

    def frames(self, split: str, index: int, signals) -> dict[str, np.ndarray]:
        """{name: (frames, width)} of one variant of one example, which `summarise` pools."""
        raise NotImplementedError

    def summarise(self, rows: list[dict], frames: list[dict[str, np.ndarray]]) -> dict[str, dict]:
        """{metric: {"value", "n", "low", "high"}} of one variant, from outputs of `score`, and of
        `frames` and `kept`."""
        pool = Pool(self, rows, frames)
        entries = {m.name: m.pool(m.name, pool) for m in self.metrics}
        return {name: entry for name, entry in entries.items() if entry is not None}

    def targets(self, summary: dict[str, dict[str, dict]]) -> list[dict]:
        """[{"metric", "target", "value", "limit", "met"}] for one split's {variant: {metric:
        entry}}."""
        return []
