"""A voice as 256 statistics of a few seconds of speech: the weightless stand-in for a
speaker-verification network.

Only frames louder than 40 dB below the loudest count, so pauses do not matter. In order:
      0 ..  79  mean of every mel band (normalised log-mel of mel.RECIPE_24K)
     80 .. 159  its standard deviation
    160 .. 239  its mean absolute change from frame to frame
    240 .. 248  pitch, in octaves over 100 Hz: mean, standard deviation, 10 25 50 75 90 %
                quantiles, mean absolute change from frame to frame; then the share of voiced frames
    249 .. 254  energy, in tens of dB: mean, standard deviation, 10 50 90 % quantiles, mean
                absolute change
    255         spectral tilt: mean of the upper half of the bands minus that of the lower half
A `VoiceStatistics` z-scores them with the training split's statistics. Where it knows who speaks,
and enough speakers were recorded more than once, it then takes out what differs between recordings
of one speaker: the posterior mean of the speaker's part in a two-covariance model (PLDA; Sizov et
al. 2014), of unit power. They describe what a voice is like (timbre, register, liveliness), not who
it is: two speakers of like voice are alike.
Suffixes: N samples, T frames, W window, L lags, M mel bands, S statistics, U utterances.
"""

import dataclasses
import typing
from collections.abc import Sequence

import numpy as np
from scipy import fft  # keeps float32

from avjax.errors import UserError
from avjax.signal import level as level_lib
from avjax.signal import mel

WIDTH = 256
SAMPLE_RATE = mel.RECIPE_24K["sample_rate"]
PITCH_HZ = (60.0, 400.0)
RECIPE = {"kind": "mel-statistics", "version": 1, "width": WIDTH, "sample_rate": SAMPLE_RATE,
          "mel": dict(mel.RECIPE_24K), "active": "frames within 40 dB of the loudest",
          "pitch_hz": list(PITCH_HZ), "voiced": 0.5, "level": dict(level_lib.RECIPE),
          "scale": "z-scored on the training split"}
_HOP, _WINDOW = mel.RECIPE_24K["hop"], 1200  # 10 ms; 50 ms, three periods of the lowest pitch
_FFT = 2048  # >= window + longest lag, so that the correlation does not wrap around
_ACTIVE_DB = 40.0
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SPEAKER_PART = {"model": "two-covariance PLDA, posterior mean of one recording, unit power",
                "shrinkage": 0.2, "least": 32}
# shrinkage: of the covariance within speakers towards a multiple of one; least: recordings beyond
# each speaker's first


def statistics(audio_N: np.ndarray, level: dict | None = level_lib.RECIPE) -> np.ndarray:
    """(N,) float samples in [-1, 1] at 24 kHz -> (256,) float32, of speech at one level unless that
    is None. Raises UserError for less than 20 ms."""
    audio_N = level_lib.normalised(np.asarray(audio_N, np.float32), SAMPLE_RATE, level)
    mel_TM = mel.normalise(mel.log_mel(audio_N, mel.RECIPE_24K), mel.RECIPE_24K)
    pitch_T, voicing_T, power_T = pitch_of(audio_N, len(mel_TM))
    energy_T = np.log10(power_T + 1e-9)
    active_T = energy_T >= energy_T.max() - _ACTIVE_DB / 10
    mel_TM, energy_T = mel_TM[active_T], energy_T[active_T]
    voiced_T = active_T & (voicing_T > RECIPE["voiced"])
    octaves_T = np.log2(pitch_T[voiced_T] / 100)
    pitch = np.zeros(8) if not len(octaves_T) else np.concatenate(
        [[octaves_T.mean(), octaves_T.std()], np.quantile(octaves_T, _QUANTILES),
         [_change(octaves_T)]])
    energy = np.concatenate([[energy_T.mean(), energy_T.std()],
                             np.quantile(energy_T, (0.1, 0.5, 0.9)), [_change(energy_T)]])
    middle = mel_TM.shape[1] // 2
    tilt = mel_TM[:, middle:].mean() - mel_TM[:, :middle].mean()
    return np.concatenate([mel_TM.mean(0), mel_TM.std(0), _change(mel_TM), pitch,
                           [voiced_T.sum() / active_T.sum()],
                           energy, [tilt]]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class VoiceStatistics:
    """The slot's interface: `recipe`, `__call__(audio at 24 kHz) -> (256,)`, `arrays()`."""

    sample_rate: typing.ClassVar[int] = SAMPLE_RATE
    mean_S: np.ndarray
    std_S: np.ndarray
    map_SS: np.ndarray | None = None  # of the z-scored statistics to the speaker's part
    # None: sound as it comes
    level: dict | None = dataclasses.field(default_factory=lambda: level_lib.RECIPE)

    @property
    def recipe(self) -> dict:
        """How the vector is made, without the fitted arrays."""
        out = {k: v for k, v in RECIPE.items() if k != "level"}
        out |= {"level": dict(self.level)} if self.level else {}
        return out | ({} if self.map_SS is None else {"speaker_part": dict(SPEAKER_PART)})

    def __call__(self, audio_N: np.ndarray) -> np.ndarray:
        """(N,) float samples at 24 kHz -> (256,) float32, about zero mean and unit variance over
        utterances."""
        return self.scale(statistics(audio_N, self.level))

    def scale(self, statistics_S: np.ndarray) -> np.ndarray:
        """The result of `statistics`, z-scored, then its speaker part. Any leading axes."""
        z_S = (statistics_S - self.mean_S) / self.std_S
        return (z_S if self.map_SS is None else z_S @ self.map_SS).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Fitted arrays, as a dataset stores them for `from_recipe`."""
        return {"mean": self.mean_S, "std": self.std_S} | ({} if self.map_SS is None
                                                           else {"map": self.map_SS})

    @classmethod
    def fit(cls, statistics_US: np.ndarray,
            speakers: Sequence[str] | None = None) -> "VoiceStatistics":
        """From the raw statistics of all training utterances, and who speaks in each where that is
        known."""
        x_US = np.asarray(statistics_US, np.float64)
        # Over a few utterances a statistic may hardly vary; the floor keeps a newcomer's value from
        # exploding.
        mean_S = x_US.mean(0)
        std_S = np.maximum(x_US.std(0), 0.01)
        fitted = None
        if speakers is not None:
            fitted = _speaker_part((x_US - mean_S) / std_S, np.asarray(speakers))
        return cls(mean_S.astype(np.float32), std_S.astype(np.float32), fitted)


def from_recipe(recipe: dict, arrays: dict[str, np.ndarray],
                where: str = "codecs/voice.npz") -> VoiceStatistics:
    """The encoder of a dataset or workdir. Raises UserError for kinds that are unknown and for
    missing statistics."""
    if recipe.get("kind") != RECIPE["kind"]:
        raise UserError("unknown voice encoder", where="recipes.json, voice",
                        expected=f"kind {RECIPE['kind']}", found=repr(recipe.get("kind")),
                        hint="extract the features with one that this version has")
    missing = {"mean", "std"} - set(arrays)
    if missing:
        raise UserError("statistics missing", where=where, expected="mean, std",
                        found=f"without {', '.join(sorted(missing))}",
                        hint="extract the features again")
    return VoiceStatistics(arrays["mean"], arrays["std"], arrays.get("map"), recipe.get("level"))


def _speaker_part(z_US: np.ndarray, speakers_U: np.ndarray) -> np.ndarray | None:
    """(S, S) float32 of SPEAKER_PART; None where too few speakers were recorded more than once.

    With covariances W within and B between speakers, a recording z predicts B (B + W)^-1 z for its
    speaker: in the basis where W is one and B diagonal b, every coordinate is shrunk by b / (b +
      1). That basis also measures distances, so it is kept.
    """
    names, which_U = np.unique(speakers_U, return_inverse=True)
    means_KS = np.stack([z_US[which_U == k].mean(0) for k in range(len(names))])
    freedom = len(z_US) - len(names)
    if freedom < SPEAKER_PART["least"]:
        return None
    within_US = z_US - means_KS[which_U]
    within_SS = within_US.T @ within_US / freedom
    total_SS = np.cov(z_US.T)
    size = len(within_SS)
    shrunk_SS = within_SS + SPEAKER_PART["shrinkage"] * np.trace(within_SS) / size * np.eye(size)
    value_S, basis_SS = np.linalg.eigh(shrunk_SS)
    white_SS = basis_SS * value_S**-0.5 @ basis_SS.T
    between_S, turn_SS = np.linalg.eigh(white_SS @ (total_SS - within_SS) @ white_SS)
    between_S = np.maximum(between_S, 0)
    map_SS = white_SS @ turn_SS * (between_S / (between_S + 1)) @ turn_SS.T
    return (map_SS / np.sqrt(np.mean((z_US @ map_SS) ** 2))).astype(np.float32)


def _change(x_TC: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring frames."""
    return np.abs(np.diff(x_TC, axis=0)).mean(0) if len(x_TC) > 1 else np.zeros(x_TC.shape[1:])


def pitch_of(audio_N: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pitch in Hz, strength of the periodicity in 0 .. 1 and mean power, each (T,), of (N,) float
    samples at SAMPLE_RATE, in frames of 10 ms around their centres.

    Normalised autocorrelation of a Hann window, divided by the window's own (Boersma 1993). Of all
    lags whose peak comes within 15 % of the highest the shortest is taken, which keeps octave
    errors rare.
    """
    pad = (_WINDOW - _HOP) // 2
    padded_N = np.pad(audio_N, (pad, pad + _WINDOW))
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded_N, _WINDOW)[::_HOP][:frames]
    window_W = mel.window_of(_WINDOW)
    windowed_TW = (frames_TW - frames_TW.mean(-1, keepdims=True)) * window_W
    low = int(SAMPLE_RATE / PITCH_HZ[1])
    high = int(SAMPLE_RATE / PITCH_HZ[0]) + 1
    spectrum_TK = np.abs(fft.rfft(windowed_TW, _FFT)) ** 2
    own_L = fft.irfft(np.abs(fft.rfft(window_W, _FFT)) ** 2)[: high + 2]
    correlation_TL = fft.irfft(spectrum_TK)[:, : high + 2]
    power_T = correlation_TL[:, 0] / own_L[0]
    correlation_TL = correlation_TL / np.maximum(correlation_TL[:, :1], 1e-9) / (own_L / own_L[0])
    inner_TL = correlation_TL[:, low : high + 1]
    before_TL = correlation_TL[:, low - 1:high]
    after_TL = correlation_TL[:, low + 1:high + 2]
    is_peak_TL = (inner_TL > before_TL) & (inner_TL >= after_TL)
    peaks_TL = np.where(is_peak_TL, inner_TL, 0.0)
    voicing_T = peaks_TL.max(-1)
    lag_T = low + (peaks_TL >= 0.85 * voicing_T[:, None]).argmax(-1)
    return SAMPLE_RATE / lag_T, np.clip(voicing_T, 0, 1), power_T
