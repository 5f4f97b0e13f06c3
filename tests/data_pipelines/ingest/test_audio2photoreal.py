"""Audio2Photoreal as its owners lay it out, with every defect that it has or may have."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.signal import resample
from data_pipelines import extract
from data_pipelines import prepare as preparing
from data_pipelines.features.units.recordings import Recordings
from data_pipelines.ingest.audio2photoreal import prepare as reader
from data_pipelines.store import dataset as store
from data_pipelines.store.merge import Part
from tests.data_pipelines.ingest import code_trees as trees
from tests.data_pipelines.ingest.code_trees import FRAMES
from tests.data_pipelines.ingest.reading import clips_of, made

# scene -> what becomes of it; the last six that count are held out
BROKEN = {2: "every frame is missing", 3: "lengths differ", 4: "a file is missing",
          5: "an array of objects", 6: "tokens of another length", 7: "one channel twice"}
MENDED = {8: "missing frames listed that the scene has not, ignored",
          9: "face frames that are not finite, interpolated",
          10: "sound up to a frame longer or shorter, cut or padded",
          11: "sound of another sample rate, resampled", 12: "the partner's channel is silent"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("a2p")
    one = root / "PXB184"
    for number in range(1, 19):
        trees.scene(one, number, missing=(0, 1, 7, 8, FRAMES - 1) if number == 1 else ())
    trees.save(one / "scene02_missing_face_frames.npy", np.arange(FRAMES))
    trees.wav(one / "scene03_audio.wav", FRAMES - 4)
    (one / "scene04_body_pose.npy").unlink()
    trees.save(one / "scene05_body_pose.npy", np.array([[None] * 104] * FRAMES), allow_pickle=True)
    trees.save(one / trees.TOKENS / "scene06.npy", np.zeros((2, 20, 29), np.float32))
    trees.soundfile.write(one / "scene07_audio.wav",
                          np.repeat(trees.wav(one / "scene07_audio.wav")[:, :1], 2, 1), 48000)
    trees.save(one / "scene08_missing_face_frames.npy", np.array([-3, 5, FRAMES, 10**9]))
    codes = np.load(one / "scene09_face_expression.npy")
    codes[20] = np.nan
    trees.save(one / "scene09_face_expression.npy", codes)
    trees.wav(one / "scene10_audio.wav", extra=700)
    trees.wav(one / "scene11_audio.wav", rate=44100)
    trees.soundfile.write(one / "scene12_audio.wav",
                          trees.wav(one / "scene12_audio.wav") * [1, 0], 48000)
    trees.statistics(one / "data_stats.pth", facekp_mean=np.zeros((274, 3)))
    trees.vae(one / "head_vae/iter-0500000.pt", 4)
    with zipfile.ZipFile(root / "TXB805.zip", "w") as archive:  # as it is downloaded
        for number in range(1, 9):
            trees.scene(root / "aside/TXB805", number)
        for path in sorted((root / "aside").rglob("*.*")):
            archive.write(path, path.relative_to(root / "aside"))
    shutil.rmtree(root / "aside")
    return root


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "a2p"
    return out, *made("audio2photoreal", tree, out)


def test_every_defect_is_named(prepared):
    _, clips, refused, told = prepared
    assert refused == {f"PXB184-scene{n:02d}": reason for n, reason in BROKEN.items()}
    for number, note in MENDED.items():
        assert note in clips[f"PXB184-scene{number:02d}"]["mended"]
    assert told["mended: sound of another sample rate, resampled"] == 1
    assert told["people without data_stats.pth"] == 1
    assert len(clips) == 18 - len(BROKEN) + 8


def test_the_splits_are_the_owners(prepared, tree, tmp_path):
    """Their loader leaves out scenes without any face code before it counts."""
    _, clips, _, _ = prepared
    held = {split: sorted(n for n, c in clips.items() if c["split"] == split)
            for split in ("valid", "test")}
    assert held["valid"] == ["PXB184-scene13", "PXB184-scene14", "TXB805-scene03", "TXB805-scene04"]
    assert held["test"] == [*(f"PXB184-scene{n}" for n in (15, 16, 17, 18)),
                            *(f"TXB805-scene{n:02d}" for n in (5, 6, 7, 8))]
    avflow = reader.corpus(tree, subject="TXB805", held_out="avflow").items
    assert [item[1] for item in avflow["valid"]] == ["scene07", "scene08"] and "test" not in avflow


def test_clips_hold_what_the_files_say(prepared, tree):
    out, clips, _, _ = prepared
    one, folder = clips["PXB184-scene01"], tree / "PXB184"
    ramp = one["face"][:, 0]
    np.testing.assert_allclose(ramp[[0, 1, 2]], [2, 2, 2])  # a gap at the beginning is held
    np.testing.assert_allclose(ramp[6:10], [6, 7, 8, 9], atol=1e-5)  # one inside is interpolated
    assert ramp[-1] == FRAMES - 2
    np.testing.assert_allclose(clips["PXB184-scene09"]["face"][20, 5], 5020)
    body = np.load(folder / "scene01_body_pose.npy").astype(np.float32)
    np.testing.assert_allclose(one["body_pose"][:, 3], np.mod(body[:, 3], 2 * np.pi), atol=1e-5)
    np.testing.assert_array_equal(one["pose_z"], body[:, 12:16])
    assert clips["TXB805-scene01"]["body_pose"][:, 3].min() < -3  # whose angle is left alone
    assert len(one["audio"]) == len(one["partner_audio"]) == 735 * FRAMES
    assert (one["speaker"], one["partner_speaker"]) == ("PXB184", "RLW104")
    tokens = np.load(folder / trees.TOKENS / "scene01.npy")
    np.testing.assert_array_equal(one["logits"], tokens[0])
    np.testing.assert_array_equal(one["partner_logits"], tokens[1])
    spectrum = [np.abs(np.fft.rfft(one[c].astype(float))).argmax() / FRAMES * 30
                for c in ("audio", "partner_audio")]
    assert spectrum == pytest.approx([200, 330], abs=2)
    dataset = store.open_dataset(out)
    assert dataset.codec("data_stats_PXB184")["facekp_mean"].shape == (274, 3)
    assert "head_vae" not in dataset.codecs  # it is one person's, and here are two


def test_a_partner_is_a_voice_for_av_flow(tree, tmp_path):
    """Nothing of a partner's face is asked for, and their tokens are used as they are."""
    preparing.prepare("audio2photoreal", source=str(tree), out=str(tmp_path / "clips"),
                      subject="PXB184", held_out="avflow", progress=False)
    dataset = extract.extract(tmp_path / "clips", tmp_path / "features", tokens="given",
                              progress=False)
    assert "head_vae" in store.open_dataset(tmp_path / "clips").codecs
    assert {n for n in dataset.features if n.startswith("partner_")} == {
        "partner_tokens", "partner_speaker", "partner_identity"}
    example = dataset.source("valid")[0]
    assert example["head"].shape == (len(example["mel"]), 4)
    files = np.load(tree / "PXB184" / trees.TOKENS / "scene17.npy")
    # frame k is at (320 k + 200) / 16000 s
    at = resample.feature_times(len(example["mel"])) * 50 - 0.625
    for stream, logits_MC in zip(("tokens", "partner_tokens"), files, strict=True):
        np.testing.assert_allclose(example[stream], resample.interpolate(logits_MC, at), atol=1e-5)
    # units need no transcript
    spoken = Recordings(store.open_dataset(tmp_path / "clips"), None).read("valid", 0)
    assert len(spoken.channels) == 2 and not spoken.script.turns


def test_a_killed_job_goes_on_and_two_parts_are_one(prepared, tree, tmp_path, monkeypatch):
    out, clips, refused, _ = prepared
    read, seen = reader.Listing.read, []

    def killed_at(limit):
        def once(self, item):
            seen.append((item[0], item[1]))
            if len(seen) == limit:
                raise KeyboardInterrupt
            return read(self, item)
        return once

    arguments = dict(source=str(tree), progress=False)
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)  # every item is kept as soon as it is read
    monkeypatch.setattr(reader.Listing, "read", killed_at(9))
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare("audio2photoreal", out=str(tmp_path / "again"), **arguments)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(reader.Listing, "read", killed_at(0))
    preparing.prepare("audio2photoreal", out=str(tmp_path / "again"), **arguments)
    assert len(seen) == len(set(seen)) + 1  # the one that it was killed at
    for part in (1, 0):
        preparing.prepare("audio2photoreal", out=Part(tmp_path / "parts", part, 2), **arguments)
    for other in (tmp_path / "again", tmp_path / "parts"):
        assert store.open_dataset(other).ids == store.open_dataset(out).ids
        now = clips_of(other)
        for name in ("PXB184-scene01", "TXB805-scene08"):
            np.testing.assert_array_equal(now[name]["face"], clips[name]["face"])
        lines = (tmp_path / f"{other.name}.quarantine.jsonl").read_text().splitlines()
        assert {json.loads(line)["id"] for line in lines} == set(refused)


def test_long_scenes_are_cut_where_video_and_tokens_begin_together(prepared, tree, tmp_path):
    clips, _, _ = made("audio2photoreal", tree, tmp_path / "out", max_seconds=1.0)
    whole = prepared[1]["TXB805-scene01"]
    parts = [clips[f"TXB805-scene01-{first:06d}"] for first in (0, 24)]  # of 45 frames: 22.5
    for name in ("audio", "partner_audio", "face", "body_pose", "pose_z", "logits"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])
    assert len(parts[0]["logits"]) == 40 and len(parts[0]["audio"]) == 24 * 735
    assert parts[1]["split"] == whole["split"] and parts[1]["speaker"] == "TXB805"


def test_a_person_in_two_places_is_one_line(tree, tmp_path):
    for place in ("a", "b"):
        trees.scene(tmp_path / place / "GQS883", 1)
    with pytest.raises(UserError, match="one person twice.*a/GQS883, b/GQS883"):
        reader.corpus(tmp_path)


@pytest.mark.parametrize(("options", "change", "message"), [
    (dict(subject="ABC123"), None, "no such person.*PXB184 or TXB805"),
    ({}, ("PXB184/data_stats.pth", b"PK\3\4 cut short"), "data_stats.pth"),
    ({}, ("TXB805.zip", b"PK\3\4 cut short"), "damaged archive.*TXB805.zip"),
    ({}, ("PXB184/head_vae/iter-0500000.pt", b""), "iter-0500000.pt"),
    ({}, ("PXB184/head_vae/iter-0500000.pt", {"a": np.zeros(3)}), "not a head VAE.*iter-0500000"),
    ({}, ("PXB184/data_stats.pth", trees.STATISTICS | {"code_std": np.full(256, np.nan)}),
     "not finite.*data_stats.pth.*code_std"),
])
def test_what_ends_the_job_is_one_line(tree, tmp_path, options, change, message):
    source = tree
    if change:
        source = tmp_path / "source"
        source.mkdir()
        if change[0].startswith("PXB184/"):
            shutil.copytree(tree / "PXB184", source / "PXB184")
        if isinstance(change[1], dict):
            trees.write_torch_zip(str(source / change[0]), change[1])
        else:
            (source / change[0]).write_bytes(change[1])
    with pytest.raises(UserError, match=message) as error:
        preparing.prepare("audio2photoreal", source=str(source), out=str(tmp_path / "out"),
                          progress=False, **options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
