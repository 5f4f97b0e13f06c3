"""HDTF in miniature: the owners' lists with the defects that they have, and clips already cut."""

import shutil

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.ingest.common import passage
from data_pipelines.ingest.hdtf import prepare as hdtf
from data_pipelines.media import faces, landmarks
from data_pipelines.media.facial import shape
from tests.data_pipelines.ingest import small_films
from tests.data_pipelines.ingest.reading import made

# pictures of one colour
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
SIZE = 16
LISTS = {
    # a byte-order mark, as WDA's has
    "WDA_video_url": "\ufeffCarol2 https://www.youtube.com/watch?v=AAAAAAAAAAA\n"
                     "Carol1 https://www.youtube.com/watch?v=BBBBBBBBBBB&t=6s\n"
                     "Nina https://www.youtube.com/watch?v=CCCCCCCCCCC\n"
                     "Untimed https://www.youtube.com/watch?v=DDDDDDDDDDD\n"
                     "Gone https://www.youtube.com/watch?v=EEEEEEEEEEE\n",
    "WDA_annotion_time": "Carol2.mp4 00:01-00:04 00:05-00:10 00:03-00:06 \nCarol1.mp4 00:02-00:05 "
                         "00:06-00:05\nNina.mp4 00:00-00:03 00:03-00:06 00:20-00:23\n"
                         "Gone.mp4 00:01-00:09\n",
    "WDA_resolution": "Carol2.mp4 720\nCarol2.mp4 144\nCarol1.mp4 0\nNina.mp4 72\nGone.mp4 720\n",
    "WDA_crop_wh": "Carol2_0.mp4 96 144 0 144\nCarol2_1.mp4 96 144 0 144\nCarol2_2.mp4 9 9 0 9\n"
                   "Carol1_0.mp4 9 9 0 9\nCarol1_1.mp4 9 9 0 9\nNina_0.mp4 60 80 0 80\n"
                   "Nina_2.mp4 40 64 4 64\n",
    "RD_video_url": "Radio1 https://www.youtube.com/watch?v=FFFFFFFFFFF\n",
    "RD_annotion_time": "Radio1.mp4 00:02-00:05\n", "RD_resolution": "Radio1.mp4 72\n",
    "RD_crop_wh": "Radio1_0.mp4 100 64 0 64\n"}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 s of 128 x 72, the left 48 columns black."""
    return small_films.film(tmp_path_factory.mktemp("film") / "film.mp4", 12, fps=10, width=128,
                            height=72, left=48)


@pytest.fixture(scope="module")
def source(tmp_path_factory, film):
    root = tmp_path_factory.mktemp("hdtf")
    (root / "HDTF_dataset").mkdir()
    for name, text in LISTS.items():
        (root / "HDTF_dataset" / f"{name}.txt").write_text(text, encoding="utf-8")
    (root / "videos").mkdir()
    for name in ("Carol2", "WDA_Carol1", "somebody speaks [CCCCCCCCCCC]", "FFFFFFFFFFF",
                 "holiday"):
        shutil.copy(film, root / "videos" / f"{name}.mp4")
    return root


def test_clips_of_the_lists(source, tmp_path):
    clips, refused, told = made("hdtf", source, tmp_path / "out", size=SIZE, rate=10.0,
                                max_seconds=3.0, valid_share=0.0, max_bad=0.9)
    assert refused == {
        "Carol2_2": "overlaps the clip before it", "Carol1_0": "unknown resolution",
        "Carol1_1": "bad times", "Nina_0": "window larger than its resolution",
        "Nina_1": "no window", "Nina_2": "wrong duration",
        "Radio1_0": "window outside the picture"}
    assert {id: (len(clip["pictures"]), clip["mended"]) for id, clip in clips.items()} == {
        id: (n, ["window of 144 lines scaled to 72"]) for id, n in (
            ("Carol2_0", 30), ("Carol2_1-000", 25), ("Carol2_1-001", 25))}
    assert small_films.pictures_at(clips["Carol2_0"]["pictures"])[:3] == [10, 11, 12]
    assert small_films.pictures_at(clips["Carol2_1-001"]["pictures"])[:3] == [25, 26, 27]
    assert small_films.seconds_heard(clips["Carol2_0"]["audio"]) == [1, 1, 2, 2, 3, 3]
    assert {clip["speaker"] for clip in clips.values()} == {"Carol"}
    counts = ("videos without times in the lists", "clips whose video is not here",
              "lists of WRA missing", "video files that are no clips of HDTF",
              "lines of the lists that repeat a name, the last taken")
    assert [told[what] for what in counts] == [1, 1, 1, 1, 1]


def test_a_face_needs_no_window(source, tmp_path, monkeypatch):
    """What the lists have no right window for is used all the same, with a pose."""
    monkeypatch.setattr(faces, "detector", lambda: lambda grey: [(60.0, 10.0, 40.0, 40.0)])
    clips, refused, _ = made("hdtf", source, tmp_path / "out", size=SIZE, rate=10.0,
                             show="face", valid_share=0.5, max_bad=0.9)
    assert set(clips) == {"Carol2_0", "Carol2_1", "Carol1_0", "Nina_0", "Nina_1", "Radio1_0"}
    assert clips["Nina_1"]["pose"].shape == (30, 7)
    assert set(refused) == {"Carol2_2", "Carol1_1", "Nina_2"}
    splits = {clip["speaker"]: clip["split"] for clip in clips.values()}
    assert splits["RD_Radio1"] == "train" and splits["Carol"] != splits["Nina"]


def test_points_of_a_face_that_is_followed(film, tmp_path, monkeypatch):
    """With them the rotation is full; without a face, or the packages, they are refused."""
    source = tmp_path / "clips"
    small_films.film(source / "Carol1_0.mp4", 2.2, fps=10)
    monkeypatch.setattr(faces, "detector", lambda: lambda grey: [(12.0, 12.0, 40.0, 40.0)])
    with pytest.raises(UserError, match="landmarks need a face.*--show=face"):
        hdtf.corpus(source, landmarks="dlib68")
    monkeypatch.setattr(landmarks, "lacking", lambda kind: "pip install them")
    with pytest.raises(UserError, match="a package is missing.*pip install them"):
        hdtf.corpus(source, show="face", landmarks="dlib68")
    points_K2, rigid = np.zeros((68, 2)), shape.rigid(68)
    points_K2[rigid.points] = rigid.xyz[:, :2]
    monkeypatch.setattr(passage, "_finder", lambda kind: lambda image, x, y, width, roll: (
        (x, y) + width / 2 * points_K2, 1.0))
    monkeypatch.setattr(landmarks, "finder", lambda kind: None)
    clips, _, _ = made("hdtf", source, tmp_path / "out", size=SIZE, rate=10.0, show="face",
                       landmarks="dlib68")
    [clip] = clips.values()
    assert clip["landmarks"].shape == (22, 68, 2) and clip["pose"].shape == (22, 7)
    # the eyes are beside the crop's middle; the head looks into the camera
    np.testing.assert_allclose(clip["landmarks"][5, [36, 45]],
                               [(0.33, 0.45), (0.67, 0.45)], atol=0.07)
    assert np.abs(clip["pose"][:, 1:4]).max() < 0.15


def test_clips_already_cut(film, tmp_path, monkeypatch):
    source = tmp_path / "clips"
    square = small_films.film(source / "WDA_Carol1_000.mp4", 2.2)
    for name in ("Carol2_0", "Radio11_1", "hdtf_WRA_Nina_001"):
        shutil.copy(square, source / f"{name}.mp4")
    shutil.copy(square, source / "WDA_Carol2_000.mp4")
    shutil.copy(square, bytes(source / "Jos") + b"\xe9_0.mp4")  # a name of an older system
    (source / "again").symlink_to(source)
    shutil.copy(film, source / "Wide_0.mp4")
    shutil.copy(square, source / "readme.mp4")
    clips, refused, told = made("hdtf", source, tmp_path / "out", size=SIZE)
    assert {id: clip["speaker"] for id, clip in clips.items()} == {
        "Carol1_0": "Carol", "Carol2_0": "Carol", "Radio11_1": "RD_Radio11", "Nina_1": "Nina",
        "Jos\\xe9_0": "Jos\\xe9"}
    assert refused == {"Wide_0": "not a square picture", "Carol2_0": "duplicate clip"}
    assert told["video files that are no clips of HDTF"] == 1


def test_lists_that_are_not_whole(source, tmp_path):
    lists = tmp_path / "HDTF_dataset"
    shutil.copytree(source / "HDTF_dataset", lists)
    with pytest.raises(UserError, match="none of the listed videos is here"):
        hdtf.corpus(tmp_path)
    (lists / "WDA_resolution.txt").unlink()
    with pytest.raises(UserError, match="lists is missing.*WDA_resolution"):
        hdtf.corpus(tmp_path)


def test_a_passage_is_at_its_time_whatever_lies_before(film):
    """Skipping to a passage gives what decoding all of the file gives."""
    whole = passage.read(film, size=SIZE, rate=10, show=passage.MIDDLE)
    part = passage.read(film, size=SIZE, rate=10, show=passage.MIDDLE, begin=7.0, end=10.0)
    assert (part.pictures == whole.pictures[70:100]).all()
    apart = part.audio.astype(float) - whole.audio[7 * passage.RATE:10 * passage.RATE]
    # at most half a sample of a tone of 1200 Hz
    most = 0.4 * 32768 * 2 * np.pi * 1200 / passage.RATE / 2
    assert np.percentile(np.abs(apart), 99) <= most * 1.1
