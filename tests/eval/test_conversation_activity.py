"""Who speaks in a conversation is found in the mel, or by a voice activity in its sound."""

import types

import numpy as np
import pytest

from avjax.encoders.voice_activity import Detector
from avjax.signal import mel
from eval.data.conversations import Conversation

RATE = mel.RECIPE["sample_rate"]
SPANS = [(500, 1500), (2000, 3000)]  # ms


def channel(start, end):
    at = np.arange(4 * RATE) * 1000 / RATE
    return (0.3 * np.sign(np.sin(at)) * ((start <= at) & (at < end))).astype(np.float32)


@pytest.mark.parametrize("detector", [None, Detector()])
def test_both_find_who_speaks(detector):
    sound = [channel(*span) for span in SPANS]
    decoder = types.SimpleNamespace(
        sample_rate=RATE, speakers=lambda streams: [0, 1], waveform=lambda k: sound[k])
    streams = {"mel": np.stack([mel.normalise(mel.log_mel(x)) for x in sound], 1)}
    found = Conversation(decoder, streams, {"audio"}, detector=detector)
    for speech, span in zip(found.speech, SPANS, strict=True):
        np.testing.assert_allclose(speech, [span], atol=100)
    assert found.speaking(100).shape == (2, 100)
    assert len(found.events["gap"]) == 1 and not len(found.events["overlap"])


def test_the_sound_is_asked_only_for_a_detector():
    streams = {"mel": np.stack([mel.normalise(mel.log_mel(channel(*SPANS[0])))] * 2, 1)}
    silent = types.SimpleNamespace(
        sample_rate=RATE, speakers=lambda streams: [0, 1],
        waveform=lambda k: np.zeros(4 * RATE, np.float32))
    assert len(Conversation(silent, streams, {"audio"}).speech[0])
    assert not len(Conversation(silent, streams, {"audio"}, detector=Detector()).speech[0])
