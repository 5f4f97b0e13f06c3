"""Held-out texts and how they were spoken: durations, of every phoneme where they are known
(puppets), and what the tokens spell."""

import functools

import numpy as np

from avjax.signal import mel
from data_pipelines.features.common import ctc
from eval.benchmarks.common import base
from eval.benchmarks.common.targets import Targets
from eval.data import spoken
from eval.registry import TOKENS

TRAINING_CLIPS = 200  # that mean durations are taken from


class Benchmark(base.Benchmark):
    """The variant "mean" has every phoneme at its mean duration in training; where phonemes' times
    are not known, every symbol."""

    name = "text_tokens"
    fields = ("id", "speaker", "text", "phonemes", "symbols", "tokens")

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        super().__init__(config, decoder, dataset, system, clips=clips, full=full)
        self.kind = dataset.recipes.get("tokens", {}).get("kind", "")
        self.timed = "phonemes" in dataset.features

    @property
    def offers(self):
        """See Benchmark.offers."""
        return {TOKENS, "length", "clip", "timed", *["durations"] * self.timed,
                *["letters"] * (self.kind == ctc.KIND)}

    def pictures(self, streams, identity):
        """None: nothing to see."""
        return None

    def read(self, example):
        """The truth."""
        times_S = [t for _, t in self._stretches(example)] if self.timed else None
        return spoken.Spoken(example["tokens"], self.kind, stretches_S=times_S)

    def model(self, streams, variant, split, index):
        """What was made of the example's text."""
        example = self.source(split)[index]
        times_S = None
        if self.timed:
            ids_P = example["symbols"]
            times_S = spoken.shared_out(streams["durations"] / mel.FRAME_RATE, ids_P,
                                        [name for name, _ in self._stretches(example)])
        return spoken.Spoken(streams["tokens"], self.kind, stretches_S=times_S)

    def baseline(self, variant, split, index):
        """See Benchmark.baseline."""
        if variant == "truth":
            return self.truth(split, index)
        if variant == "shuffled":
            count = len(self.source(split))
            step = int(self._draw(split, index).integers(1, max(count, 2)))
            other = self.truth(split, (index + step) % count)
            return spoken.Spoken(other.tokens_TC, self.kind)
        example = self.source(split)[index]
        if not self.timed:
            return spoken.Spoken(None, self.kind,
                                 seconds=self._per_symbol * len(example["symbols"]))
        means = self._means
        rare = float(np.mean(list(means.values())))
        times_S = [means.get(name, rare) for name, _ in self._stretches(example)]
        return spoken.Spoken(None, self.kind, stretches_S=times_S, seconds=sum(times_S))

    def offered(self, signals, truth):
        """See Benchmark.offered."""
        lacks = set() if signals.tokens_TC is not None else {TOKENS, "letters"}
        return self.offers - lacks - ({"durations"} if signals.stretches_S is None else set())

    def frames(self, split, index, signals):
        """Nothing is pooled."""
        return {}

    def targets(self, summary):
        """What a model that has learned must reach on a held-out split."""
        targets = Targets(summary)
        value = targets.value
        if targets.has("model", "phoneme_error"):
            targets.add("phoneme_error", "< that of mean durations",
                        value("model", "phoneme_error"), "<", value("mean", "phoneme_error"))
        targets.add("token_error", "< 0.25 of shuffled", value("model", "token_error"), "<",
                    0.25 * value("shuffled", "token_error"))
        return targets.rows

    def _stretches(self, example):
        return spoken.stretches(example["phonemes"])

    @functools.cached_property
    def _training(self):
        source = self._source(self.dataset, self.config.data.train_split, self.fields)
        return [source[i] for i in range(min(len(source), TRAINING_CLIPS))]

    @functools.cached_property
    def _means(self):
        return spoken.mean_durations(self._training)

    @functools.cached_property
    def _per_symbol(self) -> float:
        frames = sum(len(e["tokens"]) for e in self._training)
        return frames / mel.FRAME_RATE / sum(len(e["symbols"]) for e in self._training)
