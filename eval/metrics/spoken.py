"""Text to tokens: how far durations are off, and how much of what the tokens spell is wrong."""

import numpy as np

from eval.metrics.intelligibility import words_of
from eval.registry import TOKENS, declare


def _phonemes(case):
    own, true = (np.asarray(x.stretches_S) for x in (case.signals, case.truth))
    return {"phoneme_error": 1000 * float(np.abs(own - true).mean())}


def _tokens(case):
    return {"token_error": _edits(case.truth.labels, case.signals.labels)}


def _letters(case):
    said = " ".join(words_of(case.benchmark.labels(case.split)[1][case.index])).upper()
    return {"letter_error": _edits(list(said), list(case.signals.letters))}


def _edits(true: list, found: list) -> float:
    """Fewest substitutions, deletions and insertions, as a share of the true length."""
    row = np.arange(len(found) + 1)
    found = np.asarray(found)
    for i, label in enumerate(true, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (found != label))
        # insertions: each place may come from any before it, one edit a step
        best = np.concatenate([[i], best]) - np.arange(len(row))
        row = np.minimum.accumulate(best) + np.arange(len(row))
    return float(row[-1] / max(len(true), 1))


_LABELS = {"labels": "strongest of each frame, repetitions and blanks left out",
           "distance": "Levenshtein / true length"}

declare("phoneme_error", "down", "how far the duration of a phoneme or pause is off",
        family="length", score=_phonemes, needs=("durations",), unit="ms", in_loop=True,
        recipe=lambda benchmark: {
            "mean of": "|own - true| over phonemes and pauses",
            "symbols between two phonemes": "half to each, or the pause's",
            "baseline mean": "each phoneme's mean in training"})
declare("token_error", "down", "share of what the true tokens spell that is wrong", family="words",
        score=_tokens, needs=(TOKENS,), in_loop=True, of_shuffled=True,
        recipe=lambda benchmark: _LABELS | {"tokens": benchmark.kind})
declare("letter_error", "down", "share of the text's letters that CTC tokens spell wrongly",
        family="words", score=_letters, needs=(TOKENS, "letters"),
        recipe=lambda benchmark: _LABELS | {"beside": "the transcript in capitals"})
