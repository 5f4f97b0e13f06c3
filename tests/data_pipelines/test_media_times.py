"""A flash and a click at one moment stay together, in every container and codec that people have,
and after trimming."""

import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from data_pipelines import media
from data_pipelines.ingest.common import recordings
from data_pipelines.media import faces
from tests.data_pipelines import films

HALF = 0.5 / films.FPS
SUFFIX = {"matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv"}
# container -> (its pictures, its sound); each of one list is tried with the first of the other
PAIRS = {
    "mp4": (("libx264", "mpeg4", "libx265", "mjpeg"), ("aac", "libmp3lame", "ac3", "libopus")),
    "mov": (("libx264", "prores_ks", "qtrle"), ("aac", "pcm_s16le", "alac")),
    "matroska": (("libx264", "libvpx-vp9", "ffv1"), ("aac", "libmp3lame", "flac", "pcm_s16le")),
    "webm": (("libvpx",), ("libopus",)),
    "avi": (("libx264", "mpeg4", "mjpeg"), ("libmp3lame", "aac", "pcm_s16le")),
    "mpegts": (("libx264", "mpeg2video"), ("aac", "mp2")),
    "flv": (("libx264", "flv"), ("aac", "libmp3lame")),
    "3gp": (("mpeg4",), ("aac",)),
    "mpeg": (("mpeg1video",), ("mp2",)),
    "asf": (("wmv2",), ("libmp3lame",)),
}
EACH = [(c, v, a) for c, (videos, sounds) in PAIRS.items() for v in videos for a in sounds
        if v == videos[0] or a == sounds[0]]


def flash(path):
    """Time of the white picture, and how many pictures there are."""
    shown = [(image[20:].mean(), time) for time, _, image in media.iterate_video(path)]
    return max(shown)[1], len(shown)


def clicks(path, rate=48000):
    """Times of the clicks."""
    heard = media.read_sound(path, rate)
    loud = np.abs(heard.samples) > 0.5 * np.abs(heard.samples).max()
    at = np.flatnonzero(loud) / rate + heard.start
    return at[np.diff(at, prepend=-1) > 0.1]


@pytest.mark.parametrize("container, video, audio", EACH, ids=["-".join(e) for e in EACH])
def test_flash_and_click_of_every_pair(tmp_path, container, video, audio):
    fps = 25 if container == "mpeg" else films.FPS
    # long frames, long padding
    rate = 44100 if video == "flv" else 22050 if audio in ("aac", "libmp3lame") else 48000
    path = films.write(tmp_path / f"a.{SUFFIX.get(container, container)}", container, video, audio,
                       rate=rate, fps=fps)
    media.check_whole(path, films.SECONDS)
    (heard,), (seen, count) = clicks(path), flash(path)
    assert abs(heard - seen) < 0.5 / fps
    assert count == films.SECONDS * fps
    times = media.video_times(path)
    assert len(times) == count and (np.diff(times) > 0).all()


@pytest.mark.parametrize("container, audio, suffix", [
    ("mp3", "libmp3lame", "mp3"), ("adts", "aac", "aac"), ("ipod", "aac", "m4a"),
    ("ogg", "libopus", "opus"), ("wav", "pcm_s16le", "wav"), ("flac", "flac", "flac"),
    ("wav", "libmp3lame", "wav"), ("no header", "libmp3lame", "mp3")])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_sound_beside_a_video_begins_with_it(tmp_path, container, audio, suffix, rate):
    muxer = {"write_xing": "0", "id3v2_version": "0"} if container == "no header" else None
    path = films.write(tmp_path / f"a.{suffix}", "mp3" if muxer else container, None, audio,
                       rate=rate, muxer=muxer)
    heard = media.read_sound(path, 48000)
    media.check_whole(path, len(heard.samples) / 48000)
    assert abs(heard.end - heard.start - films.SECONDS) < 0.04  # not 1.1 s of it estimated away
    assert abs(clicks(path)[0] - heard.start - films.AT) < 0.002


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return films.write(tmp_path_factory.mktemp("film") / "a.mp4", "mp4", "libx264", "aac")


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_trimmed_without_encoding_again(tmp_path, film, container):
    def moved(stream, time):
        return time - 0.7 if time > 0.66 or stream.type == "video" else None

    path = films.again(film, tmp_path / f"a.{container}", container, moved)
    seen, count = flash(path)
    # 21 of the pictures are never shown
    assert seen == pytest.approx(0.9, abs=1e-3) and count == 51
    assert len(media.video_times(path)) == 51
    assert clicks(path)[0] == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("late, all_of_it", [(100.0, 100.0), (0.5, 0.0)],
                         ids=["clock of 100 s", "late pictures"])
def test_late_streams_are_whole_files(tmp_path, film, container, late, all_of_it):
    path = films.again(film, tmp_path / f"a.{SUFFIX.get(container, container)}", container,
                       lambda s, t: t + (late if s.type == "video" else all_of_it))
    media.check_whole(path)
    assert flash(path)[0] - clicks(path)[0] == pytest.approx(late - all_of_it, abs=0.002)


@pytest.mark.parametrize("speed", [0.99, 1.01])
def test_sound_is_stretched_to_its_timestamps(tmp_path, film, speed):
    """A minute at 0.2 % is 116 ms; here three seconds at 1 %, two clicks of them."""
    two = films.click(48000, 12.0, 0.5) + films.click(48000, 12.0, 11.5)
    source = films.write(tmp_path / "a.mkv", "matroska", None, "flac", sound=two[None])
    path = films.again(source, tmp_path / "b.mkv", "matroska", lambda s, t: t * speed)
    np.testing.assert_allclose(clicks(path), [0.5 * speed, 11.5 * speed], atol=0.003)


def test_gaps_stay_and_resets_are_joined(tmp_path):
    plain = films.write(tmp_path / "a.mov", "mov", "mpeg4", "aac")
    path = films.again(plain, tmp_path / "a.mkv", "matroska", lambda s, t: t if t < 1 else t + 0.5)
    # and 21 ms: Matroska begins with the padding
    assert flash(path)[0] == pytest.approx(films.AT + 0.5, abs=0.03)
    assert flash(path)[0] - clicks(path)[0] == pytest.approx(0, abs=HALF)
    one = films.write(tmp_path / "a.ts", "mpegts", "libx264", "aac")
    two = films.write(tmp_path / "b.ts", "mpegts", "libx264", "aac", rate=44100, layout="stereo",
                      sound=np.stack([films.click(44100), films.click(44100) * 0]))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    seen = [time for time, _, image in media.iterate_video(joined) if image[20:].mean() > 128]
    assert len(seen) == 2 and len(media.video_times(joined)) == 144
    np.testing.assert_allclose(clicks(joined), seen, atol=HALF)


@pytest.mark.parametrize("riff, data", [(2**32 - 1, 2**32 - 1), (0, 0), (0x7FFFF024, 0x7FFFF000),
                                        (2**31 + 36, 2**31), (2**31 - 1, 2**31 - 37),
                                        (2**32 - 1, 2**32 - 37)])
def test_wavs_from_a_pipe_are_whole(tmp_path, riff, data):
    path = tmp_path / "a.wav"
    soundfile.write(path, films.click(16000), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<I",
                                             riff) + whole[8:40] + struct.pack("<I",
                                                                               data) + whole[44:])
    media.check_whole(path)
    assert len(media.read_sound(path, 16000).samples) == films.SECONDS * 16000
    assert clicks(path)[0] == pytest.approx(films.AT, abs=1e-3)


def test_wavs_of_more_than_4_gib(tmp_path):
    """Their sizes are in a chunk of their own."""
    path = tmp_path / "a.wav"
    soundfile.write(path, films.click(16000), 16000, format="RF64")
    whole = path.read_bytes()
    assert whole.startswith(b"RF64")
    media.check_whole(path)
    assert len(media.read_sound(path, 16000).samples) == films.SECONDS * 16000
    path.write_bytes(whole[: len(whole) * 3 // 5])
    with pytest.raises(media.MediaError, match="truncated.*a."):
        media.check_whole(path)


def test_an_hour_of_sound_fits_into_memory(tmp_path):
    """At most one copy at the file's rate and one at the wanted, at a time; a quarter more where
    memory grows."""
    path, seconds = tmp_path / "a.wav", 20
    soundfile.write(path, np.sin(np.arange(48000 * seconds) / 9), 48000)
    for rate in (48000, 22050):
        media.read_audio(path, rate)  # what is made once
        tracemalloc.start()
        media.read_audio(path, rate)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.25 * 4 * seconds * (48000 + (rate if rate != 48000 else 0)) + 5e5, peak


CUT = {"mp4": ("libx264", "aac"), "matroska": ("libx264", "aac"), "avi": ("mpeg4", "libmp3lame"),
       "mp3": (None, "libmp3lame"), "ogg": (None, "libopus"), "flac": (None, "flac"),
       "wav": (None, "pcm_s16le")}


@pytest.mark.parametrize("container", CUT)
def test_cut_files_are_refused(tmp_path, container):
    muxer = {"movflags": "faststart"} if container == "mp4" else None
    path = films.write(tmp_path / f"a.{container}", container, *CUT[container], muxer=muxer)
    media.check_whole(path, films.SECONDS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with pytest.raises(media.MediaError, match="truncated.*a."):
        media.check_whole(path, 0.6 * films.SECONDS)


def test_a_recording_is_as_long_as_what_is_decoded(tmp_path, film, monkeypatch):
    """Raw AAC's duration is an estimate; the sound beside begins with the first picture, wherever
    that clock stands."""
    late = films.again(film, tmp_path / "a.ts", "mpegts", lambda s, t: t + 100 if s.type == "video"
                       else None)
    sound = films.write(tmp_path / "a.aac", "adts", None, "aac", rate=16000)
    seen, _ = flash(late)
    source = recordings.Source("a", "a", late, sound, None)

    monkeypatch.setattr(faces, "_is_cut", lambda before, after: False)  # the flash
    samples = recordings.read(source, size=32, detect=lambda grey: [(16.0, 16.0, 32.0, 32.0)]).audio
    assert len(samples) == films.SECONDS * films.FPS * recordings.SAMPLES
    at = np.argmax(np.abs(samples) > 9000) / recordings.RATE
    assert at == pytest.approx(seen - media.video_times(late)[0], abs=HALF)
