"""BigVGAN on log-mel that has not ended yet: the samples of `BigVGAN.waveform`, within 1e-5 since
windows of another size sum in another order, each as soon as the frames that it depends on are
there.

Suffixes: T frames, M mel bands, N samples.
"""

import numpy as np

from avjax.codecs.bigvgan import BigVGAN
from avjax.signal import mel as mel_lib


class StreamedBigVGAN:
    """`feed` takes log-mel and returns the sound that is final by then, `finish` the rest.

    Args:
      vocoder: with its weights.
      recipe: of the mel; UserError where the vocoder knows another.
      block: frames vocoded at a time, >= 1; with the halo on either side, so small blocks cost more
        a frame.
    """

    def __init__(self, vocoder: BigVGAN, recipe: dict = mel_lib.RECIPE, *, block: int = 16):
        vocoder.check(recipe)
        self._vocoder, self._gain, self.block = vocoder, recipe.get("gain", 1.0), block
        self._halo = vocoder.config.halo()
        self._kept = np.zeros((0, vocoder.config.bands), np.float32)  # frames from `_first` on
        self._first = self._made = 0

    @property
    def look_ahead(self) -> float:
        """Frames after an instant that its sound depends on, at most; a frame is at its centre."""
        return self.block - 1 + self._halo + 0.5

    def feed(self, log_mel_TM: np.ndarray) -> np.ndarray:
        """(T, M) log-mel, not normalised -> (N,) float32 samples in [-1, 1]. UserError on another
        shape or on values that are not finite."""
        if len(log_mel_TM):
            log_mel_TM = mel_lib.checked(log_mel_TM, self._vocoder.config.bands, "the vocoder")
            self._kept = np.concatenate([self._kept, log_mel_TM])
        parts = [np.zeros(0, np.float32)]
        while self._given - self._made >= self.block + self._halo:
            parts.append(self._next(ended=False))
        return np.concatenate(parts)

    def finish(self) -> np.ndarray:
        """The sound that is still owed."""
        parts = [np.zeros(0, np.float32)]
        while self._made < self._given:
            parts.append(self._next(ended=True))
        return np.concatenate(parts)

    @property
    def _given(self) -> int:
        return self._first + len(self._kept)

    def _next(self, ended: bool) -> np.ndarray:
        """The samples of the next `block` frames, or of what is left of a signal that has
        `ended`."""
        start = max(self._made - self._halo, 0)
        end = min(start + self.block + 2 * self._halo, self._given)
        part_TM = self._kept[start - self._first:end - self._first]
        new = min(self.block, self._given - self._made)
        audio_N = self._vocoder.part(part_TM, self._gain, at=self._made - start, count=self.block,
                                     ended=ended and end == self._given)
        self._made += new
        drop = max(self._made - self._halo, self._first) - self._first
        self._first += drop
        self._kept = self._kept[drop:]
        return audio_N[:new * self._vocoder.hop]
