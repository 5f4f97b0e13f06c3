"""The distance of a vocoder's sound from the recording that its mel is of."""

import numpy as np
import pytest
from scipy import signal

from eval.metrics.speech import FLOOR, magnitudes, mrstft

RATE = 22050


@pytest.fixture
def speech():
    rng, t = np.random.default_rng(0), np.arange(RATE // 2) / RATE
    harmonics = sum(np.cos(2 * np.pi * 140 * k * t + k * k) / k for k in range(1, 30))
    return (0.1 * harmonics * (1 + np.sin(8 * t)) + 1e-3 * rng.normal(size=len(t))).astype("f4")


def test_magnitudes_are_those_of_scipy(speech):
    """Of a window as wide as the transform, where both mean the same."""
    found = magnitudes(speech, 1024, 256, 1024)
    short = signal.ShortTimeFFT(signal.get_window("hann", 1024), 256, RATE, mfft=1024)
    theirs = np.abs(short.stft(speech, padding="even", p0=0)).T
    inner = slice(4, min(len(found), len(theirs)) - 4)
    np.testing.assert_allclose(found[inner], np.maximum(theirs[inner], FLOOR**0.5), rtol=1e-4,
                               atol=1e-4)


def test_it_hears_level_and_noise_but_no_shift_of_phase(speech):
    assert mrstft(speech, speech) == 0
    half = mrstft(0.5 * speech, speech)  # half the norm, and ln 2 everywhere above the floor
    assert half == pytest.approx(0.5 + np.log(2), rel=0.01)
    turned = np.imag(signal.hilbert(speech))
    noise = np.random.default_rng(1).normal(size=len(speech)) * speech.std()
    assert mrstft(turned, speech) < 0.3 * mrstft(noise, speech)
    assert np.isnan(mrstft(speech[:900], speech))
    assert mrstft(np.append(speech, np.ones(50)), speech) == 0  # over what both have
