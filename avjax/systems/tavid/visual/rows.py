"""Training rows of the visual System: one speaker of one dialogue, a few frames of it, and the
units around them.

    stage        frames                 units                              motion frames
    appearance   anywhere in the video  -                                  -
    motion       anywhere in a window   of all speakers over that window   -
    temporal     consecutive            of all speakers around them        the frames before

Numpy, no jax. A dialogue without pictures (speech alone) takes no room in a row and is left out of
it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Rows
from avjax.systems.tavid.mapper.rows import check_units, fit
from avjax.systems.tavid.visual.config import UNITS_A_FRAME


@dataclasses.dataclass(frozen=True)
class VisualRows(Rows):
    """One example a row; see the table above."""

    stage: str
    frames: int
    motion_frames: int
    context: int
    portrait_share: float
    reference_margin: int
    start_share: float
    num_units: int
    streams: int


    @property
    def window(self) -> int:
        """Frames that the units of a row cover."""
        return self.frames + 2 * self.context

    def cost(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """An example with pictures fills a row."""
        return {"examples": int(lengths["latents"] > 0)}

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`."""
        seen = [e for e in examples if len(e["latents"])]
        if not seen:
            raise UserError("no dialogue with pictures in a row",
                            where=f"example {examples[0].get('id', '')!r}",
                            expected="latents of at least one frame", found="speech alone",
                            hint="extract the dataset with video")
        example = seen[0]
        where = f"example {example.get('id', '')!r}"
        T, S = example["latents"].shape[:2]
        who = int(rng.integers(S))
        drawn = -1 if rng.random() < self.portrait_share else int(rng.integers(T))
        if self.stage == "appearance":
            return self.pictures(example, who, rng.integers(T, size=self.frames), drawn)
        units_US = check_units(example["units"], self.num_units, self.streams, where)
        if len(units_US) != UNITS_A_FRAME * T:
            raise UserError("units and latents do not fit together", where=where,
                            expected=f"{UNITS_A_FRAME} units a frame",
                            found=f"{len(units_US)} units, {T} frames",
                            hint="extract the dataset again")
        latest = max(T - self.window, 0)
        if self.stage == "motion":
            begin = int(rng.integers(latest + 1))
            at = begin + rng.integers(min(self.window, T), size=self.frames)
        else:
            first = self.first(T, rng)
            # the last one repeated where the video is too short
            at = np.minimum(first + np.arange(self.frames), T - 1)
            begin = int(np.clip(first - self.context, 0, latest))
        window = fit(np.roll(units_US, -who, axis=1), UNITS_A_FRAME * begin,
                     UNITS_A_FRAME * self.window)
        row = self.pictures(example, who, at, drawn) | {
            "units": window, "frame": (at - begin).astype(np.int32),
            "units_length": np.int32(UNITS_A_FRAME * min(self.window, T - begin))}
        if self.stage == "temporal":
            before = np.arange(first - self.motion_frames, first)
            copies = np.stack([row["reference"]] * self.motion_frames)
            row["motion"] = copies
            if first >= self.motion_frames:
                row["motion"] = take(example["latents"], before, who)
        return row

    def pictures(self, example, who: int, at, drawn: int) -> dict[str, np.ndarray]:
        """Frames `at` and what they are made of: the face, and as reference the portrait (`drawn`
        -1) or the frame `drawn` among those at least `reference_margin` away, as far as the video
        goes."""
        latents_TShwC = example["latents"]
        reference = example["reference"][who]
        if drawn >= 0:
            T = len(latents_TShwC)
            away_T = np.abs(np.arange(T)[:, None] - at).min(1)
            allowed = np.flatnonzero(away_T >= min(self.reference_margin, (T - 1) // 2,
                                                   away_T.max()))
            reference = latents_TShwC[allowed[drawn * len(allowed) // T], who]
        return {"latents": take(latents_TShwC, at, who),
                "reference": np.asarray(reference, np.float32),
                "face": np.asarray(example["faces"][who], np.float32)}

    def first(self, T: int, rng) -> int:
        """First frame of a clip of consecutive frames: after its motion frames, or, now and then,
        with the video."""
        if rng.random() < self.start_share:
            return 0
        latest = max(T - self.frames, 0)
        return int(rng.integers(min(self.motion_frames, latest), latest + 1))


def take(latents_TShwC, frames, who: int) -> np.ndarray:
    """Frames of one speaker, float32."""
    return np.asarray(latents_TShwC[frames, who], np.float32)
