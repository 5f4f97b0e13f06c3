"""Seamless Interaction in miniature: what clips are made of it, every defect that it is known for,
a killed job, parts, and the bucket's layout."""

import collections
import io
import json
import pathlib
from fractions import Fraction

import numpy as np
import pytest

from avjax.errors import StorageError, UserError
from avjax.systems import api
from configs import tavid as full_size
from data_pipelines import extract
from data_pipelines.features.avflow import head_pose
from data_pipelines.features.common.painter import Painter
from data_pipelines.features.tavid import conversations, frozen_encoders
from data_pipelines.ingest.seamless import listing, pieces, prepare, said, seen
from data_pipelines.ingest.seamless import side as side_of
from data_pipelines.loading import loader
from data_pipelines.media import tar_tree
from data_pipelines.store import dataset as store
from data_pipelines.store.merge import Part
from tests.data_pipelines.features.dialogues import OPTIONS, SIZE, Averages
from tests.data_pipelines.ingest import seamless_tree as tree

NTSC, ODD = Fraction(30000, 1001), Fraction(45000, 1501)
A = "V00_S0001_I00000001"


def dyad(interaction: int, first: dict | None = None, second: dict | None = None) -> dict:
    """Both sides of an interaction, by id."""
    name = f"V00_S0001_I{interaction:08d}"
    return {f"{name}_P0001": first or tree.side(0), f"{name}_P0002A": second or tree.side(1)}


def made(root: pathlib.Path, out: pathlib.Path, **options):
    """(dataset, what was printed as counts)."""
    counts = prepare.prepare(root, out, size=32, progress=False, **options)
    return store.open_dataset(out), counts


def rows(dataset, split: str = "train") -> list[dict]:
    return [dict(row) for row in dataset.source(split)]


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> pathlib.Path:
    """Three dyads in two splits, with all that a side can have; one lies in two tars."""
    root = tmp_path_factory.mktemp("seamless")
    one = dyad(1)
    one[f"{A}_P0001"]["json"]["annotations:3P-IS"] = [
        {"annotation": "doubts it", "start_ts": 1.0, "end_ts": 2.0}]
    folder = root / "improvised" / "train" / "0000"
    tree.write_tar(folder / "0000.tar", one)
    for k, (id, side) in enumerate(dyad(2, tree.side(0, seed=2), tree.side(1, seed=2)).items()):
        tree.write_tar(folder / f"001{k}.tar", {id: side})
    tree.write_tar(root / "naturalistic" / "dev" / "0003" / "0000.tar",
                   dyad(3, tree.side(0, fps=NTSC, rows=-3), tree.side(1, fps=ODD, rows=5)))
    return root


@pytest.fixture(scope="session")
def clips(good, tmp_path_factory):
    return made(good, tmp_path_factory.mktemp("clips") / "out", movement="movement")


def test_both_sides_of_a_dyad_become_a_clip_each(clips):
    dataset, counts = clips
    assert dataset.splits == {"train": 4, "valid": 2}
    first, second = rows(dataset)[:2]
    assert (first["id"], second["id"]) == (f"{A}-000000/0", f"{A}-000000/1")
    assert (first["speaker"], first["partner_speaker"]) == ("V00_P0001", "V00_P0002A")
    for name in ("audio", "pictures", "landmarks", "pose", "face", "words", "activity"):
        assert np.array_equal(first[name], second[f"partner_{name}"])
        assert np.array_equal(second[name], first[f"partner_{name}"])
    frames = round(tree.SECONDS * 30)
    assert len(first["audio"]) == 735 * frames
    assert [len(first[n]) for n in ("pictures", "pose", "face", "landmarks")] == [frames] * 4
    assert json.loads(first["activity"]) == [list(span) for span in tree.SPEECH[0]]
    assert json.loads(first["annotations"])["3P-IS"][0]["annotation"] == "doubts it"
    kinds = [(e["kind"], e.get("speaker")) for e in json.loads(first["events"])]
    assert kinds == [("turn", 0), ("gap", None), ("turn", 1), ("gap", None), ("turn", 0)]
    assert first["text"].startswith("[0] we went") and first["label"] == "improvised"
    assert json.loads(first["mended"]) == [] and counts["mended: " + seen.ROWS] == 2


def test_pictures_show_the_face_and_landmarks_lie_on_it(clips):
    for split in ("train", "valid"):  # at 30 Hz; at 30000/1001 and 45000/1501
        for row in rows(clips[0], split):
            for k in range(0, len(row["pictures"]), 25):
                for eye in (row["landmarks"][k, 36:42], row["landmarks"][k, 42:48]):
                    x, y = np.round(eye.mean(0) * 32 - 0.5).astype(int)
                    red, _, blue = row["pictures"][k, y, x].astype(int)
                    assert blue > red + 60  # drawn eyes are blue
    assert row["portrait"].shape == (32, 32, 3)
    assert abs(row["landmarks"][:, 36:48].mean() - 0.42) < 0.1


def test_sound_and_pictures_are_those_of_the_files(clips, good):
    row = rows(clips[0])[0]
    heard = tree.sound(tree.SPEECH[0], tree.SECONDS, 0)
    power = [np.square(x.reshape(60, -1)).mean(1) for x in (heard, row["audio"] / 32767)]
    spoken = power[0] > 1e-3  # half of the noise's power is above 11 kHz
    assert np.allclose(power[1][spoken], power[0][spoken], rtol=0.15) and spoken.sum() > 10
    assert power[1][power[0] < 1e-6].max() < 1e-5
    rng = np.random.default_rng(0)
    assert np.array_equal(row["face"], rng.standard_normal((180, 128)).astype(np.float32))


def test_clips_fit_what_features_are_made_of(clips):
    dataset, _ = clips
    row = rows(dataset)[0]
    painter = Painter(dataset, 32)
    assert painter.has_motion and painter.motion_width == 135
    tracks = [painter.frames(row, prefix) for prefix in ("", "partner_")]
    talk = conversations.conversation(row, ("", "partner_"), tracks)
    assert [t.speaker for t in talk.script.turns] == [0, 1, 0]
    encoder = head_pose.make("linear", dataset)
    assert np.abs(encoder.call(row["pose_z"])).max() < 10


def test_full_size_parts_of_tavid_read_what_extraction_makes_of_it(clips, tmp_path, monkeypatch):
    """Rows of every part of configs/tavid.py, at the size of these pictures."""
    dataset, _ = clips
    monkeypatch.setattr(frozen_encoders, "load_pictures", lambda path: Averages())
    made = extract.extract(dataset.dir, tmp_path / "features", features="tavid", vae="a VAE",
                           tokens="characters", **OPTIONS)
    assert made.splits == {"train": 2, "valid": 1}
    examples = [dict(row) for row in made.source("train")]
    # of the others: tests/data_pipelines/features/test_tavid.py
    for part in full_size.PARTS.keys() - {"vae", "voicebox", "portrait"}:
        config = full_size.get_config(part).system
        config.unlock()
        if part == "mapper":
            config.target_dim = 135  # 128 numbers of a face and 7 of a head
        if part == "speaker":
            config.size = SIZE // 8
        elif "latent_size" in config:
            config.latent_size = (SIZE // 8, SIZE // 8)
            config.unet.channels, config.unet.attention_levels = (320,), (True,)
        system, rng = api.build(config), np.random.default_rng(0)
        assert loader.check_features(made, system.example_spec), part
        for example in examples:
            row = system.rows.build([example], rng)
            assert {n: x.shape for n, x in row.items()} == {
                n: tuple(spec.shape[1:]) for n, spec in system.batch_spec.items()}, part
            assert all(np.isfinite(x).all() for x in row.values())


def test_the_bucket_has_the_same_clips(good, clips, tmp_path):
    one = dyad(1)
    one[f"{A}_P0001"]["json"]["annotations:3P-IS"] = [
        {"annotation": "doubts it", "start_ts": 1.0, "end_ts": 2.0}]
    tree.write_bucket(tmp_path / "s3", "improvised", "train", one)
    dataset, _ = made(tmp_path / "s3", tmp_path / "out", movement="movement")
    assert len(rows(dataset)) == 2
    for a, b in zip(rows(dataset), rows(clips[0]), strict=False):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_unpacked_archives_are_read_too(tmp_path):
    folder = tmp_path / "in" / "improvised" / "train" / "0000" / "0005"
    folder.mkdir(parents=True)
    for id, one in dyad(1).items():
        for suffix, content in tree.files(one).items():
            (folder / f"{id}.{suffix}").write_bytes(content)
    assert made(tmp_path / "in", tmp_path / "out", columns="sound")[0].splits == {"train": 2}


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory):
    """(dataset, counts, quarantined {id: reason}) of a tree with a defect in every dyad."""
    root = tmp_path_factory.mktemp("spoiled")
    folder = root / "improvised" / "train" / "0000"
    sides: dict[str, dict] = dyad(1)
    spoil = {  # interaction: what is done to its first side
        10: lambda s: s.update(mp4=b"x" * 261),
        11: lambda s: s.update(wav=b"x" * 58),
        12: lambda s: s["npz"].update({k: x[:0] for k, x in s["npz"].items()}),
        13: lambda s: s.update(wav=tree.wav(np.zeros(6 * tree.RATE))),
        14: lambda s: s["npz"].pop("boxes_and_keypoints:keypoints"),
        15: lambda s: s.update(wav=tree.wav(tree.sound(((0.5, 1.9),), 3.0, 0))),
        16: lambda s: s["npz"].update({"boxes_and_keypoints:box": np.ones((90, 4), np.float32)}),
        17: lambda s: s["npz"]["boxes_and_keypoints:is_valid_box"].fill(0),
        18: lambda s: s.pop("json"),
        19: lambda s: s.update(mp4=s["mp4"][:len(s["mp4"]) // 2]),
        20: lambda s: s.update(json={"metadata:transcript": "none"}),
        21: lambda s: s.update(npz={k: x[..., :50] if k.endswith("expression") else x
                                    for k, x in s["npz"].items()}),
        22: lambda s: s["npz"]["movement:is_valid"].fill(0),
        # from here on it is mended
        30: lambda s: s["json"].update({"metadata:vad": []}),
        31: _without_times,
        32: lambda s: s["npz"].update({"smplh:is_valid": np.ones(6 * 240, bool)}),
        33: _gaps,
        34: lambda s: s["json"]["metadata:transcript"].append(
            {"words": [{"word": "late", "start": 8.0, "end": 8.5}]}),
        35: lambda s: s["json"]["metadata:vad"].append({"start": 5.7, "end": 6.2}),
    }
    for number, change in spoil.items():
        two = dyad(number)
        change(two[f"V00_S0001_I{number:08d}_P0001"])
        sides |= two
    loud, quiet = (tree.sound(tree.SPEECH[k], 6.0, k) for k in (0, 1))
    sides |= dyad(36, second=tree.side(1) | {"wav": tree.wav(quiet + 0.3 * loud)})
    tree.write_tar(folder / "0000.tar", sides)
    alone = dyad(40)
    alone.popitem()
    tree.write_tar(folder / "0001.tar", alone)
    tree.write_tar(folder / "0002.tar", dyad(41))
    with open(folder / "0002.tar", "r+b") as file:
        file.truncate(file.seek(0, io.SEEK_END) * 3 // 5)
    tree.write_filelist(root, [(f"V00_S0001_I0000004{k}_P{p}", "improvised", "train", 0, archive)
                               for k, p, archive in ((0, "0001", 1), (0, "0002A", 7),
                                                     (2, "0001", 1))])
    out = tmp_path_factory.mktemp("spoiled_out") / "out"
    dataset, counts = made(root, out, movement="movement", max_bad=0.9)
    lines = [json.loads(line) for line in
             out.with_name("out.quarantine.jsonl").read_text().splitlines()]
    return dataset, counts, {line["id"]: line["reason"] for line in lines}


def _without_times(one: dict) -> None:
    for word in one["json"]["metadata:transcript"][0]["words"][2:4]:
        word["start"] = word["end"] = None


def _gaps(one: dict) -> None:
    """10 rows that are not finite, at the very begin a few without a box, 60 at the end too."""
    one["npz"]["boxes_and_keypoints:keypoints"][80:90] = np.nan
    one["npz"]["boxes_and_keypoints:is_valid_box"][:6] = 0
    one["npz"]["boxes_and_keypoints:is_valid_box"][120:] = 0


def test_every_defect_has_its_name(spoiled):
    _, counts, refused = spoiled
    first = {number: f"V00_S0001_I{number:08d}_P0001" for number in range(50)}
    assert refused == {
        first[10]: "placeholder mp4", first[11]: "placeholder wav",
        first[12]: "placeholder arrays", first[13]: "silent sound", first[14]: "missing arrays",
        first[15]: "lengths differ", first[16]: "arrays of different lengths",
        first[17]: "no face", first[18]: "missing json", first[19]: "truncated",
        first[20]: "unreadable json", first[21]: "arrays of another shape",
        first[22]: "no face code", "V00_S0001_I00000033-000120": "no face here",
        "V00_S0001_I00000040": "partner missing", "V00_S0001_I00000041": "partner missing"}
    assert counts["left out: partner missing"] == 2
    assert counts["interactions of which one side is missing"] == 2
    assert counts["tars cut short: what is whole in them is used"] == 1
    assert counts["files of filelist.csv whose archive is missing"] == 1
    assert counts["files of filelist.csv that their archive lacks"] == 1


def test_what_can_be_mended_is_and_says_so(spoiled):
    dataset, counts, _ = spoiled
    by_id = {row["id"]: row for row in rows(dataset)}
    noted = collections.Counter(note for row in by_id.values()
                                for note in json.loads(row["mended"]))
    assert noted == dict.fromkeys((said.NO_VAD, said.INTERPOLATED, side_of.SMPLH, seen.HELD,
                                   seen.NAN, said.BEYOND, side_of.CUT_OFF, prepare.BLEED), 2)
    assert counts[f"mended: {said.NO_VAD}"] == 2
    vadless = json.loads(by_id["V00_S0001_I00000030-000000/0"]["activity"])
    assert vadless == [list(span) for span in tree.SPEECH[0]]  # the words' own
    words = json.loads(by_id["V00_S0001_I00000031-000000/0"]["words"])
    whole = json.loads(by_id[f"{A}-000000/0"]["words"])
    assert [w[0] for w in words] == [w[0] for w in whole]
    # "to the" share the time between their neighbours by letters, 2 to 3
    assert words[2][1:] == pytest.approx([whole[2][1], whole[2][1] + 0.4 * 0.4], abs=2e-3)
    gaps = by_id["V00_S0001_I00000033-000000/0"]
    assert len(gaps["pictures"]) == 120 and np.isfinite(gaps["landmarks"]).all()


def test_sides_by_themselves_need_no_partner(tmp_path):
    alone = dyad(1)
    alone.popitem()
    bare = {id: {"wav": one["wav"], "json": one["json"]} for id, one in alone.items()}
    tree.write_tar(tmp_path / "in" / "improvised" / "test" / "0000" / "0000.tar", bare)
    dataset, counts = made(tmp_path / "in", tmp_path / "out", columns="sound", partners=False)
    [row] = rows(dataset, "test")
    assert row["id"] == f"{A}_P0001-000000" and row["text"].startswith("we went to the lake")
    assert "partner_audio" not in row and "pose" not in row
    assert counts["interactions of which one side is missing"] == 1


def test_motion_needs_no_pictures(tmp_path):
    two = {id: {k: v for k, v in one.items() if k != "mp4"} for id, one in dyad(1).items()}
    tree.write_tar(tmp_path / "in" / "improvised" / "train" / "0000" / "0000.tar", two)
    dataset, _ = made(tmp_path / "in", tmp_path / "out", columns="motion")
    assert {"landmarks", "pose", "pose_z"} < dataset.features.keys()
    assert "pictures" not in dataset.features


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_killed_job_goes_on_where_it_was(good, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    read, seen_ids = side_of.read, []

    def counted(files, *args):
        if len(seen_ids) == 2 and kill:
            raise Killed
        seen_ids.append(files.id)
        return read(files, *args)

    monkeypatch.setattr(side_of, "read", counted)
    kill = True
    with pytest.raises(Killed):
        made(good, tmp_path / "out", columns="sound")
    kill = False
    monkeypatch.setattr(tar_tree, "plain", lambda *args: pytest.fail("the index was kept"))
    dataset, _ = made(good, tmp_path / "out", columns="sound")
    assert dataset.splits == {"train": 4, "valid": 2}
    assert len(seen_ids) == len(set(seen_ids)) == 6
    assert not (tmp_path / ".out.listing").exists()


def test_two_parts_make_the_same_dataset(good, tmp_path):
    whole, _ = made(good, tmp_path / "whole", columns="motion")
    for k in (1, 0):
        part = Part(tmp_path / "parts", k, 2)
        counts = prepare.prepare(good, part, columns="motion", size=32, progress=False)
        assert (counts is None) == (k == 1)
    parts = store.open_dataset(tmp_path / "parts")
    for split in whole.splits:
        for a, b in zip(rows(whole, split), rows(parts, split), strict=True):
            assert all(np.array_equal(a[name], b[name]) for name in a)


def test_an_archive_that_goes_meanwhile_ends_the_job(good, tmp_path, monkeypatch):
    listed = listing.find

    def gone(*args):
        found = listed(*args)
        for one in found.sides["train"].values():
            for file in one["files"].values():
                file[0] = file[0].replace("train", "elsewhere")
        return found

    monkeypatch.setattr(listing, "find", gone)
    with pytest.raises(StorageError, match="has gone"):
        made(good, tmp_path / "out", columns="sound")


def test_errors_of_the_command(tmp_path, good):
    with pytest.raises(UserError, match="nothing of Seamless Interaction here"):
        made(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="a face code without a face"):
        made(good, tmp_path / "out", columns="sound", movement="movement")


def test_a_face_too_small_for_the_pictures_is_left_out():
    arrays = tree.arrays(90, 3.0, 0)
    box, valid, points = (arrays[f"boxes_and_keypoints:{k}"] for k in ("box", "is_valid_box",
                                                                       "keypoints"))
    points[:30, :, :2] = points[:30, :, :2] * 3  # near at first
    found = seen.face(box * 3, valid, points, np.arange(90), (288, 480), 192, set())
    assert found.known[:15].all() and not found.known[60:].any()
    with pytest.raises(store.Unusable, match="face too small"):
        seen.face(box, valid, points[60:].repeat(3, 0), np.arange(90), (96, 160), 192, set())


def test_long_interactions_are_cut_in_silences():
    known = np.ones(30 * 30, bool)
    known[:40] = known[700:730] = False
    activity = [[[1.5, 8.0], [9.0, 13.0]], [[14.0, 24.0]]]
    cuts = list(pieces.cut(known, activity, 8.0))
    assert cuts == [(40, 255, ""), (255, 405, ""), (405, 640, pieces.SPOKEN), (640, 700, ""),
                    (730, 900, "")]
    assert pieces.lost(known) == []  # shorter than a clip
    known[100:200] = False
    assert pieces.lost(known) == [(100, 200)]
