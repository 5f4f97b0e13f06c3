"""VoxCeleb2 in miniature: in folders, in zip files and in pieces of them, with each defect."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.ingest.voxceleb2 import listing
from data_pipelines.ingest.voxceleb2 import prepare as voxceleb2
from tests.data_pipelines.ingest import small_films
from tests.data_pipelines.ingest.reading import clips_of, made

SIZE = 16
META = ("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"
        + "".join(f"id0000{k} ,n00000{k} ,{'mf'[k % 2]} ,{'dev' if k < 4 else 'test'} \n"
                  for k in range(1, 6)))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return small_films.film(tmp_path_factory.mktemp("film") / "good.mp4", 2.2)


@pytest.fixture(scope="module")
def source(tmp_path_factory, film):
    root = tmp_path_factory.mktemp("vox")
    (root / "vox2_meta.csv").write_text(META)

    def put(place, path=film):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / place)
        return root / place

    put("dev/mp4/id00003/one/00001.mp4")
    put("dev/mp4/id00003/one/00002.mp4")
    put("dev/mp4/id00003/two/00001.mp4")
    put("dev/mp4/id00002/a/00001.mp4")
    put("test/mp4/id00004/a/00001.mp4")
    put("dev/mp4/id00005/a/00001.mp4")  # of test
    put("dev/mp4/id00009/a/00001.mp4")  # in no table
    put("dev/mp4/id10001/a/00001.wav")  # of VoxCeleb1
    put("dev/aac/id00002/b/00001.m4a")
    cut = put("dev/mp4/id00001/a/00001.mp4")
    cut.write_bytes(cut.read_bytes()[:-500])
    put("dev/mp4/id00001/a/00002.mp4").write_bytes(b"")
    wide, mute, short = (small_films.film(root / name, seconds, width=width, mute=silent) for
                         name, seconds, width, silent in (("wide.mp4", 2.2, 96, False),
                                                          ("mute.mp4", 2.2, 64, True),
                                                          ("long.mp4", 4.0, 64, True)))
    put("dev/mp4/id00001/a/00003.mp4", wide)
    put("dev/mp4/id00001/a/00004.mp4", mute)
    put("dev/mp4/id00001/a/00005.mp4", mute)
    put("dev/aac/id00001/a/00005.m4a")
    put("dev/mp4/id00001/a/00006.mp4", short)
    put("dev/aac/id00001/a/00006.m4a")
    put("dev/mp4/id00001/a/00007.mp4", mute)
    (root / "dev/aac/id00001/a/00007.m4a").symlink_to("nowhere")
    return root


def test_what_is_read_mended_and_left_out(source, tmp_path):
    clips, refused, told = made("voxceleb2", source, tmp_path / "out", size=SIZE, max_bad=0.6)
    assert refused == {
        "id00005.a.00001": "in another set than vox2_meta.csv says",
        "id00009.a.00001": "not in vox2_meta.csv", "id00001.a.00001": "truncated",
        "id00001.a.00002": "unreadable", "id00001.a.00003": "not a square picture",
        "id00001.a.00004": "no audio", "id00001.a.00006": "wrong duration",
        "id00001.a.00007": "unreadable"}
    assert set(clips) == {"id00003.one.00001", "id00003.one.00002", "id00003.two.00001",
                          "id00002.a.00001", "id00004.a.00001", "id00001.a.00005"}
    assert told["sound without pictures"] == 2
    one = clips["id00003.two.00001"]
    assert one["pictures"].shape == (55, SIZE, SIZE, 3) and len(one["audio"]) == 55 * 882
    assert small_films.pictures_at(one["pictures"])[:50] == list(range(50))
    assert small_films.seconds_heard(one["audio"]) == [0, 0, 1, 1]
    assert any((one["portrait"] == picture).all() for picture in one["pictures"])
    assert json.loads(one["about"]) == {"gender": "f", "vggface2": "n000003", "video": "two"}
    assert clips["id00001.a.00005"]["mended"] == ["no sound in the video: that of the file beside "
                                                  "it"]
    splits = {id[:7]: clip["split"] for id, clip in clips.items()}
    assert splits["id00004"] == "test" and set(splits.values()) == {"train", "valid", "test"}


def test_archives_are_read_in_place(source, film, tmp_path):
    """Folders of dev as zip in two pieces, of test as a zip: the same clips."""
    zips = tmp_path / "zips"
    zips.mkdir()
    shutil.copy(source / "vox2_meta.csv", zips)
    for name in ("dev", "test"):
        with zipfile.ZipFile(zips / f"vox2_{name}_mp4.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((source / name / "mp4").rglob("0000[12].mp4")):
                archive.write(path, path.relative_to(source / name))
    whole = zips / "vox2_dev_mp4.zip"
    data = whole.read_bytes()
    for k, suffix in enumerate(("aa", "ab")):
        part = data[k * len(data) // 2:(k + 1) * len(data) // 2]
        (zips / f"vox2_dev_mp4_part{suffix}").write_bytes(part)
    whole.unlink()
    clips, refused, _ = made("voxceleb2", zips, tmp_path / "out", size=SIZE)
    made("voxceleb2", source, tmp_path / "folder", size=SIZE, max_bad=0.6)
    there = clips_of(tmp_path / "folder")
    assert set(clips) == set(there) - {"id00001.a.00005"}
    for id, clip in clips.items():
        np.testing.assert_array_equal(clip["pictures"], there[id]["pictures"])
        np.testing.assert_array_equal(clip["audio"], there[id]["audio"])
    assert refused["id00001.a.00001"] == "truncated"
    (zips / "vox2_dev_mp4_partab").write_bytes(b"")
    listing.archives._archive.cache_clear()
    with pytest.raises(UserError, match="damaged archive.*in 2 pieces"):
        voxceleb2.corpus(zips)


def test_sound_alone_and_few_of_each_identity(source, tmp_path):
    clips, _, told = made("voxceleb2", source, tmp_path / "out", audio_only=True, per_identity=2,
                          max_bad=0.6)
    assert "pictures" not in clips["id00002.b.00001"]
    assert [id for id in clips if id.startswith("id00003")] == ["id00003.one.00001",
                                                                "id00003.two.00001"]
    assert told["left out by --per_identity"] == 6


def test_somebody_has_to_say_which_set(film, tmp_path):
    (tmp_path / "mp4/id00003/a").mkdir(parents=True)
    shutil.copy(film, tmp_path / "mp4/id00003/a/00001.mp4")
    with pytest.raises(UserError, match="dev or test"):
        voxceleb2.corpus(tmp_path)
    (tmp_path / "vox2_meta.csv").write_text(META.replace(",", "\t"))
    assert list(voxceleb2.corpus(tmp_path).items) == ["train"]
    (tmp_path / "vox2_meta.csv").write_text(META + "id00007 n000007 m dev\n")
    with pytest.raises(UserError, match="unreadable table.*line 7"):
        voxceleb2.corpus(tmp_path)
    (tmp_path / "vox2_meta.csv").unlink()
    (tmp_path / "mp4/id00003/a/00001.mp4").rename(tmp_path / "mp4/id00003/a/00001.m4a")
    (tmp_path / "mp4").rename(tmp_path / "dev")
    with pytest.raises(UserError, match="no pictures here.*--audio_only"):
        voxceleb2.corpus(tmp_path)
