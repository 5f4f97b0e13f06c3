"""Training rows of the Speaker Mapper: all speakers of one example, each portrait degraded at
random. Numpy, no jax."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.encoders.degrade import degrade
from avjax.systems.api import Rows

FRAMES = "latents"


@dataclasses.dataclass(frozen=True)
class SpeakerRows(Rows):
    """`picture` names the feature that holds portraits or maps, "" for none; `random_frame` takes a
    random frame of the video latents in its place, where the example has video."""

    picture: str
    random_frame: bool
    blur: float
    rotation: float
    colour: float
    degraded: float
    face_dropout: float
    face_noise: float

    def build(self, examples: Sequence[Mapping[str, Any]],
              rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of `System.batch_spec`."""
        (example,) = examples
        noise_SF = rng.standard_normal(example["faces"].shape, np.float32)
        faces_SF = example["faces"] + self.face_noise * noise_SF
        faces_SF = np.where(rng.random((len(faces_SF), 1)) < self.face_dropout, 0,
                            faces_SF).astype(np.float32)
        row = {"faces": faces_SF, "voices": example["voices"]}
        if self.picture:
            row[self.picture] = np.stack([self._degraded(picture_HWC, rng)
                                          for picture_HWC in self._pictures(example, rng)])
        return row

    def _pictures(self, example, rng) -> np.ndarray:
        """(S, H, W, C)."""
        frames_TSHWC = example[FRAMES] if self.random_frame else ()
        if not len(frames_TSHWC):
            return example[self.picture]
        at_S = rng.integers(0, len(frames_TSHWC), frames_TSHWC.shape[1])
        picked = np.stack([frames_TSHWC[t, s] for s, t in enumerate(at_S)])
        return picked.astype(example[self.picture].dtype)

    def _degraded(self, picture_HWC, rng):
        return degrade(picture_HWC, rng, sigma=self.blur, degrees=self.rotation, colour=self.colour,
                       share=self.degraded)
