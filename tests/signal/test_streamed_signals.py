"""Resampling and Griffin-Lim on signals that have not ended: the same however they are fed, and
nothing later than they say is needed."""

import numpy as np
import pytest

from avjax.signal import griffin_lim, mel, resample, resample_stream
from avjax.signal.griffin_lim_stream import StreamedGriffinLim

RESAMPLED = {
    "timestamps": (lambda: resample_stream.from_features(30),
                   lambda x: resample.from_features(x, 30), 0.5),
    "released": (lambda: resample_stream.from_features(30, "released"),
                 lambda x: resample.from_features(x, 30, mode="released"), 0.5),
    "clock": (lambda: resample_stream.convert(25, 30),
              lambda x: resample.convert(x, 25, 30, max(1, round(len(x) * 30 / 25))), 0.0)}


def fed(stream, x_TC, sizes):
    """What comes out, part by part."""
    parts, at = [], 0
    for size in sizes:
        parts.append(stream.feed(x_TC[at:at + size]))
        at += size
    return [*parts, stream.feed(x_TC[at:]) if at < len(x_TC) else x_TC[:0], stream.finish()]


@pytest.mark.parametrize("name", RESAMPLED)
def test_frames_are_resampled_to_the_same_numbers(name):
    make, whole, _ = RESAMPLED[name]
    rng = np.random.default_rng(0)
    for frames in (1, 2, 3, 29, 171):
        x_TC = rng.standard_normal((frames, 3)).astype(np.float32)
        parts = fed(make(), x_TC, [0, *rng.integers(1, 7, frames // 7)])
        np.testing.assert_array_equal(np.concatenate([p for p in parts if len(p)]), whole(x_TC))


@pytest.mark.parametrize("name", RESAMPLED)
def test_a_frame_comes_as_late_as_the_look_ahead_says(name):
    make, _, offset = RESAMPLED[name]
    stream = make()
    waited = []
    made = 0
    for frame in range(300):
        new = len(stream.feed(np.zeros((1, 1), np.float32)))
        waited += [frame + offset - k * stream.rate / stream.new_rate
                   for k in range(made, made + new)]
        made += new
    assert max(waited) <= stream.look_ahead + 1e-9
    assert max(waited) > stream.look_ahead - 0.35, "and no later"


@pytest.fixture(scope="module")
def voiced():
    """Log-mel of half a second of a breathy voice whose pitch moves."""
    time_N = np.arange(11264) / 22050
    pitch_N = np.cumsum(120 + 30 * np.sin(2 * np.pi * 3 * time_N)) / 22050
    audio_N = sum(np.sin(2 * np.pi * k * pitch_N) / k for k in range(1, 20)).astype(np.float32)
    audio_N += 0.05 * np.random.default_rng(0).standard_normal(len(audio_N)).astype(np.float32)
    return mel.log_mel(0.05 * audio_N)


@pytest.mark.parametrize("block, ahead", [(1, 0), (4, 3)])
def test_sound_does_not_depend_on_how_its_frames_are_fed(voiced, block, ahead):
    def make():
        return StreamedGriffinLim(block=block, ahead=ahead, iterations=4)

    once = np.concatenate(fed(make(), voiced, ()))
    np.testing.assert_array_equal(np.concatenate(fed(make(), voiced, (1, 0, 9, 2, 13))), once)
    assert len(once) == len(voiced) * 256 and once.dtype == np.float32
    assert not len(make().finish())


@pytest.mark.parametrize("block, ahead", [(1, 0), (4, 3)])
def test_sound_depends_on_no_frame_beyond_the_look_ahead(voiced, block, ahead):
    def sound(log_mel_TM):
        stream = StreamedGriffinLim(block=block, ahead=ahead, iterations=4)
        return np.concatenate([stream.feed(log_mel_TM), stream.finish()]), stream.look_ahead

    (before, look_ahead), reached = sound(voiced), []
    for frame in range(20, 20 + block):
        other = voiced.copy()
        other[frame] += 1
        first = np.flatnonzero(sound(other)[0] != before)[0]
        reached.append(frame + 0.5 - first / 256)  # a frame is at its centre
    assert max(reached) <= look_ahead
    assert max(reached) > look_ahead - 0.1, "and the look-ahead is no guess"


def test_streamed_speech_has_the_mel_that_was_asked_for(voiced):
    def off(audio_N):
        return np.abs(mel.log_mel(audio_N / mel.RECIPE["gain"])[4:-4] - voiced[4:-4]).mean()

    whole = off(griffin_lim.waveform(voiced))
    near = StreamedGriffinLim(block=4, ahead=4)
    least = StreamedGriffinLim()
    assert off(np.concatenate(fed(near, voiced, (7, 8)))) < 1.2 * whole
    assert off(np.concatenate(fed(least, voiced, (7, 8)))) < 1.2 * whole
