"""ViCo as its owners lay it out: films of the puppets' kind, a square for a face."""

import shutil
import zipfile

import cv2
import numpy as np
import pytest
import scipy.io
import soundfile

from avjax.errors import UserError
from data_pipelines import extract, media
from data_pipelines import prepare as preparing
from data_pipelines.media import faces, write_media
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest.reading import made

FPS, RATE, SECONDS = 25, 16000, 2.2
HEADER = "audio,uuid,listener,speaker,speaker_id,listener_id,attitude,data_split"


def detect(grey):
    """A bright square of 20 pixels or more is a face."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(
        (cv2.GaussianBlur(grey, (0, 0), 2) > 90).astype(np.uint8))
    return [tuple(map(float, stats[i, :4])) for i in range(1, count) if min(stats[i, 2:4]) >= 20]


@pytest.fixture(autouse=True, scope="module")
def squares():
    patch = pytest.MonkeyPatch()
    patch.setattr(faces, "detector", lambda: detect)
    yield
    patch.undo()


def voice(seconds=SECONDS):
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * time) * np.abs(np.sin(7 * time))).astype(np.float32)


def film(path, face: bool = True, seconds=SECONDS, sound=None, at=40):
    texture = np.random.default_rng(0).uniform(130, 255, (12, 12, 3))
    head = cv2.resize(texture, (50, 50), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    pictures = np.zeros((round(seconds * FPS), 100, 140, 3), np.uint8)
    pictures[:, 25:75, at:at + 50] = head if face else 0
    write_media.write_mp4(path, pictures, FPS, sound if sound is not None else 0 * voice(seconds),
                          RATE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("vico")
    (root / "videos").mkdir()
    (root / "audios").mkdir()
    film(root / "videos/u1.listener.mp4")
    film(root / "videos/u1.speaker.mp4", sound=voice(), at=60)
    soundfile.write(root / "audios/u1.wav", voice(), RATE)
    shutil.copy(root / "videos/u1.listener.mp4", root / "videos/lis_2.mp4")  # by the csv's names
    shutil.copy(root / "videos/u1.speaker.mp4", root / "videos/spk_2.mp4")  # and no wav
    film(root / "videos/u3.listener.mp4", face=False)
    (root / "videos/u4.listener.mp4").write_bytes(
        (root / "videos/u1.listener.mp4").read_bytes()[:2000])
    for name in ("u3", "u4"):
        shutil.copy(root / "videos/u1.speaker.mp4", root / f"videos/{name}.speaker.mp4")
        shutil.copy(root / "audios/u1.wav", root / f"audios/{name}.wav")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:  # read where it is
        for kind in ("listener", "speaker"):
            archive.write(root / f"videos/u1.{kind}.mp4", f"u6.{kind}.mp4")
    rows = ["a1,u1,x,y,7,8,neutral,train", "a2,,lis_2,spk_2,7,9,positive,train",
            "a3,u3,x,y,7,8,neutral,train", "a4,u4,x,y,7,8,neutral,test",
            "a5,u5,x,y,7,8,neutral,train", "a6,u6,x,y,1,2,negative,test",
            "a6,u6,x,y,1,2,negative,train"]
    (root / "RLD_data.csv").write_text("\n".join([HEADER, *rows]))
    return root


def test_rows_become_listeners_with_their_speakers(tree, tmp_path):
    clips, refused, told = made("vico", tree, tmp_path / "out", size=32, max_bad=0.6)
    assert refused == {"u3": "no face", "u4": "truncated", "u5": "a file is missing",
                       "u6, row 2 of this name": "listed twice"}
    assert {n: c["split"] for n, c in clips.items()} == {
        "u1": "train", "lis_2": "train", "u6": "test"}
    for clip in clips.values():
        frames = len(clip["pictures"])
        assert frames in (65, 66) and clip["pictures"].shape == (frames, 32, 32, 3)
        assert len(clip["partner_pictures"]) == len(clip["pose"]) == frames
        assert len(clip["partner_audio"]) == 735 * frames and clip["partner_audio"].any()
        assert "audio" not in clip
    assert clips["u1"]["speaker"] == "8" and clips["u1"]["partner_speaker"] == "7"
    assert clips["u1"]["portrait"].mean() > 60
    shown = extract.extract(tmp_path / "out", tmp_path / "pictures", features="pictures", size=32,
                            rate=5.0, progress=False).source("train")[0]["pictures"]
    assert shown.shape == (11, 32, 32, 3) and shown.mean() > 60


def coefficients(path, rows):
    table = np.arange(rows)[:, None] + 1000.0 * np.arange(257)
    scipy.io.savemat(path, {"coeff": table.astype(np.float32)})


def test_coefficients_go_along_at_the_clips_rate(tree, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for kind in ("listener", "speaker"):
        for name in ("u1", "u2"):
            shutil.copy(tree / f"videos/u1.{kind}.mp4", source / f"{name}.{kind}.mp4")
        pictures = len(media.video_times(source / f"u1.{kind}.mp4"))
        coefficients(source / f"u1.{kind}.mat", pictures)
    coefficients(source / "u2.listener.mat", 3)
    (source / "train.csv").write_text("video_id,uuid,speaker_id,listener_id\nv,u1,7,8\nv,u2,7,8\n")
    clips, refused, _ = made("vico", source, tmp_path / "out", size=32)
    assert refused == {"u2": "lengths differ"} and clips["u1"]["split"] == "train"
    clip = clips["u1"]
    times = np.arange(len(clip["face"])) / 30 * FPS  # in pictures of the film
    np.testing.assert_allclose(clip["face"][:, 2], np.minimum(times, pictures - 1) + 82000,
                               atol=0.05)
    np.testing.assert_allclose(clip["partner_angles"][0], [224000, 225000, 226000])
    assert store.open_dataset(tmp_path / "out").features["translation"].shape == (None, 3)


@pytest.mark.parametrize(("table", "message"), [
    ("name,split\nu1,train\n", "columns missing.*RLD_data.csv"),
    (f"{HEADER}\na,u1,x,y,1,2,neutral,\n", "unknown split.*line 2"),
    (f"{HEADER}\n{'a' * 200_000},u1,x,y,1,2,neutral,train\n", "unreadable table"),
    ("\xff\xfe\x00", "RLD_data.csv"), ("", "columns missing")])
def test_tables_that_are_refused(tmp_path, table, message):
    (tmp_path / "RLD_data.csv").write_bytes(table.encode("latin1"))
    with pytest.raises(UserError, match=message):
        preparing.prepare("vico", source=str(tmp_path), out=str(tmp_path / "out"), progress=False)
