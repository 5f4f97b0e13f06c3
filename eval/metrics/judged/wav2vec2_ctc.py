"""Word and character error rate by a recogniser of any words, with Whisper's English normaliser on
both texts. It is of the family that AV-Flow's tokens come from, which flatters speech made of
them. What is silent is heard as no words; without a transcript nothing is measured."""

from importlib.metadata import version

from eval.metrics.intelligibility import declare_rates, rates
from eval.networks.speech import wav2vec2_ctc
from eval.networks.speech.sound import RESAMPLER


def _score(case):
    benchmark = case.benchmark
    words = benchmark.networks["wav2vec2_ctc"]
    reference = words.normalised(benchmark.labels(case.split)[1][case.index])
    if not reference:
        return rates("", "", "_open")
    heard = words(case.signals.waveform, benchmark.sample_rate)
    return rates(reference, heard, "_open") | {"heard_open": heard}


def _recipe(benchmark, over: str):
    return {"implementation": "avjax eval.networks.wav2vec2_ctc 1", "jiwer": version("jiwer"),
            **wav2vec2_ctc.recipe(), **RESAMPLER, "pooling": over}


declare_rates("_open", "a recogniser of any words", _recipe, score=_score,
              needs=("audio", "waveform", "each", "package:whisper_normalizer",
                     "network:wav2vec2_ctc"))
