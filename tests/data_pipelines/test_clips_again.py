"""Which recordings a folder is taken to hold, and what becomes of it when it is prepared again,
moved, or holds anything odd."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from avjax.errors import DiskFull, StorageError, UserError
from data_pipelines import extract
from data_pipelines.ingest.clips import prepare as clips
from data_pipelines.ingest.common import inputs, recordings
from data_pipelines.media import write_media
from data_pipelines.store import columns, made_from
from data_pipelines.store import dataset as store
from launch.jobs import stages
from tests.data_pipelines.test_clips import film

RATE = 8000


def tone(path, pitch, seconds=6.0, level=0.3):
    """All of one length are of one size and, as far as anybody can set it, of one time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)
    soundfile.write(path, sound, RATE, subtype="PCM_16")
    os.utime(path, (1_700_000_000, 1_700_000_000))


def prepare(source, out, **options):
    return clips.prepare(source, out, audio_only=True, progress=False, **options)


def pitches(out) -> dict[str, int]:
    """{recording: Hz} of a dataset's clips."""
    found, dataset = {}, store.open_dataset(out / "clips")
    for split in dataset.splits:
        for row in dataset.source(split):
            spectrum = np.abs(np.fft.rfft(row["audio"].astype(np.float64)))
            found[row["id"].rsplit("-", 1)[0]] = round(spectrum.argmax() * 22050
                                                       / len(row["audio"]))
    return found


def refused(out) -> dict[str, str]:
    return {r["id"]: r["reason"]
            for r in map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())}


@pytest.mark.parametrize("names", [("take", "take"), ("take.1", "take/1")])
def test_files_alike_in_two_folders_are_two(tmp_path, names):
    for (speaker, pitch), name in zip({"ann": 300, "bob": 500, "eve": 900}.items(),
                                      (*names, names[0]), strict=True):
        tone(tmp_path / "in" / speaker / f"{name}.wav", pitch, level=0.0 if speaker == "eve"
             else 0.3)
    prepare(tmp_path / "in", tmp_path / "out")
    assert pitches(tmp_path / "out") == {f"ann.{names[0]}": 300,
                                         f"bob.{names[1].replace('/', '.')}": 500}
    assert refused(tmp_path / "out") == {f"eve.{names[0]}": "silent"}


def test_ids_that_two_places_come_to_are_told_apart(tmp_path):
    tone(tmp_path / "in" / "ann" / "x.wav", 300)
    tone(tmp_path / "in" / "ann.x.wav", 500, seconds=8.0)
    prepare(tmp_path / "in", tmp_path / "out")
    found = pitches(tmp_path / "out")
    assert sorted(found.values()) == [300, 500] and all(name.startswith("ann.x-") for name in found)


def test_links_lead_to_recordings(tmp_path, capsys):
    tone(tmp_path / "disk" / "ann" / "x.wav", 300)
    (tmp_path / "in" / "bob").mkdir(parents=True)
    (tmp_path / "in" / "ann").symlink_to(tmp_path / "disk" / "ann")
    (tmp_path / "in" / "bob" / "above").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "bob" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    prepare(tmp_path / "in", tmp_path / "out")
    assert pitches(tmp_path / "out") == {"ann.x": 300} and refused(tmp_path
                                                                   / "out") == {"bob.gone":
                                                                                "unreadable"}
    assert "searched once only: " + str(tmp_path / "in" / "bob"
                                        / "above") in capsys.readouterr().err
    (tmp_path / "in" / "bob" / "gone.wav").unlink()
    tone(tmp_path / "in" / "bob" / "gone.wav", 500)  # mended
    prepare(tmp_path / "in", tmp_path / "out")
    assert pitches(tmp_path / "out") == {"ann.x": 300, "bob.gone": 500}


def test_names_that_are_no_utf8_are_written_out(tmp_path):
    tone(tmp_path / "in" / "ann" / "x.wav", 300)
    for name, level in {b"caf\xe9.wav": 0.3, b"\xe9.wav": 0.0}.items():
        tone(tmp_path / "in" / "rene" / "one.wav", 500, level=level)
        (tmp_path / "in" / "rene" / "one.wav").rename(tmp_path / "in" / "rene" / os.fsdecode(name))
    (tmp_path / "in" / "rene").rename(tmp_path / "in" / os.fsdecode(b"ren\xe9"))
    (row,) = prepare(tmp_path / "in", tmp_path / "out")["quarantine"]
    assert pitches(tmp_path / "out") == {"ann.x": 300, "ren\\xe9.caf\\xe9": 500}
    assert row["id"] == "ren\\xe9.\\xe9" and "ren\\xe9/\\xe9.wav" in row["detail"]
    prepare(tmp_path / "in", tmp_path / "out")


def test_speakers_of_long_names_are_told_apart():
    a, b = (columns.identity_of("a recording of somebody whose name stands at the end of this: " * 2
                              + who) for who in "ab")
    assert np.abs(a - b).max() > 0.1
    # others keep theirs
    np.testing.assert_allclose(columns.identity_of("ann")[:2], [0.128313, -0.472641], atol=1e-4)


def test_new_changed_and_gone_files_are_taken_in(tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    tone(source / "ann" / "kept.wav", 300)
    tone(source / "ann" / "edited.wav", 400)
    tone(source / "ann" / "gone.wav", 500)
    tone(source / "ann" / "mended.wav", 600, level=0.0)
    prepare(source, out)
    assert refused(out) == {"ann.mended": "silent"}
    stamp = (out / "clips" / "checksums.json").stat().st_mtime_ns
    capsys.readouterr()
    prepare(source, out)
    assert (out / "clips" / "checksums.json").stat().st_mtime_ns == stamp
    assert "taken in" not in capsys.readouterr().out
    tone(source / "ann" / "edited.wav", 450)  # same size, same time
    tone(source / "ann" / "mended.wav", 600)
    tone(source / "bob" / "new.wav", 700)
    (source / "ann" / "gone.wav").unlink()
    prepare(source, out)
    said = capsys.readouterr().out
    for line in ("new: bob/new.wav", "changed: ann/edited.wav, ann/mended.wav",
                 "gone: ann/gone.wav"):
        assert line in said.splitlines()
    assert pitches(out) == {"ann.kept": 300, "ann.edited": 450, "ann.mended": 600, "bob.new": 700}
    assert refused(out) == {} and sorted(p.name
                                         for p in out.iterdir()) == ["clips", "quarantine.jsonl",
                                                                     "summary.json"]


def test_what_was_made_stays_until_the_new_is_whole(tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    tone(source / "ann" / "a.wav", 300)
    prepare(source, out)
    tone(source / "ann" / "b.wav", 400)
    # killed while it writes, while it moves
    for target, name in ((store, "write_dataset"), (inputs.os, "replace")):
        with monkeypatch.context() as patch:
            real = getattr(target, name)

            def killed(a, *b, real=real, at=name, **c):
                if at == "write_dataset" or str(a).endswith("summary.json"):
                    raise KeyboardInterrupt
                return real(a, *b, **c)

            patch.setattr(target, name, killed)
            if name == "replace":
                patch.setattr(clips.atomic, "write",
                              lambda path, text, shared=False: path.write_text(text))
            with pytest.raises(KeyboardInterrupt):
                prepare(source, out)
        if name == "write_dataset":
            assert pitches(out) == {"ann.a": 300}
    monkeypatch.setattr(recordings, "read", lambda *a, **k: pytest.fail("decoded again"))
    prepare(source, out)
    assert pitches(out) == {"ann.a": 300, "ann.b": 400}
    assert sorted(p.name for p in out.iterdir()) == ["clips", "quarantine.jsonl", "summary.json"]


def test_a_moved_source_is_the_same_and_another_is_none(tmp_path, monkeypatch, capsys):
    tone(tmp_path / "in" / "ann" / "a.wav", 300)
    tone(tmp_path / "in" / "ann" / "b.wav", 300, level=0.0)
    tone(tmp_path / "other" / "ann" / "a.wav", 400)
    summary = prepare(tmp_path / "in", tmp_path / "out")
    assert str(tmp_path) not in summary["quarantine"][0]["detail"] and "ann/b.wav" in summary[
        "quarantine"][0]["detail"]
    (tmp_path / "in").rename(tmp_path / "moved")
    monkeypatch.setattr(recordings, "read", lambda *a, **k: pytest.fail("decoded again"))
    assert prepare(tmp_path / "moved", tmp_path / "out")["speakers"] == summary["speakers"]
    # nothing to compare with
    assert prepare(tmp_path / "in", tmp_path / "out")["speakers"] == summary["speakers"]
    assert "not compared" in capsys.readouterr().err
    with pytest.raises(UserError, match="another source.*another --out"):
        prepare(tmp_path / "other", tmp_path / "out")
    assert pitches(tmp_path / "out") == {"ann.a": 300}


def test_what_two_people_have_in_common_makes_them_no_moved_source(tmp_path):
    for who, pitch in {"ann": 300, "bob": 500}.items():  # of one script, and of one room
        tone(tmp_path / who / "x.wav", pitch)
        (tmp_path / who / "x.txt").write_text("hello")
    prepare(tmp_path / "ann", tmp_path / "out")
    with pytest.raises(UserError, match="another source"):
        prepare(tmp_path / "bob", tmp_path / "out")
    for who, pitch in {"ann": 700, "bob": 900}.items():
        tone(tmp_path / who / "room.wav", 100, level=0.0)
        tone(tmp_path / who / f"{pitch}.wav", pitch)
    prepare(tmp_path / "ann", tmp_path / "out")
    made = pitches(tmp_path / "out")
    with pytest.raises(UserError, match="another source"):
        prepare(tmp_path / "bob", tmp_path / "out")
    assert pitches(tmp_path / "out") == made == {"x": 300, "700": 700}


def test_a_copy_of_the_source_with_a_change_is_taken_in(tmp_path):
    for name, pitch in {"x": 300, "y": 400, "z": 500}.items():
        tone(tmp_path / "in" / "ann" / f"{name}.wav", pitch)
    prepare(tmp_path / "in", tmp_path / "out")
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    tone(tmp_path / "copy" / "ann" / "z.wav", 600)
    prepare(tmp_path / "copy", tmp_path / "out")
    assert pitches(tmp_path / "out") == {"ann.x": 300, "ann.y": 400, "ann.z": 600}


@pytest.mark.parametrize("damage", [lambda file: file.write_text("{"), lambda file: file.unlink()])
def test_clips_without_a_word_of_their_source(tmp_path, damage):
    tone(tmp_path / "in" / "x.wav", 300)
    prepare(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / ".decoded").mkdir()  # of one that was killed before it was gone
    prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clips", "quarantine.jsonl",
                                                                    "summary.json"]
    damage(tmp_path / "out" / "summary.json")
    with pytest.raises(UserError, match="made of.*summary.json.*bring the file back"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_run_that_was_begun_goes_on_with_its_data(tmp_path, capsys):
    steps = ({"kind": "prepare", "dataset": "clips", "source": str(tmp_path / "in"),
              "out": "{workdir}/data",
              "audio_only": True},)
    tone(tmp_path / "in" / "ann" / "x.wav", 300)
    stages.run_stages(steps, tmp_path / "run")
    record = tmp_path / "run" / "data.stage.json"
    older = json.loads(record.read_text())
    older["arguments"]["tokens"] = "units"  # as versions wrote it whose prepare extracted, too
    record.write_text(json.dumps(older))
    with pytest.raises(UserError, match=r"stages\[0\].*no --tokens.*avjax extract"):
        stages.run_stages((steps[0] | {"tokens": "units"},), tmp_path / "run")
    tone(tmp_path / "in" / "ann" / "y.wav", 400)
    stages.run_stages(steps, tmp_path / "run")
    assert pitches(tmp_path / "run" / "data") == {"ann.x": 300, "ann.y": 400}
    (tmp_path / "run" / "config.json").write_text("{}")  # training has begun
    tone(tmp_path / "in" / "ann" / "z.wav", 500)
    (tmp_path / "in" / "ann" / "y.wav").unlink()
    stages.run_stages(steps, tmp_path / "run")
    assert pitches(tmp_path / "run" / "data") == {"ann.x": 300, "ann.y": 400}
    said = capsys.readouterr().err
    assert "new: ann/z.wav\ngone: ann/y.wav\nnot taken into" in said and "a new --workdir" in said


def test_features_follow_their_clips(tmp_path, capsys):
    source, run = tmp_path / "in", tmp_path / "run"
    steps = ({"kind": "prepare", "dataset": "clips", "source": str(source), "out": "{workdir}/data",
              "audio_only": True},
             {"kind": "extract", "features": "talker", "clips": "{workdir}/data/clips",
              "out": "{workdir}/data/features", "placeholder": "speech", "progress": False})

    def noise(name):
        path = source / "ann" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(ord(name)).uniform(-0.3, 0.3, 6 * RATE), RATE)

    noise("a")
    stages.run_stages(steps, run)
    noise("b")
    stages.run_stages(steps, run)

    def ids(folder):
        return {i.split("-")[0] for ids in store.open_dataset(folder).ids.values() for i in ids}

    assert ids(run / "data" / "features") == {"ann.a", "ann.b"}
    shutil.move(run, tmp_path / "moved")
    data = tmp_path / "moved" / "data"
    clips_dir, features = data / "clips", data / "features"
    assert made_from.source_of(features) == clips_dir
    assert made_from.read(features)["clips"] == store.open_dataset(clips_dir).content
    options = {"features": "talker", "placeholder": "speech", "progress": False}
    with pytest.raises(UserError, match="other options.*placeholder='speech'.*placeholder='x'"):
        extract.extract(clips_dir, features, **(options | {"placeholder": "x"}))
    stamp = (features / "checksums.json").stat().st_mtime_ns
    extract.extract(clips_dir, features, **options)
    assert (features / "checksums.json").stat().st_mtime_ns == stamp  # nothing to do
    shutil.copytree(clips_dir, tmp_path / "copy")
    extract.extract(tmp_path / "copy", features, **options)  # the content counts
    noise("c")
    prepare(source, data)
    assert "features is of the former clips" in capsys.readouterr().out
    prepare(source, tmp_path / "other")
    with pytest.raises(UserError, match="other clips"):
        extract.extract(tmp_path / "other" / "clips", features, **options)
    with pytest.MonkeyPatch.context() as patch:  # killed when the new one is complete
        patch.setattr(extract, "put_in_place", lambda out: None)
        extract.extract(clips_dir, features, **options)
    assert ids(features) == {"ann.a", "ann.b"}
    extract.extract(clips_dir, features, **options)
    assert ids(features) == {"ann.a", "ann.b", "ann.c"}
    assert sorted(p.name for p in data.iterdir() if p.name.startswith(".")) == []


def test_features_that_prepare_once_made_are_brought_up_to_date(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    tone(source / "ann" / "a.wav", 300)
    prepare(source, out)
    record = json.loads((out / "summary.json").read_text())
    record["options"]["features"] = {"tokens": "units", "units": 64, "weights": None}
    (out / "summary.json").write_text(json.dumps(record))  # as earlier versions wrote it
    shutil.copytree(out / "clips", out / "features")
    prepare(source, out)
    asked = extract.request("avflow", tokens="units", units=64)
    assert not extract.changed(out / "clips", out / "features", asked)
    with pytest.raises(UserError, match="other options.*units='64'.*units='8'"):
        extract.changed(out / "clips", out / "features", extract.request(
            "avflow", tokens="units", units=8))


def test_what_another_version_read_otherwise_is_read_again(tmp_path, monkeypatch, capsys):
    tone(tmp_path / "in" / "ann" / "a.wav", 300)
    with monkeypatch.context() as patch:
        patch.setattr(recordings, "AUDIO_RECIPE", {**recordings.AUDIO_RECIPE, "channels": "mean"})
        prepare(tmp_path / "in", tmp_path / "out")
    prepare(tmp_path / "in", tmp_path / "out")
    assert "read again, as this version reads sound: ann/a.wav" in capsys.readouterr().out
    assert store.open_dataset(tmp_path / "out"
                              / "clips").recipes["audio"] == recordings.AUDIO_RECIPE
    prepare(tmp_path / "in", tmp_path / "out")
    assert "read again" not in capsys.readouterr().out


def test_a_video_that_nothing_decodes_is_refused(tmp_path):
    odd = tmp_path / "in" / "ann" / "odd.mp4"
    odd.parent.mkdir(parents=True)
    write_media.write_mp4(odd, film(3.0, 10), 10,
                          0.3 * np.sin(np.arange(66150) / 20).astype(np.float32), 22050)
    odd.write_bytes(odd.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(UserError, match="no usable recording.*1 x unreadable"):
        clips.prepare(tmp_path / "in", tmp_path / "out", progress=False)
    assert refused(tmp_path / "out") == {"ann.odd": "unreadable"}


def test_a_number_in_a_file_that_leads_nowhere(tmp_path):
    tone(tmp_path / "in" / "ann" / "a.wav", 300)
    header = b"\x1a\x45\xdf\xa3\x01" + b"\xfe" * 7  # of 2^56 bytes
    (tmp_path / "in" / "ann" / "odd.mkv").write_bytes(header + bytes(100))
    prepare(tmp_path / "in", tmp_path / "out")
    assert refused(tmp_path / "out") == {"ann.odd": "unreadable"}


@pytest.mark.parametrize("error, kept", [
    (AttributeError("'NoneType' object has no attribute 'width'"), True),
    (RuntimeError("a library's own"), True), (ZeroDivisionError(), True),
    (ValueError("3 channels"), True), (OSError(errno.EINVAL, "Invalid argument"), True),
    (MemoryError(), False), (NameError("x"), False), (KeyboardInterrupt(), False),
    (OSError(errno.ENOSPC, "No space left on device", "x.npy"), False),
    (OSError(errno.EIO, "Input/output error"), False),
    (OSError(errno.ESTALE, "Stale file handle"), False),
    (PermissionError(errno.EACCES, "Permission denied", "OUT"), False)])
def test_whatever_a_file_does_is_its_own_matter(tmp_path, monkeypatch, error, kept):
    tone(tmp_path / "in" / "ann" / "a.wav", 300)
    tone(tmp_path / "in" / "ann" / "odd.wav", 400)
    real = recordings.read

    def read(source, **options):
        if source.id == "ann.odd":
            raise error
        return real(source, **options)

    with monkeypatch.context() as patch:
        patch.setattr(recordings, "read", read)
        if kept:
            (row,) = prepare(tmp_path / "in", tmp_path / "out")["quarantine"]
            assert row["id"] == "ann.odd" and f"{type(error).__name__}: {error}".strip() in row[
                "detail"]
            return
        storage = isinstance(error, OSError) and error.errno != errno.EACCES
        with pytest.raises(StorageError if storage else type(error)) as raised:
            prepare(tmp_path / "in", tmp_path / "out")
        assert isinstance(raised.value, DiskFull) == (getattr(error, "errno", 0) == errno.ENOSPC)
    prepare(tmp_path / "in", tmp_path / "out")  # nothing was noted down about a good file
    assert pitches(tmp_path / "out") == {"ann.a": 300, "ann.odd": 400}


@pytest.mark.parametrize("files, found", [
    (("take/video.mp4", "take/audio.wav"), {"take": ("take", "video.mp4", "audio.wav")}),
    (("ann/take/Video.MOV", "ann/take/AUDIO.flac", "ann/take/audio.txt"),
     {"ann.take": ("ann", "Video.MOV", "AUDIO.flac")}),
    (("video.mp4", "audio.wav"), {"video": ("video", "video.mp4", "audio.wav")}),
    (("ann/video_2.mp4", "ann/audio_2.wav"), {"ann.2": ("ann", "video_2.mp4", "audio_2.wav")}),
    (("ann/video2.mp4", "ann/audio2.wav"), {"ann.2": ("ann", "video2.mp4", "audio2.wav")}),
    (("ann/x_video.mp4", "ann/x-audio.wav"), {"ann.x": ("ann", "x_video.mp4", "x-audio.wav")}),
    (("ann/x.mp4", "ann/x.wav", "ann/y.mp4"),
     {"ann.x": ("ann", "x.mp4", "x.wav"), "ann.y": ("ann", "y.mp4", None)}),
    (("ann/video_2.mp4",), {"ann.video_2": ("ann", "video_2.mp4", None)}),
    (("take/video.mp4",), {"take.video": ("take", "video.mp4", None)}),
    (("ann/audiobook.mp3",), {"ann.audiobook": ("ann", None, "audiobook.mp3")})])
def test_sound_is_found_beside_its_video(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {s.id: (s.speaker, *(p and p.name for p in (s.video, s.audio)))
            for s in recordings.find(tmp_path)} == found
