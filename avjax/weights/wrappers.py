"""State dicts as the network itself names them: without what compilation, parallelism or averaging
put around it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from avjax.errors import UserError

# One level of a name, anywhere in it: torch.compile, FSDP, activation checkpointing, DeepSpeed and
# Fabric strategies.
LEVELS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Around the network: (its prefix, what may be beside it, dropped with the wrapper).
WRAPPERS = (
    # (Distributed)DataParallel; torch.optim.swa_utils.AveragedModel with its counter
    ("module.", ("n_averaged",)),
    # ema_pytorch.EMA; online_model is not averaged
    ("ema_model.", ("online_model.", "initted", "step")))


def unwrap(state: Mapping[Any, Any], where: str = "") -> dict[str, Any]:
    """The same entries under the names of the network inside; integer keys become text.

    Of an averaging wrapper (AveragedModel, EMA) the averaged network is taken, and its counters are
    left out. UserError: two different entries would get one name, or a name is neither text nor a
    number.
    """
    inner = _renamed(state,
                     lambda name: ".".join(part for part in name.split(".") if part not in LEVELS),
                     where)
    while True:
        for prefix, beside in WRAPPERS:
            network = {k.removeprefix(prefix): v for k, v in inner.items() if k.startswith(prefix)}
            if network and all(k.startswith(beside) for k in inner if not k.startswith(prefix)):
                inner = network
                break
        else:
            return inner


def _renamed(state: Mapping[Any, Any], rename, where: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(key, bool) or not isinstance(key, str | int | np.integer):
            raise UserError("an entry's name is not text", where=where,
                            expected="text or a whole number", found=repr(key),
                            hint="pass the part that holds the weights")
        name = rename(str(key))
        if name in out and not _equal(out[name], value):
            raise UserError("two entries get the same name", where=where,
                            expected="one array a name", found=f"{key!r} is {name!r} too",
                            hint="save the network inside the wrapper alone")
        out[name] = value
    return out


def _equal(a, b) -> bool:
    return a is b or (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
                      and np.array_equal(a, b))
