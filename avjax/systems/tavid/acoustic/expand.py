"""50 Hz units -> one unit for every mel frame (the expansion of USDM, Kim et al. 2024).

A unit is held for 441 samples of 22050 Hz (20 ms); mel frame f is the samples [256 f, 256 f + 256)
and takes the unit that fills most of them. A frame covers at most two units, so this is an
index map; where both fill 128 samples (at most once in 128 units) the smaller id wins, as
published.
Suffixes: T mel frames.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avjax.signal import rates

UNIT_SAMPLES = 441
HOP = 256
UNIT_RATE = float(rates.UNITS)


def mel_frames(units):
    """Mel frames of so many units (int or array): floor(441 units / 256)."""
    return units * UNIT_SAMPLES // HOP


def index_map(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(the unit that fills most of each mel frame, the other one where both fill half and else the
    same), (T,) each."""
    start_T = HOP * np.arange(frames)
    first_T, last_T = start_T // UNIT_SAMPLES, (start_T + HOP - 1) // UNIT_SAMPLES
    of_first_T = np.where(first_T == last_T, HOP, UNIT_SAMPLES * last_T - start_T)  # samples
    most_T = np.where(2 * of_first_T >= HOP, first_T, last_T)
    return most_T, np.where(2 * of_first_T == HOP, last_T, most_T)


def expand(units, axis: int = 0, frames: int | None = None):
    """Unit ids at 50 Hz -> ids at the mel rate along `axis`, numpy or JAX. `frames`: how many,
    `mel_frames` by default; frames behind the last unit repeat it."""
    xp = jnp if isinstance(units, jax.Array) else np
    count = units.shape[axis]
    most_T, other_T = index_map(mel_frames(count) if frames is None else frames)
    ids = [xp.take(units, np.minimum(index_T, count - 1), axis=axis)
           for index_T in (most_T, other_T)]
    return xp.minimum(*ids)
