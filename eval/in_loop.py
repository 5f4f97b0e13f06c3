"""The benchmark's cheap part during training: no waveform is scored, so it costs about one sampling of a few clips."""

import numpy as np

from eval import plots
from eval.benchmarks.common import Signals
from eval.report import curve_pairs
from eval.runner import Generator, generate_split

METRICS = ("F1_lips", "FD_e", "FD_h", "mel_L1", "Div_e", "Div_h")


class InLoopEvaluator:
    """Scores `config.evaluate.in_loop_examples` clips of the first split; the same code as the final evaluation.

    `run(params, step)` returns ({metric: float}, artefacts). "<metric>_of_shuffled" is the ratio to the shuffled
    baseline; artefacts are {"images": {name: (H, W, 3) uint8}, "audio": {name: ((N,) float32, Hz)}}.
    """

    name = "benchmark"

    def __init__(self, config, system, benchmark, *, every: int | None = None):
        self.every = int(config.train.evaluate_every if every is None else every)
        self.benchmark, self.split = benchmark, tuple(config.evaluate.splits)[0]
        self.generator = Generator(system, batch_size=min(config.evaluate.batch_size, config.evaluate.in_loop_examples),
                                   seed=benchmark.seed)
        self.indices = benchmark.select(self.split, config.evaluate.in_loop_examples)
        self._shuffled: dict | None = None

    def run(self, params, step: int) -> tuple[dict[str, float], dict[str, dict]]:
        """Generates, scores and draws; a pure function of the parameters."""
        del step
        streams = dict(generate_split(self.generator, params, self.benchmark.dataset, self.split, self.indices))
        signals = {i: self.benchmark.model(s) for i, s in streams.items()}
        summary = self._summary(signals)
        if self._shuffled is None:
            others = {i: self.benchmark.baseline("shuffled", self.split, i) for i in self.indices}
            self._shuffled = self._summary(others)
        out = {m: summary[m]["value"] for m in METRICS if m in summary}
        for metric in ("FD_e", "mel_L1"):
            out[f"{metric}_of_shuffled"] = out[metric] / max(self._shuffled[metric]["value"], 1e-12)
        first = self.indices[0]
        return out, self._show(signals[first], first)

    def _summary(self, signals: dict[int, Signals]) -> dict:
        rows = [self.benchmark.score(self.split, i, signals[i]) for i in self.indices]
        frames = [self.benchmark.frames(self.split, i, signals[i]) for i in self.indices]
        return self.benchmark.summarise(rows, frames)

    def _show(self, model: Signals, index: int) -> dict[str, dict]:
        truth = self.benchmark.truth(self.split, index)
        pairs, threshold = curve_pairs(self.benchmark, model, truth)
        images = {"spectrogram": plots.image(plots.spectrogram_pair(model.streams["mel"], truth.streams["mel"])),
                  "motion": plots.image(plots.curves(pairs, 30, threshold))}
        strip = self._faces(model, truth, index)
        if strip is not None:
            images["face"] = strip
        rate = self.benchmark.sample_rate
        return {"images": images, "audio": {"generated": (model.waveform, rate), "truth": (truth.waveform, rate)}}

    def _faces(self, model: Signals, truth: Signals, index: int, count: int = 6) -> np.ndarray | None:
        """(2 H, count * W, 3): generated frames above true ones at the same times; None where no faces are drawn."""
        example = self.benchmark.identity(self.split, index)
        # Only the frames shown are drawn: four feature frames, which hold one picture or two, around each.
        at = (np.linspace(0.1, 0.9, count) * (len(truth.streams["face"]) - 4)).astype(int)
        rows = []
        for signals in (model, truth):
            cuts = [{k: signals.streams[k][t:t + 4] for k in ("face", "head")} for t in at]
            shown = [self.benchmark.pictures(cut, example) for cut in cuts]
            if any(s is None for s in shown):
                return None
            rows.append(np.concatenate([s[0] for s in shown], axis=1))
        return np.concatenate(rows)
