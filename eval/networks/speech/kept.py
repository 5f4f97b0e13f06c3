"""What a network makes of sounds, kept for a while: several examples are heard together before each
is scored alone, and every variant is held against the same recordings.

Suffixes: N samples.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# sounds, whose results are small: 16 examples on each of 8 devices, of 4 speakers, and recordings
# beside them, with room
MOST = 4096


class Kept:
    """A function of several sounds, called with those alone that are new.

    Args:
      function: [(n_i,) float32] -> a result each, none of which depends on the other sounds.
      most: results that are kept, the newest.
    """

    def __init__(self, function: Callable[[list[np.ndarray]], Sequence[Any]], most: int = MOST):
        self._function, self._most = function, most
        self._known: OrderedDict[bytes, Any] = OrderedDict()

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Any]:
        """(n_i,) float32 samples -> the result of each."""
        keys = [hashlib.sha256(wave_N.tobytes()).digest() for wave_N in waves]
        new = {key: wave_N for key, wave_N in zip(keys, waves, strict=True)
               if key not in self._known}
        if new:
            self._known |= zip(new, self._function(list(new.values())), strict=True)
        out = [self._known[key] for key in keys]
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return out
