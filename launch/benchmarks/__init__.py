"""What launch.benchmark measures, a file a system: `launch/benchmarks/<system>.py`. A system
without a file of its own is measured as one that trains on random segments and samples whole
sequences (segments.py).

Such a file has

    DEFAULTS: Options                                     what is measured unless flags say otherwise
    cases(config, system, options) -> iterator of Case    built one after the other, so that one's arrays go before the
                                                          next one's come
    plan(config, system, options) -> rows                 optional: what shapes alone say of the training step, nothing is run
                                                          (launch.benchmark --plan);
                                                          common.plan_step where there is none
"""

import importlib
import importlib.util

from launch.benchmarks.common import Case, Options

__all__ = ["Case", "Options", "of_system"]


def of_system(name: str):
    """The module that measures a system, by the `name` of its config; for "family.stage" the
    family's."""
    own = f"{__name__}.{name.split('.')[0]}"
    return importlib.import_module(own if importlib.util.find_spec(own) else f"{__name__}.segments")
