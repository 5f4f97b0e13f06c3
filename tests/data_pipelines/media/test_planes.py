"""Squares cut out of decoded planes, against the same squares of whole RGB pictures."""

import gc
import io
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from data_pipelines.media import planes, video
from data_pipelines.media.tar_tree import Member

UPRIGHT = (False, False, False)


def picture(width: int = 320, height: int = 400) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 25), np.cos(y / 30), np.sin((x + y) / 40)], -1)
    return (127 + 90 * waves).astype(np.uint8)


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "yuv444p"])
@pytest.mark.parametrize("square", [
    ((150.0, 210.0), 230.0, 0.3), ((160.0, 190.0), 90.0, -0.2), ((20.0, 30.0), 150.0, 0.0),
    ((310.4, 395.1), 40.0, 1.0)])
def test_a_square_is_that_of_the_rgb_picture(form, square):
    middle, side, roll = square
    image = picture()
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=form)
    cos, sin, size = np.cos(roll), np.sin(roll), 48
    turn = side / size * np.array([[cos, -sin], [sin, cos]])
    matrix = np.concatenate([turn, (middle - turn @ np.full(2, (size - 1) / 2))[:, None]], 1)
    expected = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE,
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    squares = planes.Squares([middle], [side], [roll], size, (320, 400))
    found = squares(0, frame, UPRIGHT)
    assert np.abs(found.astype(int) - expected).mean() < 2.5


def film(path, frames: int, fps: Fraction) -> None:
    """Every frame is as grey as its number."""
    with av.open(path, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "5"})
        stream.width = stream.height = 32
        stream.pix_fmt, stream.time_base = "yuv420p", 1 / fps
        for k in range(frames):
            image = np.full((32, 32, 3), 40 + k, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, 1 / fps
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def test_frames_at_a_rate_are_the_nearest_in_time(tmp_path):
    fps = Fraction(45000, 1501)
    film(str(tmp_path / "a.mp4"), 90, fps)
    found = planes.Film(tmp_path / "a.mp4")
    assert (found.declared.frames, round(found.declared.rate, 3)) == (90, 29.98)
    squares = planes.Squares([(16.0, 16.0)], [16.0], [0.0], 8, (32, 32))
    shades = [squares(0, *frame).mean() - 40 for frame in found.frames_at(25.0, 80)]
    nearest = np.minimum(np.arange(80) / 25 * float(fps), 89).round()
    assert np.abs(np.array(shades) - nearest).max() < 1.5


def test_a_member_of_a_tar_is_a_file(tmp_path):
    content = io.BytesIO()
    film(content, 30, Fraction(30))
    data = content.getvalue()
    path = tmp_path / "odd, name: x.bin"
    path.write_bytes(b"before" * 99 + data + b"after")
    member = Member(path, 6 * 99, len(data), "a.mp4")
    assert member.read() == data and str(member) == f"{path}: a.mp4"
    with member.open() as file:
        file.seek(-4, io.SEEK_END)
        assert file.read() == data[-4:]
        file.seek(4)
        assert file.read(4) == b"ftyp"
    assert len(video.video_times(member)) == 30


def test_frames_are_let_go_as_they_are_used(tmp_path):
    """PyAV's side data makes a cycle of every frame that is asked for it."""
    film(str(tmp_path / "a.mp4"), 90, Fraction(30))
    gc.collect()
    gc.disable()
    try:
        for _ in video.iterate_video(tmp_path / "a.mp4"):
            pass
        assert sum(isinstance(x, av.VideoFrame) for x in gc.get_objects()) < 10
    finally:
        gc.enable()
