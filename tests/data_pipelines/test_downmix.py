"""Whichever channel a voice is in, it is heard at its level; what cancels or changes midway is
mended."""

import io
import re

import av
import numpy as np
import pytest
import soundfile

from data_pipelines import media
from data_pipelines.ingest.talker import listing
from data_pipelines.media import downmix
from tests.data_pipelines import films

RATE = 24000
T = np.arange(RATE) / RATE
VOICE = (0.3 * np.sin(2 * np.pi * 220 * T) * np.sin(2 * np.pi * 3 * T)).astype(np.float32)
NOISE = 0.3 * np.random.default_rng(0).standard_normal((12, RATE)).astype(np.float32)
SILENT = np.zeros_like(VOICE)


def gain(heard):
    heard = heard[:RATE]
    return heard @ VOICE[: len(heard)] / (VOICE @ VOICE)


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "3.0", "quad", "5.0", "5.1",
                                    "5.1(side)", "6.1", "7.1"])
@pytest.mark.parametrize("container, codec", [("wav", "pcm_s16le"), ("mp4", "aac")])
def test_a_voice_in_one_channel_keeps_its_level(tmp_path, layout, container, codec):
    """With rumble in the bass channel, which is left out."""
    names = [c.name for c in av.AudioLayout(layout).channels]
    voice = "FC" if "FC" in names else "FL"
    rumble = 0.2 * np.sin(2 * np.pi * 50 * T)
    x_CN = np.stack([VOICE if n == voice else rumble if n == "LFE" else SILENT for n in names])
    path = films.write(tmp_path / f"a.{container}", container, None, codec, rate=RATE, sound=x_CN,
                       layout=layout)
    heard = media.read_sound(path, RATE)
    assert gain(heard.samples) == pytest.approx(1, abs=0.01)
    assert np.sqrt(np.mean((heard.samples[:RATE] - VOICE) ** 2)) < 0.01 and not heard.remarks


def test_the_centre_counts_as_in_bs775():
    weights, remarks = downmix.weights("FL FR FC LFE BL BR".split(), np.eye(6))
    np.testing.assert_allclose(weights / weights[2], [2**-0.5, 2**-0.5, 1, 0, 0.5, 0.5])
    assert weights.sum() == pytest.approx(1) and not remarks
    # a plain WAV of six channels
    np.testing.assert_allclose(downmix.weights(["NONE"] * 6, np.eye(6))[0], weights)
    np.testing.assert_allclose(downmix.weights(["FL", "FR"], np.eye(2))[0], [0.5, 0.5])
    np.testing.assert_allclose(downmix.weights(["NONE"] * 4, np.eye(4))[0], [0.25] * 4)
    np.testing.assert_allclose(downmix.weights(["AMBI0", "AMBI1", "AMBI2", "AMBI3"], np.eye(4))[0],
                               [1, 0, 0, 0])


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 8, 12])
def test_wherever_it_is_in_a_plain_wav(tmp_path, channels):
    for k in range(channels):
        x_CN = np.zeros((channels, RATE), np.float32)
        x_CN[k] = VOICE
        mixed, _ = downmix.mono(x_CN)
        assert gain(mixed) == pytest.approx(1, abs=1e-3)
    soundfile.write(tmp_path / "a.wav", x_CN.T, RATE)
    assert gain(media.read_audio(tmp_path / "a.wav", RATE)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("case, x_CN, wanted, remark", [
    ("same", [VOICE, VOICE], 1, None),
    ("inverted", [VOICE, -VOICE], 1, "channel 2 of 2.*inverted"),
    ("inverted, softer", [VOICE, -0.6 * VOICE], 0.8, "channel 2 of 2.*inverted"),
    ("inverted, other noise", [VOICE + 0.05 * NOISE[0], -VOICE + 0.05 * NOISE[1]], 1,
     "channel 2 of 2.*inverted"),
    ("hiss", [VOICE, 0.01 * NOISE[0]], 1, None),
    ("offset", [VOICE, SILENT + 0.2], 1, None),
    ("one of three", [-VOICE, VOICE, VOICE], 1, "channel 1 of 3.*inverted"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_inverted_and_dead_channels(tmp_path, capsys, case, x_CN, wanted, remark):
    soundfile.write(tmp_path / "a.wav", np.stack(x_CN, 1), RATE, subtype="FLOAT")
    heard = media.read_sound(tmp_path / "a.wav", RATE)
    assert gain(heard.samples) == pytest.approx(wanted, abs=0.02)
    assert len(heard.remarks) == bool(remark)
    if remark:
        assert re.search(remark, heard.remarks[0])
        media.read_audio(tmp_path / "a.wav", RATE)  # as what drives a model
        assert re.search(f"remark: .*a.wav: {remark}", capsys.readouterr().err)
    # the other reader of sound
    talker, mended = listing.audio_of((tmp_path / "a.wav").read_bytes(), "a.wav")
    assert gain(talker / np.float32(32768)) == pytest.approx(wanted,
                                                             abs=0.02) and mended == bool(remark)


@pytest.mark.parametrize("container, codec",
                         [("mp3", "libmp3lame"), ("ogg", "libopus"), ("adts", "aac")])
@pytest.mark.parametrize("order", ["mono first", "stereo first"])
def test_channels_and_rate_may_change_midway(tmp_path, container, codec, order):
    """Files joined end to end: each part by its own channels, none halved, none lost."""
    parts = []
    for channels, rate in ((1, 24000), (2, 48000))[:: 1 if order == "mono first" else -1]:
        sound = np.stack([films.click(rate), 0 * films.click(rate)])[:channels]
        parts.append(films.write(tmp_path / f"{channels}.part", container, None, codec, rate=rate,
                                 sound=sound, layout="mono" if channels == 1
                                 else "stereo").read_bytes())
    (tmp_path / "a.ogg").write_bytes(b"".join(parts))
    heard = media.read_sound(tmp_path / "a.ogg", 48000)
    assert heard.end - heard.start == pytest.approx(2 * films.SECONDS, abs=0.2)
    middle = round(films.SECONDS * 48000)
    first, second = np.abs(heard.samples[:middle]), np.abs(heard.samples[middle:])
    assert 0.7 < first.max() < 1.1 and 0.7 < second.max() < 1.1
    assert np.argmax(first > 0.4) / 48000 == pytest.approx(films.AT, abs=0.01)
    # behind the parts' own padding
    assert np.argmax(second > 0.4) / 48000 == pytest.approx(films.AT, abs=0.1)


def test_a_pipes_wav_in_talkers_data():
    file = io.BytesIO()
    soundfile.write(file, VOICE, RATE, format="WAV")
    data = bytearray(file.getvalue())
    data[40:44] = bytes(4)
    assert len(listing.audio_of(bytes(data), "a.wav")[0]) == RATE
