"""Log-mel against recorded numbers and known values; both array libraries; the way back through
Griffin-Lim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.signal import griffin_lim, mel
from tests.golden_files import cases


def speech_like(seconds=1.5, seed=0):
    """A gliding harmonic tone with vowel-like envelope, pauses and breath."""
    time = np.arange(round(seconds * 22050)) / 22050
    pitch = 120 + 40 * np.sin(2 * np.pi * 1.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / 22050
    voice = sum(np.sin(k * phase) / k for k in range(1, 25)) * (0.2
                                                                + np.abs(np.sin(2 * np.pi * 2
                                                                                * time)))
    return (0.1 * voice + 0.003
            * np.random.default_rng(seed).standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("arrays", cases("avflow_text", "mel/"))
@pytest.mark.parametrize("library", [np, jnp])
def test_equals_the_published_mel(arrays, library):
    ours = mel.log_mel(library.asarray(arrays["mel/audio_22050"]))
    assert isinstance(ours, jax.Array) == (library is jnp)
    np.testing.assert_allclose(ours, arrays["mel/log_mel"].T, atol=1e-4)
    np.testing.assert_allclose(mel.normalise(ours), arrays["mel/normalised"], atol=1e-4)
    np.testing.assert_allclose(mel.denormalise(mel.normalise(ours)), ours, atol=1e-5)


def test_slaney_scale_and_filters():
    # Slaney's definition
    np.testing.assert_allclose(mel.hz_to_mel([0, 60, 1000, 6400]), [0, 0.9, 15, 42])
    np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel([0, 440, 999, 1001, 8000])),
                               [0, 440, 999, 1001, 8000])
    filters = mel.filters_of()
    assert filters.shape == (80, 513) and filters.dtype == np.float32
    # unit area, where bins are dense
    np.testing.assert_allclose(filters[40:].sum(1) * 22050 / 1024, 1.0, atol=0.02)
    assert np.all(filters[:, 373:] == 0) and np.all(filters >= 0)  # nothing above 8 kHz
    assert np.all(np.diff(filters.argmax(1)) >= 0) and filters.any(1).all()


def test_frames_are_centred_where_the_docstring_says():
    audio = np.zeros(256 * 20, np.float32)
    audio[256 * 10 + 128] = 1.0
    energy = np.exp(mel.log_mel(audio)).sum(1)
    assert energy.argmax() == 10 and len(energy) == 20
    np.testing.assert_allclose(energy[9], energy[11], rtol=1e-4)


def test_batches_and_jit():
    audio = np.stack([speech_like(0.5), speech_like(0.5, 1)])
    np.testing.assert_allclose(mel.log_mel(audio)[1], mel.log_mel(audio[1]), atol=1e-6)
    np.testing.assert_allclose(jax.jit(mel.log_mel)(audio), mel.log_mel(audio), atol=1e-4)


def test_refuses_what_is_not_audio():
    with pytest.raises(UserError, match="too short"):
        mel.log_mel(np.zeros(100, np.float32))
    with pytest.raises(UserError, match="floating"):
        mel.log_mel(np.zeros(4000, np.int16))


def test_mel_inversion_keeps_the_mel():
    log_mel = mel.log_mel(speech_like())
    magnitude = np.asarray(griffin_lim.magnitudes(jnp.asarray(log_mel)))
    assert magnitude.min() >= 0
    np.testing.assert_allclose(np.log(np.maximum(magnitude @ mel.filters_of().T, 1e-5)), log_mel,
                               atol=0.02)


def test_istft_inverts_stft():
    audio = jnp.asarray(np.random.default_rng(0).standard_normal(256 * 30).astype(np.float32))
    back = griffin_lim.istft(griffin_lim.stft(audio))
    np.testing.assert_allclose(back[512:-512], audio[512:-512], atol=1e-4)


def test_griffin_lim_round_trip():
    audio = speech_like()
    target = mel.log_mel(audio)
    distance = {n: np.abs(mel.log_mel(griffin_lim.waveform(target, iterations=n)) - target).mean()
                for n in (1, 32)}
    assert distance[32] < 0.15 and distance[32] < 0.6 * distance[1], distance
    waveform = griffin_lim.waveform(target)
    assert len(waveform) == len(target) * 256 and waveform.dtype == np.float32
    # the gain of 1.1 is undone
    np.testing.assert_allclose(np.std(waveform), np.std(audio), rtol=0.1)


def test_padding_to_a_bucket_is_inaudible():
    target = mel.log_mel(speech_like(0.7))
    ours, other = griffin_lim.waveform(target, bucket=128), griffin_lim.waveform(target, bucket=61)
    assert len(ours) == len(other)
    np.testing.assert_allclose(mel.log_mel(ours)[:-4], mel.log_mel(other)[:-4], atol=1.0)
    assert np.abs(mel.log_mel(ours) - mel.log_mel(other)).mean() < 0.1


def test_griffin_lim_refuses_nan():
    with pytest.raises(UserError, match="not finite"):
        griffin_lim.waveform(np.full((10, 80), np.nan))
    with pytest.raises(UserError, match="not a mel"):
        griffin_lim.waveform(np.zeros((80, 10)))
