"""Examples of which little can be said: without sound, without motion, of a moment, or nothing."""

import re

import numpy as np

from eval.data.conversations import Conversation

DEFINED = {"mel_L1", "mel_L1_dtw", "WER", "CER", "length_error", "ipu_per_minute"}


def silent(benchmark, example):
    """Nothing is heard."""
    if "mel" in example:
        example = example | {"mel": np.full_like(example["mel"], -10.0)}
    signals = benchmark.read(example)
    if not isinstance(signals, Conversation) and signals.has_audio:
        signals.waveform = np.zeros_like(signals.waveform)
    return signals


def still(benchmark, example):
    """Every frame is the same."""
    return benchmark.read(example | {name: np.repeat(x[len(x) // 2:][:1], len(x), 0)
                                     for name, x in _sequences(benchmark, example)})


def short(benchmark, example):
    """Two frames."""
    return benchmark.read(example | {name: x[:2] for name, x in _sequences(benchmark, example)})


def _sequences(benchmark, example):
    return [(name, example[name]) for name, feature in benchmark.dataset.features.items()
            if feature.rate and name in example and len(example[name])]


def summary(benchmark, signals) -> dict[str, float | None]:
    """{metric: value, None where it has no entry} of an example beside itself."""
    row = benchmark.score("valid", 0, signals)
    frames = benchmark.frames("valid", 0, signals) | benchmark.kept("valid", 0, signals)
    found = benchmark.summarise([row], [frames])
    return {m.name: found[m.name]["value"] if m.name in found else None
            for m in benchmark.metrics}


def undefined(change, metric: str) -> bool:
    """Whether a metric means nothing of such an example."""
    return bool(re.match(_UNDEFINED[change], metric))


_LISTENING = "FD_listen|MSE_listen|STS_|SID_|var_listen|PFD_|RPCC_"
_UNDEFINED = {
    silent: f"BC_|AV_|MCD|MRSTFT|{_LISTENING}|.*_mean_s$|.*_W1_s$",
    still: "BC_|AV_|smile_corr|F1_smile|F1_nods",
    short: f"BC_|AV_|FD_|FK_|Div_|var_|smile_corr|{_LISTENING}",
}
