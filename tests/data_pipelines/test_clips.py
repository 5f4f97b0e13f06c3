"""A folder of recordings -> clips: what is refused and why, how it is cut, that nothing half-made
looks whole."""

import errno
import json

import cv2
import numpy as np
import pytest
import soundfile

from avjax.codecs import eigenface
from avjax.errors import DiskFull, UserError
from data_pipelines import extract, prepare
from data_pipelines.ingest.clips import holdout
from data_pipelines.ingest.clips import prepare as clips
from data_pipelines.ingest.common import recordings
from data_pipelines.media import faces, write_media
from data_pipelines.store import dataset as store

RATE = 16000


def detect(grey):
    """Stands in for the cascade: a bright square of 20 pixels or more is a face."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((cv2.GaussianBlur(grey, (0, 0),
                                                                            2) > 90).astype(
                                                                                np.uint8))
    return [tuple(map(float, stats[i, :4])) for i in range(1, count) if min(stats[i, 2:4]) >= 20]


TEXTURE = np.random.default_rng(0).uniform(130, 255, (12, 12, 3))


def head(size=60):
    return cv2.resize(TEXTURE, (size, size),
                      interpolation=cv2.INTER_LINEAR).clip(120, 255).astype(np.uint8)


def film(seconds, fps=25, people=1, at=lambda t: (50, 40)):
    """A textured square (two with people=2) on black, its lower part darkening at 3 Hz like a
    mouth."""
    out = np.zeros((round(seconds * fps), 160, 240, 3), np.uint8)
    for k in range(len(out)):
        for person in range(people):
            x, y = at(k / fps)
            face = head()
            face[42:52, 15:45] = face[42:52,
                                      15:45] * (0.85 + 0.15 * np.sin(2 * np.pi * 3 * k / fps))
            out[k, y : y + 60, x + 90 * person : x + 90 * person + 60] = face
    return out


def sound(seconds, level=0.3, seed=0):
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (level * (np.sin(2 * np.pi * 220 * time) * np.abs(np.sin(7 * time)) + 0.1
                     * noise)).astype(np.float32) * 0.9


def record(path, seconds, fps=25, level=0.3, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_media.write_mp4(path, film(seconds, fps, **kw), fps, sound(seconds, level), RATE)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    record(folder / "ann" / "long.mp4", 9.0)
    record(folder / "ann" / "short.mp4", 3.0, fps=30)
    (folder / "ann" / "short.txt").write_text("hello\nthere\n")
    write_media.write_mp4(folder / "bob_video.mp4", film(6.0), 25)
    soundfile.write(folder / "bob_audio.wav", sound(6.0), RATE)
    record(folder / "bad" / "silent.mp4", 3.0, level=0.0)
    record(folder / "bad" / "two.mp4", 3.0, people=2)
    record(folder / "bad" / "nobody.mp4", 3.0, people=0)
    record(folder / "bad" / "brief.mp4", 1.0)
    record(folder / "bad" / "cut.mp4", 3.0)
    data = (folder / "bad" / "cut.mp4").read_bytes()
    (folder / "bad" / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    (folder / "bad" / "noise.mp4").write_bytes(b"not a video" * 100)
    write_media.write_mp4(folder / "bad" / "mute.mp4", film(3.0), 25)
    write_media.write_mp4(folder / "bad" / "mismatch.mp4", film(3.0), 25)
    soundfile.write(folder / "bad" / "mismatch.wav", sound(5.0), RATE)
    soundfile.write(folder / "bad" / "voice.wav", sound(3.0), RATE)
    (folder / "notes.md").write_text("ignored")
    return folder


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    options = dict(components=4, size=48, detect=detect, progress=False)
    return out, clips.prepare(source, out, **options), options


def test_every_refusal_has_its_reason(prepared):
    out, summary, _ = prepared
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in rows} == {
        "bad.silent": "silent", "bad.two": "two faces", "bad.nobody": "no face",
        "bad.brief": "too short", "bad.cut": "truncated", "bad.noise": "unreadable",
        "bad.mute": "no audio", "bad.mismatch": "wrong duration",
        "bad.voice": "no video"}
    assert summary["refused"]["silent"] == 1 and summary["longest"] == "ann"
    assert {name: row["recordings"] for name,
            row in summary["speakers"].items()} == {"ann": 2, "bob": 1}


def test_clips_are_cut_between_frames_and_held_out_in_time(prepared):
    out, _, _ = prepared
    dataset = store.open_dataset(out / "clips")
    seen = {}
    for split in ("train", "valid"):
        for row in dataset.source(split):
            frames = len(row["face"])
            assert len(row["audio"]) == frames * 735 and len(row["pose"]) == len(
                row["pose_z"]) == frames
            assert row["face"].shape[1] == 4 and np.isfinite(row["face"]).all()
            seen[row["id"]] = (split, frames, row["text"])
    assert seen["ann.short-000000"][2] == "hello there"  # in one piece: keeps its transcript
    (first, held), = [[(k, v) for k, v in sorted(seen.items()) if k.startswith("ann.long")]]
    start = int(held[0].rsplit("-", 1)[1])
    assert (first[1][0], held[1][0]) == ("train", "valid") and first[1][2] == ""
    assert 269 <= start + held[1][1] <= 270 and held[1][1] == 45
    assert start - first[1][1] == 15  # half a second lies between them
    train = np.concatenate([row["pose_z"] for row in dataset.source("train")])
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-3)


def test_faces_decode_to_the_crops(prepared):
    out, _, _ = prepared
    dataset = store.open_dataset(out / "clips")
    row = dataset.source("train")[0]
    frames = eigenface.unpack(dataset.codec("face"), row["speaker"]).decode(row["face"])
    centre, mouth = frames[:, 18:28, 18:30].mean((1, 2, 3)), frames[:, 28:34, 20:30].mean((1, 2, 3))
    assert centre.min() > 120  # the head is in the middle
    spectrum = np.abs(np.fft.rfft(mouth - mouth.mean()))
    # and its mouth moves at 3 Hz
    assert spectrum.argmax() * 30 / len(mouth) == pytest.approx(3.0, abs=0.3)


def test_features_are_extracted_by_another_command(prepared):
    out, _, _ = prepared
    assert not (out / "features").exists()
    features = extract.extract(out / "clips", out / "features", tokens="units", units=8,
                               progress=False)
    row = features.source("train")[0]
    assert row["tokens"].shape[1] == 8 and row["head"].shape[1] == 7
    assert len({len(row[k]) for k in ("mel", "tokens", "face", "head")}) == 1


def test_second_run_keeps_what_is_whole_and_refuses_other_options(prepared, source):
    out, summary, options = prepared
    stamp = (out / "clips" / "checksums.json").stat().st_mtime_ns
    assert clips.prepare(source, out, **options)["speakers"] == summary["speakers"]
    assert (out / "clips" / "checksums.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="other options"):
        clips.prepare(source, out, **options, speaker="ann")


def test_decoded_recordings_survive_an_interruption(source, tmp_path, monkeypatch):
    options = dict(components=4, size=48, detect=detect, progress=False, speaker="bob")
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_dataset", lambda *a,
                      **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            clips.prepare(source, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "clips").exists()
    monkeypatch.setattr(recordings, "read", lambda *a, **k: pytest.fail("decoded again"))
    clips.prepare(source, tmp_path / "out", **options)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "clips", "quarantine.jsonl", "summary.json"]


def test_crops_go_to_their_file_as_they_come(source, tmp_path, monkeypatch):
    item, options = recordings.find(source, "bob")[0], dict(size=48, detect=detect)
    made, kept = recordings.read(item,
                                 **options), recordings.load(recordings.cached(item, tmp_path,
                                                                               "key", **options))
    assert isinstance(kept.crops, np.memmap)
    for name in ("audio", "crops", "pose"):
        np.testing.assert_array_equal(getattr(made, name), getattr(kept, name))
    whole = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate",
                      lambda
                      *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        # not a bus error at the first picture too many
        with pytest.raises(DiskFull, match=f"where: {tmp_path}/.*No space"):
            recordings.cached(item, tmp_path, "full", **options)
    assert sorted(tmp_path.iterdir()) == whole
    monkeypatch.setattr(faces.Cropper, "__call__", lambda self, k, image: 1 / (5 - k))
    with pytest.raises(ZeroDivisionError):
        recordings.cached(item, tmp_path, "other", size=32, detect=detect)
    assert sorted(tmp_path.iterdir()) == whole


def test_audio_only(source, tmp_path):
    clips.prepare(source, tmp_path / "b", audio_only=True, speaker="bob", progress=False)
    assert "face" not in store.open_dataset(tmp_path / "b" / "clips").features


def test_track_follows_a_moving_head():
    where = lambda t: (round(50 + 25 * np.sin(2 * t)), round(40 + 10 * t))  # noqa: E731
    track = faces.follow(film(3.0, 30, at=where), 30, detect)
    truth = np.array([where(k / 30) for k in range(90)]) + 30
    assert np.abs(track.centre * 240 - truth).max() < 3.0
    assert np.ptp(track.width) * 240 < 6 and np.abs(track.roll).max() < 0.05
    pose = track.pose()
    np.testing.assert_allclose(np.linalg.norm(pose[:, :4], axis=1), 1, atol=1e-6)
    assert np.corrcoef(pose[:, 4], truth[:, 0])[0,
                                                1] > 0.99 and np.corrcoef(pose[:, 5],
                                                                          -truth[:, 1])[0, 1] > 0.99


def test_chance_detections_and_misses_are_forgiven_cuts_are_not():
    calls = iter(range(1000))

    def moody(grey):
        k = next(calls)
        return ([] if k % 4 == 1 else detect(grey)) + ([(150.0, 90.0, 50.0, 50.0)] if k % 9 == 0
                                                       else [])

    track = faces.follow(film(3.0, 30), 30, moody)
    assert np.abs(track.centre[:, 0] * 240 - 80).max() < 3
    cut = np.concatenate([film(1.0, 30), 255 - film(1.0, 30, at=lambda t: (100, 90))])
    with pytest.raises(faces.FaceError, match="camera cut.*1.00 s"):
        faces.follow(cut, 30, detect)


def test_compose_moves_the_crop_as_the_pose_says():
    crop = np.zeros((1, 48, 48, 3), np.uint8)
    crop[0, 20:28, 20:28] = 255
    pose = np.array([[1, 0, 0, 0, 0.3, 0.15, 0]], np.float32)
    ys, xs = np.nonzero(faces.compose(crop, pose, 96)[0, :, :, 0] > 127)
    np.testing.assert_allclose([xs.mean() - 48, ys.mean() - 48], [0.3 * 96 / 1.5, -0.15 * 96 / 1.5],
                               atol=1.0)


def test_plan_holds_out_recordings_when_there_are_many():
    items = [recordings.Source(f"s.{i:02d}", "s", None, None, None) for i in range(20)]
    splits = holdout.plan([(item, 1300) for item in items], 20.0)
    assert sorted({i.id for i, _, _ in splits["valid"]}) == ["s.18", "s.19"]
    assert not {i.id for i, _, _ in splits["train"]} & {"s.18", "s.19"}
    assert all(b - a <= 600 for part in splits.values() for _, a, b in part)
    assert sum(b - a for part in splits.values() for _, a, b in part) == 20 * 1300
    with pytest.raises(UserError, match="nothing to hold out"):
        holdout.plan([(items[0], 100)], 20.0)


def test_launcher_says_what_is_wrong(tmp_path):
    for arguments, words in (({"dataset": "nope"}, "unknown dataset.*clips"),
                             ({"dataset": "clips", "out": "x"}, "needs --source"),
                             ({"dataset": "clips", "out": "x", "source": "y", "seed": 1},
                              "has no --seed"),
                             ({"dataset": "clips", "out": "x", "source": "y", "tokens": "units"},
                              "clips only: no --tokens.*avjax extract --clips=x/clips"),
                             ({"dataset": "clips", "out": str(tmp_path / "o"),
                               "source": str(tmp_path)}, "no media"),
                             ({"dataset": "clips", "out": "x", "source": str(tmp_path / "z")},
                              "no such folder")):
        with pytest.raises(UserError, match=words):
            prepare.prepare(**arguments)
    assert not (tmp_path / "o").exists()
