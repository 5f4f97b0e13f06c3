"""Training rows of the visual System: one speaker of one dialogue, a few frames of it, and the
units around them, or the sound at each of them.

    stage        frames                 units                              motion frames
    appearance   anywhere in the video  -                                  -
    motion       anywhere in a window   of all speakers over that window   -
    temporal     consecutive            of all speakers around them        the frames before

Sound is that of the speaker alone, in windows of `margin` frames to either side, the video's first
and last frame repeated beyond its ends.

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
    driver: str = "units"
    margin: int = 0
    shapes: tuple[str, ...] = ()  # columns of every speaker that a row has too

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
        driver = self.checked(example, T, where)
        latest = max(T - self.window, 0)
        if self.stage == "motion":
            begin = int(rng.integers(latest + 1))
            at = begin + rng.integers(min(self.window, T), size=self.frames)
        else:
            first = self.first(T, rng)
            # the last one repeated where the video is too short
            at = np.minimum(first + np.arange(self.frames), T - 1)
            begin = int(np.clip(first - self.context, 0, latest))
        row = self.pictures(example, who, at, drawn)
        if self.driver == "audio":
            row["audio"] = self.sound(driver, at, who)
        else:
            window = fit(np.roll(driver, -who, axis=1), UNITS_A_FRAME * begin,
                         UNITS_A_FRAME * self.window)
            row |= {"units": window, "frame": (at - begin).astype(np.int32),
                    "units_length": np.int32(UNITS_A_FRAME * min(self.window, T - begin))}
        if self.stage == "temporal":
            before = np.arange(first - self.motion_frames, first)
            copies = np.stack([row["reference"]] * self.motion_frames)
            row["motion"] = copies
            if first >= self.motion_frames:
                row["motion"] = take(example["latents"], before, who)
        return row

    def checked(self, example, T: int, where: str) -> np.ndarray:
        """The units (2 T, S) or the sound (T, S, A) of an example. UserError: of another codebook,
        number of speakers or length."""
        rate = UNITS_A_FRAME if self.driver == "units" else 1
        driver = example[self.driver]
        if self.driver == "units":
            check_units(driver, self.num_units, self.streams, where)
        if len(driver) != rate * T:
            raise UserError(f"{self.driver} and latents do not fit together", where=where,
                            expected=f"{rate} of {self.driver} a frame",
                            found=f"{len(driver)} of {self.driver}, {T} frames",
                            hint="extract the dataset again")
        return driver

    def sound(self, audio_TSA, at_F, who: int) -> np.ndarray:
        """(F, 2 margin + 1, A) float16: the windows around some frames."""
        around_W = np.arange(-self.margin, self.margin + 1)
        at_FW = np.clip(np.asarray(at_F)[:, None] + around_W, 0, len(audio_TSA) - 1)
        return np.asarray(audio_TSA[at_FW.ravel(), who], np.float16).reshape(*at_FW.shape, -1)

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
                "face": np.asarray(example["faces"][who], np.float32)} | {
                    name: np.asarray(example[name][who], np.float32) for name in self.shapes}

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
