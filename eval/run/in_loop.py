"""The benchmark's cheap part during training: no waveform is scored, so it costs about one sampling
of a few clips."""

from collections.abc import Callable

import numpy as np

from avjax.hosts import distributed
from avjax.inference.generator import Generator, generate_split
from avjax.training.evaluators import Interrupted, never
from eval.benchmarks.common.base import MODEL
from eval.data.clips import Signals
from eval.registry import AUDIO, MOTION, TOKENS
from eval.report import plots

SHUFFLED = "shuffled"  # the baseline that says how bad a bad score is, where a benchmark has it


class InLoopEvaluator:
    """Scores `config.evaluate.in_loop_examples` clips of the first split; the same code as the
    final evaluation.

    `run(params, step)` returns ({metric: float}, artefacts). "<metric>_of_shuffled" is the ratio to
    the shuffled baseline; artefacts are {"images": {name: (H, W, 3) uint8}, "audio": {name: ((N,)
    float32, Hz)}}. Of a system with several tasks, names begin with "<task>/".
    """

    name = "benchmark"

    def __init__(self, config, system, benchmark, *, every: int | None = None):
        self.every = int(config.train.evaluate_every if every is None else every)
        self.benchmark, self.split = benchmark, tuple(config.evaluate.splits)[0]
        self.generator = Generator(system,
                                   batch_size=min(config.evaluate.batch_size,
                                                  config.evaluate.in_loop_examples),
                                   seed=benchmark.seed, everywhere=distributed.process_count() > 1)
        self.should_stop: Callable[[], bool] = never
        self.indices = benchmark.select(self.split, config.evaluate.in_loop_examples)
        self._shuffled: dict | None = None
        # the log shows the first few: those that tell good from bad come before the truth's own
        logged = sorted(benchmark.metrics, key=lambda m: m.better == "truth")
        self._logged = [m.name for m in logged if m.in_loop]
        self._of_shuffled = [m.name for m in benchmark.metrics if m.of_shuffled
                             and SHUFFLED in benchmark.baselines]
        tasks = ["" if variant == MODEL else f"{variant}/" for variant in benchmark.models]
        names = (*self._logged, *(f"{m}_of_shuffled" for m in self._of_shuffled))
        self.metrics = tuple(task + name for task in tasks for name in names)  # what it may find

    def run(self, params, step: int) -> tuple[dict[str, float], dict[str, dict]]:
        """Generates, scores and draws; a pure function of the parameters."""
        del step
        if self._shuffled is None and self._of_shuffled:
            others = {i: self.benchmark.baseline(SHUFFLED, self.split, i) for i in self.indices}
            self._shuffled = self._summary(others)
        out, images, audio, first = {}, {}, {}, self.indices[0]
        for variant, task in self.benchmark.models.items():
            prefix = "" if variant == MODEL else f"{variant}/"
            streams = generate_split(self.generator, params, self.benchmark.dataset, self.split,
                                     self.indices, task)
            signals = {i: self.benchmark.model(s, variant, self.split, i)
                       for i, s in self._until_stopped(streams)}
            summary = self._summary(signals)
            out |= {prefix + m: summary[m]["value"] for m in self._logged if m in summary}
            out |= {f"{prefix}{m}_of_shuffled":
                    summary[m]["value"] / max(self._shuffled[m]["value"], 1e-12)
                    for m in self._of_shuffled if m in summary}
            images |= {prefix + name: x
                       for name, x in self._pictures(signals[first], first).items()}
            if AUDIO in signals[first].scored:
                audio[f"{prefix}generated"] = signals[first].waveform, self.benchmark.sample_rate
        truth = self.benchmark.truth(self.split, first)
        if TOKENS not in truth.scored:
            audio["truth"] = truth.waveform, self.benchmark.sample_rate
        return out, {"images": images, "audio": audio}

    def _until_stopped(self, streams):
        for made in streams:
            if self.should_stop():
                raise Interrupted
            yield made

    def _summary(self, signals: dict[int, Signals]) -> dict:
        rows = [self.benchmark.score(self.split, i, signals[i]) for i in self.indices]
        frames = [self.benchmark.frames(self.split, i, signals[i]) for i in self.indices]
        return self.benchmark.summarise(rows, frames)

    def _pictures(self, model: Signals, index: int) -> dict[str, np.ndarray]:
        """{name: (H, W, 3) uint8} of what the variant made."""
        truth, images = self.benchmark.truth(self.split, index), {}
        if AUDIO in model.scored & truth.scored:
            images["spectrogram"] = plots.image(plots.spectrogram_pair(model.mel_TM, truth.mel_TM,
                                                                       model.mel_rate))
        if TOKENS in model.scored:
            images["tokens"] = plots.image(plots.token_pair(model.tokens_TC, truth.tokens_TC))
        if MOTION in model.scored & truth.scored:
            pairs, threshold = plots.curve_pairs(self.benchmark, {"generated": model}, truth)
            images["motion"] = plots.image(plots.curves(pairs, self.benchmark.motion_fps,
                                                        threshold))
            strip = self._faces(model, truth, index)
            if strip is not None:
                images["face"] = strip
        return images

    def _faces(self, model: Signals, truth: Signals, index: int,
               count: int = 6) -> np.ndarray | None:
        """(2 H, count * W, 3): generated frames above true ones at the same times; None where no
        faces are drawn."""
        example, rates = self.benchmark.identity(self.split, index), self.benchmark.rates
        rows = []
        for signals in (model, truth):
            # Only the frames shown are drawn: four feature frames, which hold a picture or more,
            # around each.
            at = np.linspace(0.1, 0.9, count) * min(model.seconds, truth.seconds)
            cuts = [{k: x[(start := min(int(t * rates[k]), max(len(x) - 4, 0))):start + 4]
                     for k, x in signals.streams.items() if k in rates} for t in at]
            shown = [self.benchmark.pictures(cut, example) for cut in cuts]
            if any(s is None for s in shown):
                return None
            rows.append(np.concatenate([s[0] for s in shown], axis=1))
        return np.concatenate(rows)
