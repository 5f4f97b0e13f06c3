"""Word and character error rate by Whisper, with its English normaliser on both texts: a recogniser
that no system here learned its tokens from. What is silent is heard as no words; without a
transcript nothing is measured. A recogniser that knows language guesses what it does not hear:
beside the truth's own rate only."""

from importlib.metadata import version

from eval.metrics.intelligibility import declare_rates, rates
from eval.networks.speech import whisper
from eval.networks.speech.sound import RESAMPLER


def _score(case):
    benchmark = case.benchmark
    words = benchmark.networks["whisper"]
    reference = words.normalised(benchmark.labels(case.split)[1][case.index])
    if not reference:
        return rates("", "", "_whisper")
    heard = words(case.signals.waveform, benchmark.sample_rate)
    return rates(reference, heard, "_whisper") | {"heard_whisper": heard}


def _recipe(benchmark, over: str):
    return {"implementation": "avjax eval.networks.speech.whisper 1", "jiwer": version("jiwer"),
            **whisper.recipe(), **RESAMPLER, "pooling": over}


declare_rates("_whisper", "Whisper", _recipe, score=_score,
              needs=("audio", "waveform", "each", "package:whisper_normalizer",
                     "network:whisper"))
