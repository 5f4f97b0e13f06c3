"""Training rows: a random crop of one dialogue, all speakers at once, units brought to the mel
rate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Rows
from avjax.systems.tavid.acoustic.expand import expand, mel_frames


def check_units(units, num_units: int, where: str) -> np.ndarray:
    """The ids; UserError for one outside the codebook (the embedding would take "no units")."""
    if np.size(units) and not 0 <= np.min(units) <= np.max(units) < num_units:
        raise UserError("units outside the model's codebook", where=where,
                        expected=f"0 to {num_units - 1}",
                        found=f"{np.min(units)} to {np.max(units)}",
                        hint="set config.system.num_units to the codebook's size, or extract with "
                        "that codebook")
    return np.asarray(units, np.int32)


@dataclasses.dataclass(frozen=True)
class AcousticRows(Rows):
    """One example a row, a crop of `frames` mel frames. `voices`: whether rows hold them."""

    frames: int
    num_units: int
    voices: bool = True

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`; dialogues shorter than a row are padded, with mask 0."""
        example = examples[0]
        where = f"example {examples[0].get('id', '')!r}"
        mel = example["mel"]
        units = check_units(example["units"], self.num_units, where)
        if len(mel) != mel_frames(len(units)) or mel.shape[1] != units.shape[1]:
            raise UserError("units and mel do not belong together", where=where,
                            expected=f"{mel_frames(len(units))} mel frames of {units.shape[1]} "
                            "speakers for "
                            f"{len(units)} units", found=f"{mel.shape[0]} frames of {mel.shape[1]}",
                            hint="extract the dataset again")
        start = int(rng.integers(max(len(mel) - self.frames, 0) + 1))
        here = slice(start, start + self.frames)
        missing = max(self.frames - len(mel), 0)

        def padded(x):
            return np.pad(x[here], [(0, missing)] + [(0, 0)] * (x.ndim - 1), mode="edge")

        row = {"units": padded(expand(units)), "mel": padded(np.asarray(mel, np.float32)),
               "mask": (np.arange(self.frames) < len(mel)).astype(np.float32)}
        return row | ({"voices": np.asarray(example["voices"], np.float32)} if self.voices else {})
