"""How natural does it sound? The mean opinion score that UTMOS22-strong predicts."""

from eval.networks.speech.sound import RESAMPLER
from eval.registry import declare


def _score(case):
    benchmark = case.benchmark
    return {"UTMOS": benchmark.networks["utmos"]([case.signals.waveform],
                                                 benchmark.sample_rate)[0]}


declare("UTMOS", "up", "naturalness that UTMOS22-strong predicts, 1 to 5", family="sound",
        score=_score, needs=("audio", "waveform", "each", "network:utmos"),
        recipe=lambda benchmark: {"implementation": "avjax eval.networks.utmos 1",
                                  "utterances": "whole, each by itself", **RESAMPLER})
