"""Decoding by timestamps: any frame rate, variable rate, late streams, rotation, damage; writing
whole files only."""

import fractions

import av
import numpy as np
import pytest
import soundfile

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.media import write_media

WIDTH, HEIGHT, SECONDS = 128, 64, 2.0


def marker(time):
    """A picture that tells its own time: white up to 40 pixels a second."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : round(8 + 40 * time)] = 255
    return image


def time_of(image):
    return ((image[HEIGHT // 2, :, 0] > 127).sum() - 8) / 40


def read_video(path, fps=30.0, start=None, end=None):
    return np.stack([image for _, image in media.frames_at(path, fps, start, end)])


def write(path, times, sound=None, rate=44100, channels=1, sound_start=0.0, codec="libx264",
          name="mp4"):
    with av.open(str(path), "w", format=name) as container:
        video = container.add_stream(codec, rate=30)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = fractions.Fraction(1, 90000)
        video.options = {"crf": "10"} if codec == "libx264" else {}
        stream = None
        if sound is not None:
            stream = container.add_stream("aac", rate=rate, layout="stereo" if channels == 2
                                          else "mono")
        for time in times:
            frame = av.VideoFrame.from_ndarray(marker(time), format="rgb24")
            frame.pts, frame.time_base = round(time * 90000), fractions.Fraction(1, 90000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if stream is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.tile(sound, (channels, 1)),
                                                                    np.float32), "fltp",
                                               "stereo" if channels == 2 else "mono")
            frame.rate, frame.pts = rate, round(sound_start * rate)
            frame.time_base = fractions.Fraction(1, rate)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def clicks(rate, seconds=SECONDS, at=(0.5, 1.0, 1.5)):
    out = np.zeros(round(seconds * rate), np.float32)
    for time in at:
        out[round(time * rate) : round(time * rate) + rate // 200] = 0.8
    return out


STEADY = {fps: np.arange(0, SECONDS - 1e-6, 1 / fps) for fps in (25, 60, 30000 / 1001, 12.5)}
VARIABLE = np.sort(np.concatenate([np.arange(0, 1, 1 / 15), 1 + np.arange(0, 1, 1 / 48)]))


@pytest.mark.parametrize("times", [*STEADY.values(), VARIABLE],
                         ids=["25", "60", "29.97", "12.5", "variable"])
def test_frames_are_the_nearest_in_time(tmp_path, times):
    path = write(tmp_path / "a.mp4", times)
    frames = read_video(path, fps=30, end=SECONDS)
    assert len(frames) == 60
    for k, image in enumerate(frames):
        nearest = times[np.abs(times - k / 30).argmin()]
        # exact to a pixel, 25 ms; of two frames equally near, either will do
        shown = time_of(image)
        assert abs(shown
                   - nearest) < 0.026 or abs(abs(nearest - k / 30) - abs(shown - k / 30)) < 0.026
        assert abs(shown - k / 30) < np.diff(times).max() / 2 + 0.026


def test_interval_is_on_the_containers_clock(tmp_path):
    path = write(tmp_path / "a.mp4", STEADY[60])
    frames = read_video(path, fps=30, start=0.5, end=1.0)
    assert len(frames) == 15
    np.testing.assert_allclose([time_of(f) for f in frames], 0.5 + np.arange(15) / 30, atol=0.026)


def test_late_video_stays_late(tmp_path):
    path = write(tmp_path / "a.mkv", STEADY[25] + 0.4, clicks(44100), name="matroska")
    probe = media.probe(path)
    assert media.video_times(path)[0] == pytest.approx(0.4, abs=0.03)
    assert probe.audio is not None
    frames = [(t, time_of(image)) for t, image in media.frames_at(path, 30)]
    assert frames[0][0] == pytest.approx(0.4, abs=0.03)
    np.testing.assert_allclose([t for t, _ in frames], [shown for _, shown in frames], atol=0.05)


@pytest.mark.parametrize("rate,channels", [(44100, 2), (48000, 1), (16000, 1)])
def test_audio_is_where_it_was(tmp_path, rate, channels):
    path = write(tmp_path / "a.mp4", STEADY[25], clicks(rate), rate, channels)
    audio = media.read_audio(path, 22050, 0.0, SECONDS)
    assert len(audio) == 44100 and audio.dtype == np.float32
    for time in (0.5, 1.0, 1.5):
        near = audio[round((time - 0.1) * 22050) : round((time + 0.1) * 22050)]
        onset = np.argmax(np.abs(near) > 0.4) / 22050 - 0.1
        assert abs(onset) < 0.004, (time, onset)


def test_late_audio_is_padded_and_gaps_are_silent(tmp_path):
    path = write(tmp_path / "a.mkv", STEADY[25], clicks(48000, 1.5, at=(0.2,)), 48000,
                 sound_start=0.5, name="matroska")
    audio = media.read_audio(path, 22050, 0.0, SECONDS)
    onset = np.argmax(np.abs(audio) > 0.4) / 22050
    assert onset == pytest.approx(0.7, abs=0.03)  # 0.2 s into a track that starts at 0.5
    assert np.abs(audio[: round(0.4 * 22050)]).max() < 0.05


def test_wav_formats_agree(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    for subtype in ("PCM_16", "PCM_24", "FLOAT"):
        soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], 1), 48000, subtype=subtype)
        audio = media.read_audio(tmp_path / "a.wav", 22050)
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
        assert len(audio) == 22050
        np.testing.assert_allclose(audio[500:-500], expected[500:-500], atol=2e-3)


def test_rotated_video_comes_out_upright(tmp_path):
    path = write(tmp_path / "a.mp4", STEADY[25])
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    # version 0: flags 4, times 8, id 4, reserved 4, duration 4, reserved 8, layer .. volume 8
    matrix = header + 40
    # as phones held upright: a quarter turn clockwise
    turned = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(int(v).to_bytes(4, "big", signed=True) for v in turned)
    path.write_bytes(data)
    image = read_video(path, fps=30)[30]
    assert image.shape == (WIDTH, HEIGHT, 3)
    np.testing.assert_allclose(image[:, HEIGHT // 2].astype(int),
                               marker(1.0)[HEIGHT // 2].astype(int), atol=60)


def test_damage_is_told_apart(tmp_path):
    good = tmp_path / "good.mp4"
    rng = np.random.default_rng(0)
    write_media.write_mp4(good, rng.integers(0, 255, (90, 64, 64, 3), np.uint8), 30,
                          clicks(22050, 3.0), 22050)
    data = good.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])  # the index is in front, half of the pictures are gone
    with pytest.raises(media.MediaError, match="truncated"):
        media.check_whole(cut)
    media.check_whole(good)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(rng.bytes(5000))
    for call in (media.probe, read_video, media.read_audio, media.video_times):
        with pytest.raises(media.MediaError, match="unreadable.*none.mp4"):
            call(tmp_path / "none.mp4")
        with pytest.raises(media.MediaError, match="unreadable") as error:
            call(noise)
        assert "noise.mp4" in str(error.value) and "\n" not in str(error.value)
    soundfile.write(tmp_path / "s.wav", clicks(16000), 16000)
    media.check_whole(tmp_path / "s.wav")
    (tmp_path / "s.wav").write_bytes((tmp_path / "s.wav").read_bytes()[:20000])
    with pytest.raises(media.MediaError, match="truncated"):
        media.check_whole(tmp_path / "s.wav")
    with pytest.raises(media.MediaError, match="no audio"):
        media.read_audio(write(tmp_path / "mute.mp4", STEADY[25]))


def test_written_video_reads_back(tmp_path):
    frames = np.stack([marker(k / 30) for k in range(60)])[:, :63, :127]  # odd sizes
    audio = clicks(22050)
    write_media.write_mp4(tmp_path / "a.mp4", frames, 30, audio, 22050)
    back = read_video(tmp_path / "a.mp4", 30)
    assert back.shape == (60, 64, 128, 3)
    np.testing.assert_allclose([time_of(f) for f in back], np.arange(60) / 30, atol=0.026)
    heard = media.read_audio(tmp_path / "a.mp4", 22050, 0, 2.0)
    assert abs(np.argmax(np.abs(heard) > 0.4) - 11025) < 60


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(UserError, match="differ in length"):
        write_media.write_mp4(path, np.zeros((30, 16, 16, 3), np.uint8), 30,
                              np.zeros(44100, np.float32), 22050)
    with pytest.raises(UserError, match="differ in size"):
        write_media.write_mp4(path,
                              [np.zeros((16, 16, 3), np.uint8), np.zeros((18, 16, 3), np.uint8)],
                              30)
    with pytest.raises(UserError, match="no frames"):
        write_media.write_mp4(path, [], 30)
    assert list(tmp_path.iterdir()) == []
