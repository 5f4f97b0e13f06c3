"""Word and character error rate by a recogniser of any words, with Whisper's English normaliser on
both texts. It is of the family that AV-Flow's tokens come from, which flatters speech made of
them. What is silent is heard as no words; without a transcript nothing is measured."""

import functools
from importlib.metadata import version

from eval.metrics.intelligibility import MEAN, averaged, character_errors, pooled, word_errors
from eval.networks import wav2vec2_ctc
from eval.networks.sound import RESAMPLER
from eval.registry import declare


def counts(reference: str, hypothesis: str) -> dict[str, dict[str, int] | None]:
    """ERRORS of one pair of normalised texts by jiwer: of words (`WER_open`) and of characters
    (`CER_open`); None without a reference."""
    if not reference:
        return {"WER_open": None, "CER_open": None}
    return {"WER_open": word_errors(reference, hypothesis),
            "CER_open": character_errors(reference, hypothesis)}


def _score(case):
    benchmark = case.benchmark
    words = benchmark.networks["wav2vec2_ctc"]
    reference = words.normalised(benchmark.labels(case.split)[1][case.index])
    if not reference:
        return counts("", "")
    heard = words(case.signals.waveform, benchmark.sample_rate)
    return counts(reference, heard) | {"heard_open": heard}


def _recipe(benchmark, over: str):
    return {"implementation": "avjax eval.networks.wav2vec2_ctc 1", "jiwer": version("jiwer"),
            **wav2vec2_ctc.recipe(), **RESAMPLER, "pooling": over}


for _name, _of in (("WER_open", "word"), ("CER_open", "character")):
    for _suffix, _pool, _how in (("", pooled, ""), (MEAN, averaged, ", mean over examples")):
        declare(_name + _suffix, "down", f"{_of} error rate of a recogniser of any words{_how}",
                family="words", score=_score, pool=_pool,
                recipe=functools.partial(_recipe, over=_pool.label),
                needs=("audio", "waveform", "clip", "network:wav2vec2_ctc"))
