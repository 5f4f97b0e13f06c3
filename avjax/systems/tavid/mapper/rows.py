"""Crops of dialogues for the Motion Mapper: units at 50 Hz beside what they are to become at 25 Hz.
Numpy, no jax."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Rows

UNITS_A_FRAME = 2


def check_units(units_US: np.ndarray, num_units: int, streams: int, where: str) -> np.ndarray:
    """The units, UserError where they are of another codebook or number of speakers."""
    if units_US.ndim != 2 or units_US.shape[1] != streams:
        raise UserError("another number of speakers", where=where,
                        expected=f"units of {streams} streams", found=str(units_US.shape),
                        hint="set config.system's streams to the corpus'")
    if units_US.size and not 0 <= units_US.min() <= units_US.max() < num_units:
        raise UserError("units outside the codebook", where=where, expected=f"0 to {num_units - 1}",
                        found=f"{units_US.min()} to {units_US.max()}",
                        hint="set num_units to the codebook's, or extract the units again")
    return units_US


def fit(x: np.ndarray, start: int, length: int) -> np.ndarray:
    """x[start:start + length], its last entry repeated where it is too short."""
    x = x[start:start + length]
    return x if len(x) == length else np.concatenate([x,
                                                      np.repeat(x[-1:], length - len(x), axis=0)])


@dataclasses.dataclass(frozen=True)
class MapperRows(Rows):
    """A row is `segment` frames at random from one dialogue, all streams of it."""

    segment: int
    num_units: int
    streams: int
    target: str

    @property
    def capacity(self) -> dict[str, int]:
        return {"examples": 1}

    def cost(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """An example with pictures fills a row; one without is left out of it."""
        return {"examples": int(lengths[self.target] > 0)}

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`."""
        example = next((e for e in examples if len(e[self.target])), examples[0])
        where = f"example {example.get('id', '')!r}"
        units = check_units(example["units"], self.num_units, self.streams, where)
        target = example[self.target]
        F = self.segment
        frames = len(target)
        if not frames or len(units) != UNITS_A_FRAME * frames:
            raise UserError(f"units and {self.target} do not fit together", where=where,
                            expected=f"{UNITS_A_FRAME} units a frame, at least one frame",
                            found=f"{len(units)} units, {frames} frames",
                            hint="extract the dataset again")
        start = int(rng.integers(max(frames - F, 0) + 1))
        return {"units": fit(units, UNITS_A_FRAME * start, UNITS_A_FRAME * F),
                self.target: fit(target, start, F).astype(np.float32),
                "mask": (np.arange(F) < frames - start).astype(np.float32)}
