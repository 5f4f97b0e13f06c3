"""Pictures as a player and a viewer show them: orientation, pixel shape, transparency, depth."""

import fractions
import io

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.features.common import portraits
from data_pipelines.ingest.common import recordings
from data_pipelines.media import still, video
from tests.data_pipelines import films

# A picture whose quarters differ: any turn and any mirror shows.
SHOWN = np.zeros((64, 96, 3), np.uint8)
SHOWN[:32, :48], SHOWN[:32, 48:], SHOWN[32:, :48], SHOWN[32:, 48:] = (200, 30,
                                                                      30), (30, 200, 30), (30, 30,
                                                                                           200), (
                                                                                               140,
                                                                                               140,
                                                                                               140)
# EXIF's orientations: how the stored picture is made of the shown one, and the display matrix (a,
# b, c, d) that undoes it.
STORED = {1: (lambda x: x, (1, 0, 0, 1)), 2: (lambda x: x[:, ::-1], (-1, 0, 0, 1)),
          3: (lambda x: x[::-1, ::-1], (-1, 0, 0, -1)), 4: (lambda x: x[::-1], (1, 0, 0, -1)),
          5: (lambda x: x.transpose(1, 0, 2), (0, 1, 1, 0)),
          6: (lambda x: np.rot90(x), (0, 1, -1, 0)),
          7: (lambda x: x[::-1, ::-1].transpose(1, 0, 2), (0, -1, -1, 0)),
          8: (lambda x: np.rot90(x, -1), (0, -1, 1, 0))}


_OPTIONS = {"libx264": {"crf": "5"}, **dict.fromkeys(("libvpx", "libvpx-vp9"), {
    "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "crf": "5", "b": "4000000"})}


def film(path, image, codec="libx264", pixels="yuv444p", **attributes):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt, stream.options = pixels, _OPTIONS.get(codec, {})
        if pixels == "yuva420p":
            stream.metadata["alpha_mode"] = "1"
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image),
                                               format="rgba" if image.shape[2] == 4 else "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def first(path):
    return next(media.iterate_video(path))[2]


def close(found, wanted, within=8.0):
    assert found.shape == wanted.shape
    assert np.abs(found.astype(float) - wanted).mean() < within


@pytest.mark.parametrize("orientation", STORED)
def test_display_matrices(tmp_path, orientation):
    stored, (a, b, c, d) = STORED[orientation]
    path = film(tmp_path / "a.mp4", stored(SHOWN))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in matrix)
    path.write_bytes(data)
    close(first(path), SHOWN)
    assert next(media.iterate_video(path, max_side=48))[2].shape == (32, 48, 3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_pixels_are_square(tmp_path, suffix):
    squeezed = np.ascontiguousarray(SHOWN[:, ::2])  # 48 x 64, each twice as wide as high
    path = film(tmp_path / f"a.{suffix}", squeezed, "libx264" if suffix != "avi" else "mpeg4",
                "yuv420p", sample_aspect_ratio=2)
    close(first(path), SHOWN, 12)
    flat = film(tmp_path / "b.mp4", np.ascontiguousarray(SHOWN[::2]),
                sample_aspect_ratio=fractions.Fraction(1, 2))
    close(first(flat), SHOWN, 12)
    assert next(media.iterate_video(flat, max_side=48))[2].shape == (32, 48, 3)


HIDDEN = np.dstack([SHOWN, np.full(SHOWN.shape[:2], 255, np.uint8)])
HIDDEN[16:48, 16:40, 3], HIDDEN[:8, :8, 3] = 0, 128
SEEN = SHOWN.copy()
SEEN[16:48, 16:40], SEEN[:8, :8] = 255, (SHOWN[:8, :8].astype(int) * 128 + 255 * 127 + 127) // 255


@pytest.mark.parametrize("codec, pixels, suffix", [
    ("qtrle", "argb", "mov"), ("png", "rgba", "mov"), ("prores_ks", "yuva444p10le", "mov"),
    ("libvpx", "yuva420p", "webm"), ("libvpx-vp9", "yuva420p", "webm")])
def test_transparency_of_videos(tmp_path, codec, pixels, suffix):
    path = film(tmp_path / f"a.{suffix}", HIDDEN, codec, pixels)
    close(first(path), SEEN, 10 if suffix == "webm" else 3)
    assert (next(media.iterate_video(path, max_side=24))[2][8:10, 6:8] > 250).all()


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_of_portraits(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation][0](SHOWN))
    (tmp_path / "a").write_bytes(saved(Image.fromarray(stored), kind, exif=exif))
    close(portraits.read(tmp_path / "a"), SHOWN)
    exif[0x0112] = orientation
    half = Image.fromarray(np.ascontiguousarray(stored[:, ::2]))
    # and pixels twice as wide as high
    close(still.read(saved(half, "JPEG", exif=exif, dpi=(72, 144))), SHOWN, 12)


GREY = np.repeat(SHOWN[..., :1], 3, 2)
CASES = {
    "alpha": (saved(Image.fromarray(HIDDEN), "PNG"), SEEN),
    "alpha, webp": (saved(Image.fromarray(HIDDEN), "WEBP", lossless=True), SEEN),
    "palette with alpha": (saved(Image.fromarray(HIDDEN).quantize(32), "PNG"), SEEN),
    "one colour transparent": (saved(Image.fromarray(SHOWN), "PNG", transparency=(200, 30, 30)),
                               np.where((SHOWN == (200, 30, 30)).all(-1, keepdims=True), 255,
                                        SHOWN)),
    "palette": (saved(Image.fromarray(SHOWN).quantize(8), "PNG"), SHOWN),
    "grey": (saved(Image.fromarray(SHOWN[..., 0]), "PNG"), GREY),
    "grey with alpha": (saved(Image.fromarray(np.ascontiguousarray(HIDDEN[..., [0, 3]]), "LA"),
                              "PNG"),
                        np.repeat(SEEN[..., :1], 3, 2)),
    "grey, 16 bits": (cv2.imencode(".png", SHOWN[..., 0].astype(np.uint16) * 257)[1].tobytes(),
                      GREY),
    "16 bits": (cv2.imencode(".png", SHOWN[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), SHOWN),
    "floats": (saved(Image.fromarray(SHOWN[..., 0].astype(np.float32) / 255), "TIFF"), GREY),
    "CMYK": (saved(Image.fromarray(SHOWN).convert("CMYK"), "JPEG", quality=95), SHOWN),
}


@pytest.mark.parametrize("case", CASES)
def test_portraits_of_any_kind(case):
    data, wanted = CASES[case]
    close(still.read(data), wanted, 2)


def test_damaged_portraits_are_one_line(tmp_path):
    whole = saved(Image.fromarray(SHOWN), "PNG")
    for data in (b"", b"hello", whole[:10], whole[: len(whole) // 2]):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(UserError, match="unreadable portrait.*a.png"):
            portraits.read(tmp_path / "a.png")


def test_a_codec_that_nobody_decodes_is_refused(tmp_path):
    path = films.write(tmp_path / "a.mp4", "mp4", "libx264", "ac3")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"avc1", b"zzzz"))
    source = recordings.Source("a", "a", path, None, None)
    for call in (video.video_times, first, lambda p: recordings.read(source, size=32)):
        with pytest.raises(media.MediaError, match="unreadable.*a.mp4.*video codec") as error:
            call(path)
        assert error.value.reason == "unreadable"
    assert media.probe(path).video is None
    assert len(recordings.read(source, size=32, audio_only=True).audio) > 0  # its sound is good
    path.write_bytes(whole.replace(b"ac-3", b"zzzz"))
    with pytest.raises(media.MediaError, match="unreadable.*a.mp4.*audio codec"):
        media.read_audio(path)
    assert len(media.video_times(path)) == films.SECONDS * films.FPS
