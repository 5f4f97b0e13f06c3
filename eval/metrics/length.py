"""How far lengths are off, of systems that decide them themselves; of text to tokens also the
durations of phonemes."""

import numpy as np

from eval.registry import declare

RECIPE = {"length": "duration / truth's - 1",
          "baselines": "another sentence's length; the mean of training clips"}
CLOSE = 2  # patches


def _absolute(case):
    return {"length_error": abs(case.signals.length - case.truth.length) / case.truth.length}


def _signed(case):
    return {"length_error_signed": (case.signals.length - case.truth.length) / case.truth.length}


def _stop(case):
    error = case.signals.seconds - case.truth.seconds
    return {"stop_within_2": float(abs(error) <= CLOSE * case.benchmark.patch_s + 1e-6)}


def _phonemes(case):
    own, true = (np.asarray(x.stretches_S) for x in (case.signals, case.truth))
    return {"phoneme_error": 1000 * float(np.abs(own - true).mean())}


declare("length_error", "down", "how far the length is off, share of the true one",
        family="length", score=_absolute, needs=("length",), in_loop=True,
        recipe=lambda benchmark: RECIPE | {"sign": "absolute"})
declare("length_error_signed", "zero", "how far the length is off, below 0 is too short",
        family="length", score=_signed, needs=("length", "clip"),
        recipe=lambda benchmark: RECIPE)
declare("stop_within_2", "up", "share of examples that stop within 2 patches of the true end",
        family="length", score=_stop, needs=("length", "clip", "patches"), in_loop=True,
        recipe=lambda benchmark: {"share of": "examples at most 2 patches off",
                                         "patch_s": benchmark.patch_s})
declare("phoneme_error", "down", "how far the duration of a phoneme or pause is off",
        family="length", score=_phonemes, needs=("durations",), unit="ms", in_loop=True,
        recipe=lambda benchmark: {
            "mean of": "|own - true| over phonemes and pauses",
            "symbols between two phonemes": "half to each, or the pause's",
            "baseline mean": "each phoneme's mean in training"})
