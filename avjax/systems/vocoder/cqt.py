"""The constant-Q transform that version 2's sub-band discriminator looks at: bins spaced like
notes, octave by octave from the top, each at half the rate of the one above (Schoerkhuber and
Klapuri 2010, in the conventions of nnAudio, and torchaudio's resampling).

Nothing here is learnt: kernels and filters follow from the rate, which the published state dicts
hold all the same (`buffers`).
Suffixes: B batch, N samples, T frames, K bins, D taps.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

LOWEST = 32.70  # Hz, the note C1
LOW_PASS, TRANSITION = 256, 0.001  # taps; width of the transition as a share of the cut-off
# of the resampling: zero crossings, and the cut-off as a share of half the rate
CROSSINGS, ROLL_OFF = 6, 0.99


@dataclasses.dataclass(frozen=True)
class Transform:
    """A transform of sound of `sample_rate`, which is doubled first. The hop must divide by
    2^(octaves - 1)."""

    sample_rate: int
    hop: int
    octaves: int
    bins: int  # an octave

    @property
    def quality(self) -> float:
        """Centre frequency over bandwidth."""
        return 1 / (2 ** (1 / self.bins) - 1)

    def lengths(self) -> np.ndarray:
        """(K,) samples that each bin looks at, at the doubled rate."""
        frequencies = LOWEST * 2.0 ** (np.arange(self.octaves * self.bins) / self.bins)
        return np.ceil(self.quality * 2 * self.sample_rate / frequencies).astype(np.float32)

    def __call__(self, audio_BN):
        """(B, N) -> (B, T, K, 2): real and imaginary part, lowest bin first."""
        kernels_DK = np.concatenate(list(kernels(self)), axis=0).T
        half = len(kernels_DK) // 2
        x_BN = doubled(audio_BN)
        octaves, hop = [], self.hop
        for octave in range(self.octaves):
            if octave:
                x_BN = filtered(x_BN, low_pass()[:, None], 2, (LOW_PASS - 1) // 2)[..., 0]
                hop //= 2
            octaves.append(filtered(x_BN, kernels_DK, hop, half))
        # the conjugate: minus the imaginary kernel
        real, imaginary = (jnp.concatenate([x[..., part] for x in reversed(octaves)], axis=-1)
                           for part in (slice(None, self.bins), slice(self.bins, None)))
        return jnp.stack([real, -imaginary], axis=-1) * np.sqrt(self.lengths())[:, None]


def filtered(x_BN, taps_DK: np.ndarray, stride: int, pad: int):
    """(B, N) -> (B, T, K): every column of `taps` at every `stride`, zeros around."""
    return lax.conv_general_dilated(x_BN[..., None], jnp.asarray(taps_DK)[:, None], (stride,),
                                    [(pad, pad)], dimension_numbers=("NWC", "WIO", "NWC"))


@functools.cache
def kernels(transform: Transform) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part, each (bins, D), of the top octave's bins: Hann-windowed, of unit sum
    of magnitudes, each in the middle of D."""
    from scipy import signal  # not at the top: it takes a second, and every command imports this

    lowest = LOWEST * 2.0 ** (transform.octaves - 1)
    top = lowest * 2.0 ** ((transform.bins - 1) / transform.bins)
    lowest = top / 2 ** (1 - 1 / transform.bins)
    frequencies = lowest * 2.0 ** (np.arange(transform.bins) / transform.bins)
    rate = 2 * transform.sample_rate
    lengths = np.ceil(transform.quality * rate / frequencies).astype(int)
    size = 2 ** int(np.ceil(np.log2(lengths.max())))
    made = np.zeros((transform.bins, size), np.complex64)
    for row, frequency, length in zip(made, frequencies, lengths, strict=True):
        start = -(-(size - length) // 2) - length % 2
        at = np.arange(-length // 2, length // 2) if length % 2 == 0 else np.arange(
            -(length + 1) // 2, length // 2)
        wave = signal.get_window("hann", length) * np.exp(2j * np.pi * frequency * at / rate)
        row[start:start + length] = wave / np.abs(wave).sum()
    return made.real.astype(np.float32), made.imag.astype(np.float32)


@functools.cache
def low_pass() -> np.ndarray:
    """(256,) half-band filter in front of every halving of the rate."""
    from scipy import signal

    edges = [0.0, 0.5 / (1 + TRANSITION), 0.5 * (1 + TRANSITION), 1.0]
    return signal.firwin2(LOW_PASS, edges, [1.0, 1.0, 0.0, 0.0]).astype(np.float32)


@functools.cache
def doubling() -> np.ndarray:
    """(2, 15): the taps of the even and of the odd samples of the doubled rate; a Hann-windowed
    sinc."""
    width = int(np.ceil(CROSSINGS / ROLL_OFF))
    at = (np.arange(-width, width + 1)[None] - np.arange(2)[:, None] / 2) * ROLL_OFF
    at = np.clip(at, -CROSSINGS, CROSSINGS)
    return (np.sinc(at) * np.cos(at * np.pi / CROSSINGS / 2) ** 2 * ROLL_OFF).astype(np.float32)


def doubled(x_BN):
    """(B, N) -> (B, 2 N)."""
    taps = doubling()
    width = taps.shape[1] // 2
    return filtered(x_BN, taps.T, 1, width).reshape(len(x_BN), -1)


def buffers(transform: Transform) -> dict[str, np.ndarray]:
    """What a published state dict holds of it, by name."""
    real, imaginary = kernels(transform)
    return {"cqt_transform.lowpass_filter": low_pass()[None, None],
            "cqt_transform.lenghts": transform.lengths(),
            "cqt_transform.cqt_kernels_real": real[:, None],
            "cqt_transform.cqt_kernels_imag": imaginary[:, None],
            "resample.kernel": doubling()[:, None]}
