"""Word and character error rate by a recogniser of any words, with Whisper's English normaliser on
both texts. It is of the family that AV-Flow's tokens come from, which flatters speech made of
them. What is silent is heard as no words; without a transcript nothing is measured."""

from importlib.metadata import version

import numpy as np

from eval import pooling
from eval.metrics.intelligibility import ERRORS, wer
from eval.networks import wav2vec2_ctc
from eval.networks.sound import RESAMPLER
from eval.registry import declare


def counts(reference: str, hypothesis: str) -> dict[str, dict[str, int] | None]:
    """ERRORS of one pair of normalised texts by jiwer: of words (`WER_open`) and of characters
    (`CER_open`); None without a reference."""
    import jiwer
    if not reference:
        return {"WER_open": None, "CER_open": None}
    return {name: {kind: int(getattr(out, kind)) for kind in ERRORS} for name, out in (
        ("WER_open", jiwer.process_words(reference, hypothesis)),
        ("CER_open", jiwer.process_characters(reference, hypothesis)))}


@pooling.labelled("errors of all examples over their words or characters")
def pooled(name, pool):
    """Rate over all examples that have counts; NaN where none has."""
    counted = [entry for entry in pool.entries(name) if entry is not None]
    if not counted:
        return {"value": float("nan"), "n": 0} if pool.entries(name) else None
    return pooling.interval(np.array([[entry[kind] for kind in ERRORS] for entry in counted]), wer)


def _score(case):
    benchmark = case.benchmark
    words = benchmark.networks["wav2vec2_ctc"]
    reference = words.normalised(benchmark.labels(case.split)[1][case.index])
    if not reference:
        return counts("", "")
    heard = words(case.signals.waveform, benchmark.sample_rate)
    return counts(reference, heard) | {"heard_open": heard}


def _recipe(benchmark):
    return {"implementation": "avjax eval.networks.wav2vec2_ctc 1", "jiwer": version("jiwer"),
            **wav2vec2_ctc.recipe(), **RESAMPLER, "pooling": "errors over words or characters"}


for _name, _of in (("WER_open", "word"), ("CER_open", "character")):
    declare(_name, "down", f"{_of} error rate of a recogniser of any words", family="words",
            score=_score, pool=pooled, recipe=_recipe,
            needs=("audio", "waveform", "each", "network:wav2vec2_ctc"))
