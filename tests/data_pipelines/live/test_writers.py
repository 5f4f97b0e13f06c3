"""Sound and pictures written while they are made: what is there plays, at any time."""

import io
import wave

import av
import numpy as np
import pytest

from data_pipelines.live import writers

RATE, FPS = 22050, 30


class Watched(io.BytesIO):
    """A file that cannot seek and remembers how long it was after each write."""

    def __init__(self):
        super().__init__()
        self.lengths = []

    def seekable(self):
        return False

    def write(self, data):
        super().write(data)
        self.lengths.append(self.tell())


def film(seconds: float, flash: float, file):
    """Black, with a white picture and a click at `flash`; a tenth of a second at a time."""
    sound_N = np.zeros(round(seconds * RATE), np.float32)
    sound_N[round(flash * RATE):][:400] = 0.8 * np.sin(np.arange(400))
    writer = writers.FragmentedMp4Writer(file, FPS, RATE)
    for first in range(0, round(seconds * FPS), 3):
        pictures = [np.full((33, 48, 3), 255 * (k == round(flash * FPS)), np.uint8)
                    for k in range(first, first + 3)]
        writer.add(sound_N[first * RATE // FPS:(first + 3) * RATE // FPS], pictures)
    return writer


def shown(data: bytes):
    """(pictures, their brightness; first sample's time, samples)"""
    with av.open(io.BytesIO(data)) as container:
        grey = [x.to_ndarray(format="gray").mean() for x in container.decode(video=0)]
    with av.open(io.BytesIO(data)) as container:
        heard = [(float(x.pts * x.time_base), x.to_ndarray()[0])
                 for x in container.decode(audio=0)]
    return grey, heard[0][0], np.concatenate([x for _, x in heard])


def test_a_film_plays_as_far_as_it_was_written():
    file = Watched()
    writer = film(3.0, 1.5, file)
    cuts = file.lengths[:]
    assert len(cuts) >= 8, "a fragment a quarter of a second"
    pictures = []
    for cut in cuts:
        grey, begin, sound_N = shown(file.getvalue()[:cut])
        pictures.append(len(grey))
        assert begin == 0 and abs(len(grey) / FPS - len(sound_N) / RATE) < 0.12
    assert pictures == sorted(pictures) and pictures[-1] / FPS > 3.0 - 2 * writers.FRAGMENT
    writer.finish()
    grey, _, sound_N = shown(file.getvalue())
    assert len(grey) == 90 and abs(len(sound_N) / RATE - 3.0) < 1024 / RATE
    assert np.argmax(grey) == 45
    assert abs(np.flatnonzero(np.abs(sound_N) > 0.2)[0] / RATE - 1.5) < 0.001, "no encoder's delay"


def test_sound_waits_for_the_first_picture_and_does_without():
    file = Watched()
    writer = writers.FragmentedMp4Writer(file, FPS, RATE)
    writer.add(np.zeros(RATE, np.float32), ())
    assert not file.getvalue()
    writer.finish()
    with av.open(io.BytesIO(file.getvalue())) as container:
        assert not container.streams.video
        assert sum(x.samples for x in container.decode(audio=0)) >= RATE
    file = Watched()
    writer = writers.FragmentedMp4Writer(file, FPS, RATE, alone=False)
    writer.add(np.zeros(RATE, np.float32), ())
    writer.finish()
    assert not file.getvalue()


@pytest.mark.parametrize("kind, type_", [("s16le", "<i2"), ("f32le", "<f4")])
def test_pcm_is_the_samples_alone(kind, type_):
    file, sound_N = io.BytesIO(), np.array([0, 0.5, -1, 1.2], np.float32)
    writer = writers.writer(file, kind, RATE)
    writer.add(sound_N[:1], ())
    writer.add(sound_N[1:], [np.zeros((2, 2, 3), np.uint8)])
    writer.finish()
    found = np.frombuffer(file.getvalue(), type_)
    expected = sound_N if kind == "f32le" else [0, 16384, -32767, 32767]
    np.testing.assert_array_equal(found, expected)


def test_a_wav_says_its_length_where_the_file_lets_it(tmp_path):
    for file in (open(tmp_path / "a.wav", "w+b"), Watched()):
        with file:
            writer = writers.writer(file, "wav", RATE)
            writer.add(np.zeros(1000, np.float32), ())
            writer.finish()
            if file.seekable():
                file.seek(0)
                with wave.open(file, "rb") as whole:
                    assert whole.getnframes() == 1000 and whole.getframerate() == RATE
            else:
                assert file.getvalue()[40:44] == b"\xff\xff\xff\xff"
                assert len(file.getvalue()) == 44 + 2000
