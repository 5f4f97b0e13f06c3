"""Resynthesis: the sound that a vocoder makes of mel, beside the recording that the mel is of, and
beside Griffin-Lim's of the same mel.

Variants of every held-out example:
    model        what the vocoder made of the features' mel (of the sound's own, or a model's)
    griffin_lim  what Griffin-Lim makes of it
    truth        the recording itself
"""

import functools

import numpy as np

from avjax.signal import griffin_lim, mel
from eval.benchmarks.common.clip_data import ClipData
from eval.benchmarks.common.targets import Targets
from eval.data.clips import Signals
from eval.metrics import intelligibility

GRIFFIN_LIM = "griffin_lim"


class Benchmark(ClipData):
    """Mel-cepstral distance from the recording, distance of spectra, and words that a recogniser
    hears, where the transcripts have any it knows."""

    name = "vocoder"
    baselines = (GRIFFIN_LIM, "truth")

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        super().__init__(config, decoder, dataset, system, clips=clips, full=full)
        self.stored_parts = {}
        self.fields += ("mel",)
        self.system, self.iterations = system, decoder.iterations

    @functools.cached_property
    def has_words(self) -> bool:
        """Whether the recogniser knows a word of the transcripts."""
        return any(word in intelligibility.dictionary() for word in self.vocabulary)

    @property
    def offers(self):
        full = ({"waveform", "resynthesis", "each", "warped", *["words"] * self.has_words}
                if self.full else set())
        return {"audio", "clip", "timed"} | full

    def read(self, example):
        signals = super().read(example)
        signals.log_mel = self.system.conditions(example)[0]["mel"]
        return signals

    def model(self, streams, variant, split, index):
        return Signals(self, streams)

    def baseline(self, variant, split, index):
        truth = self.truth(split, index)
        if variant == "truth":
            return truth
        audio_N = griffin_lim.waveform(truth.log_mel, iterations=self.iterations,
                                       recipe=mel.unscaled(self.system.recipe))
        hop = self.system.recipe["hop"]
        frames = len(truth.streams["audio"])
        audio_N = np.pad(audio_N, (0, max(frames * hop - len(audio_N), 0)))[:frames * hop]
        return Signals(self, {"audio": audio_N.reshape(frames, hop)})

    def frames(self, split, index, signals):
        return {}

    def targets(self, summary):
        """Better than Griffin-Lim."""
        targets = Targets(summary)
        for metric in ("MCD_audio", "MRSTFT", "WER"):
            if targets.has("model", metric):
                targets.add(metric, "<= Griffin-Lim's", targets.value("model", metric), "<=",
                            targets.value(GRIFFIN_LIM, metric))
        return targets.rows
