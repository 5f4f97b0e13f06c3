"""How far the length is off, of systems that decide it themselves."""

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
