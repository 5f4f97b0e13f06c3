"""TalkVid in miniature: its list, clips as its script downloads them, and whole videos."""

import json
import shutil

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.ingest.common import corpus
from data_pipelines.ingest.talkvid import listing
from data_pipelines.ingest.talkvid import prepare as talkvid
from data_pipelines.media import faces
from tests.data_pipelines.ingest import small_films
from tests.data_pipelines.ingest.reading import made

SIZE = 16
WHOLE, CUT, OTHER = "Tr6MMsoWAog", "abcdefghijk", "OOOOOOOOOOO"


def entry(id, video, begin, end, person="7", *, fps=24.0, language="English", **changes):
    """An entry as the owners' are: times a tenth of a second behind the frames."""
    one = {"id": id, "height": 1080, "width": 1920, "fps": fps, "start-time": begin,
           "start-frame": round((begin - 0.1) * fps), "end-time": end,
           "end-frame": round((end - 0.1) * fps), "durations": f"{end - begin:.3f}s",
           "info": {"Person ID": person, "Gender": "Male", "Language": language,
                    "Video Link": f"https://www.youtube.com/watch?v={video}"},
           "description": "A man speaks.", "dover_scores": 8.9, "cotracker_ratio": 0.93,
           "head_detail": {"scores": {"min_movement": 89.4, "avg_movement": 97.9}}}
    return one | changes


ENTRIES = [
    entry("v1-scene1", WHOLE, 1.1, 4.1),
    entry("v1-scene2", WHOLE, 5.1, 8.1, **{"start-frame": 999, "end-frame": 1071}),
    entry("v1-scene3", WHOLE, 9.1, 10.0, **{"start-frame": 192, "end-frame": 264,
                                            "durations": "3.000s"}),
    entry("v1-scene4", WHOLE, 1.1, 4.1, **{"start-frame": 0, "end-frame": 24,
                                           "durations": "9.000s"}),
    entry("v1-scene5", WHOLE, 20.1, 24.1),
    entry("v1-scene1", WHOLE, 1.1, 4.1),
    entry("v2-scene1", CUT, 10.5, 12.7, "8"),
    entry("v2-scene2", CUT, 5.1416666, 7.3416666, "8"),
    entry("v2-scene3", CUT, 30.1, 32.3, "8"),
    entry("v3-scene1", OTHER, 0.1, 2.3, "9"),
    entry("v3-scene2", OTHER, 0.1, 2.3, "9", language="Polish"),
    entry("v3-scene3", OTHER, 0.1, 2.3, "9", dover_scores=float("nan")),
    entry("", OTHER, 0.1, 2.3, "9")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("talkvid")
    (root / "data").mkdir()
    (root / "data" / "filtered_video_clips.json").write_text(json.dumps(ENTRIES))
    small_films.film(root / "videos" / f"somebody [{WHOLE}].mp4", 12, fps=10, width=96)
    clip = small_films.film(root / CUT / f"{CUT}_002_10.500_12.700.mp4", 2.2, width=96)
    # yt-dlp cuts the digits of times off, the list rounds them
    mute = small_films.film(root / CUT / f"{CUT}_001_5.141_7.341.mp4", 2.2, width=96, mute=True)
    shutil.copy(clip, mute.with_suffix(".m4a"))
    shutil.copy(clip, root / f"{OTHER}.mp4")
    shutil.copy(clip, root / "v3-scene1.mp4")
    return root


# pictures of one colour
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in divide")


@pytest.fixture(autouse=True)
def a_face(monkeypatch):
    monkeypatch.setattr(faces, "detector", lambda: lambda grey: [(30.0, 10.0, 40.0, 40.0)])


def test_what_is_read_mended_and_left_out(source, tmp_path):
    clips, refused, told = made("talkvid", source, tmp_path / "out", size=SIZE, rate=10.0,
                                language="english", min_dover=7.0, min_movement=50.0,
                                max_bad=0.6)
    assert refused == {"v1-scene4": "times, frames and duration disagree",
                       "v1-scene5": "wrong duration", "v1-scene1": "duplicate id",
                       "": "no id"}
    assert {id: clip["mended"] for id, clip in clips.items()} == {
        "v1-scene1": [], "v1-scene2": ["frames that disagree with the times"],
        "v1-scene3": ["times that disagree with frames and duration"], "v2-scene1": [],
        "v2-scene2": ["no sound in the video: that of the file beside it"], "v3-scene1": []}
    # 1.1 s on: the tone of the second second
    assert small_films.seconds_heard(clips["v1-scene1"]["audio"])[:3] == [1, 1, 2]
    assert small_films.seconds_heard(clips["v1-scene3"]["audio"]) == [8, 8, 9, 9, 10, 10]
    assert small_films.pictures_at(clips["v1-scene3"]["pictures"])[:3] == [30, 31, 32]
    assert clips["v1-scene1"]["pictures"].shape == (30, SIZE, SIZE, 3)
    assert clips["v1-scene1"]["pose"].shape == (30, 7)
    assert json.loads(clips["v1-scene1"]["about"]) == {"Person ID": "7", "Gender": "Male",
                                                      "Language": "English"}
    counts = ("left out, not in english", "left out by --min_dover",
              "clips whose video is not here")
    assert [told[what] for what in counts] == [1, 1, 1]
    people = {clip["speaker"]: clip["split"] for clip in clips.values()}
    assert set(people) == {"person-7", "person-8", "person-9"}
    assert sorted(people.values()) == ["train", "train", "valid"]


def test_the_benchmark_and_its_people_are_held_out(source, tmp_path):
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps([ENTRIES[0]]))
    found = talkvid.corpus(source, bench=str(bench), valid_share=0.0)
    assert [item["id"] for item in found.items["test"]] == ["v1-scene1", "v1-scene1"]
    assert {item["speaker"] for item in found.items["train"]} == {"person-8", "person-9"}
    assert found.told["left out, of people of --bench"] == 4
    bench.write_text(json.dumps([{"id": "elsewhere"}]))
    with pytest.raises(UserError, match="none in test"):
        corpus.listed(talkvid.corpus, source, {"bench": str(bench)})


def test_lists_are_read_piece_by_piece(source, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_PIECE", 100)
    path = source / "data" / "filtered_video_clips.json"
    assert [one["id"] for one in listing.objects(path)] == [one["id"] for one in ENTRIES]
    cut = tmp_path / "cut.json"
    cut.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match="unreadable list"):
        list(listing.objects(cut))
    for text, found in (('{"id": 1}', "JSON list"), ("[" * 100_000, "lists in lists")):
        cut.write_text(text)
        with pytest.raises(UserError, match=f"unreadable list.*{found}"):
            list(listing.objects(cut))


def test_which_list_has_to_be_said(source, tmp_path):
    for name in ("filtered_video_clips.json", "filtered_video_clips_with_captions.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match="several lists.*--clip_list"):
        talkvid.corpus(tmp_path)
    (tmp_path / "filtered_video_clips.json").write_text(json.dumps(ENTRIES))
    with pytest.raises(UserError, match="none of the listed videos is here"):
        talkvid.corpus(tmp_path, clip_list="filtered_video_clips.json")


@pytest.mark.parametrize("link, video", [
    ("https://www.youtube.com/watch?v=Tr6MMsoWAog&t=6s", WHOLE), ("https://youtu.be/Tr6MMsoWAog?x",
                                                                  WHOLE),
    ("https://www.youtube.com/shorts/Tr6MMsoWAog", WHOLE), ("", "")])
def test_links(link, video):
    assert listing.youtube({"info": {"Video Link": link}}) == video


def test_person_0_is_somebody():
    assert talkvid._speaker({"info": {"Person ID": 0}}) == "person-0"


def test_times_that_are_no_numbers():
    assert listing.times({"start-time": float("nan"), "end-time": 3})[3] == "no times"
    begin, end, mended, defect = listing.times({"fps": 25, "start-frame": 25, "end-frame": 100})
    assert (begin, end, defect) == (1.0, 4.0, "") and mended
    assert listing.times({"start-time": 3, "end-time": 2})[3] == "no times"
    assert np.isnan(listing.named_times({})).all()
