"""Real-time factor: seconds of computing a second of what is heard and seen, below 1 where it is
made faster than it plays.

A number of the machine, the mesh and `config.evaluate.batch_size` as much as of the model: compare
those of one job's hardware alone. It is the one number of an evaluation that another run does not
repeat.
"""

import numpy as np

from eval import pooling
from eval.registry import declare

RECIPE = {"implementation": "avjax eval.metrics.speed 1",
          "seconds": "wall clock of System.generate on the job's devices, a batch's shared equally "
                     "by its examples; codecs, vocoder and drawing do not count",
          "compilation": "batches in which anything was traced or compiled are left out",
          "pooling": "all seconds of computing over all seconds of media"}


def _keep(case):
    return {"rtf": np.array([case.signals.computed_s, case.signals.seconds])}


@pooling.labelled("seconds of all examples over their seconds of media")
def _pooled(name, pool):
    timed = [f["rtf"] for f in pool.frames if "rtf" in f]
    return pooling.interval(np.array(timed, np.float64), pooling.ratio) if timed else None


declare("RTF", "down", "seconds of computing a second of media", family="speed", keep=_keep,
        pool=_pooled, needs=("timed",), recipe=lambda benchmark: RECIPE)
