"""BigVGAN on log-mel that has not ended yet: the samples of `BigVGAN.waveform`, within 1e-5 since
windows of another size sum in another order, each as soon as the frames that it depends on are
there.

Suffixes: T frames, M mel bands, N samples.
"""

import numpy as np

from avjax.codecs.bigvgan import QUANTUM, BigVGAN
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
            start = max(self._made - self._halo, 0)
            parts.append(self._window(start, self._made + self.block + self._halo, self.block))
        return np.concatenate(parts)

    def finish(self) -> np.ndarray:
        """The sound that is still owed. As in `BigVGAN.chunks`, a signal that is made in one part
        there is followed by silence, a longer one by nothing."""
        end = frames = self._given
        if frames <= self._vocoder.window + 2 * self._halo:
            end += -frames % QUANTUM
            silence_TM = np.full((end - frames, self._kept.shape[1]), mel_lib.FLOOR, np.float32)
            self._kept = np.concatenate([self._kept, silence_TM])
        length = self.block + 2 * self._halo
        parts = [np.zeros(0, np.float32)]
        while self._made < frames:
            start = max(min(self._made - self._halo, end - length), self._first)
            last = min(start + length, end)
            new = frames - self._made if last == end else self.block
            parts.append(self._window(start, last, min(new, frames - self._made)))
        return np.concatenate(parts)

    @property
    def _given(self) -> int:
        return self._first + len(self._kept)

    def _window(self, start: int, last: int, new: int) -> np.ndarray:
        """The samples of the next `new` frames, from frames start .. last - 1."""
        audio_N = self._vocoder.part(self._kept[start - self._first:last - self._first], self._gain)
        hop = self._vocoder.hop
        at = (self._made - start) * hop
        self._made += new
        drop = max(self._made - 2 * self._halo - self.block, self._first) - self._first
        self._first += drop
        self._kept = self._kept[drop:]
        return audio_N[at:at + new * hop]
