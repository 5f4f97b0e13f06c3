"""Talker-T2AV-Data in miniature: the owner's layout made from puppets (face and head on a 25 Hz clock as the 40-d motion)."""

import csv
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile
import soxr

from avjax.errors import UserError
from data_pipelines import extract, resample, store
from data_pipelines.ingest import talker
from data_pipelines.puppets import build
from data_pipelines.tar_tree import TarTree, clean
from launch import flags

launcher = flags.launcher("launch.prepare")

COLUMNS = "sample_id,dataset_source,split,text,wav_path,motion_pt_path,video_path,pt_length,fps".split(",")
SAMPLE = pathlib.Path(os.environ.get("AVJAX_MEDIA_DIR", "")) / "talker_sample"


def torch_file(array, pickled: bytes | None = None, width: str = "Half") -> bytes:
    """What torch.save writes for a bare tensor: the opcodes by hand, or any other pickle."""
    rows, columns = array.shape
    number = lambda n: b"J" + struct.pack("<i", n)  # noqa: E731
    text = lambda s: b"X" + struct.pack("<I", len(s)) + s  # noqa: E731
    storage = (b"(" + text(b"storage") + f"ctorch\n{width}Storage\n".encode() + text(b"0") + text(b"cpu")
               + number(array.size) + b"tQ")
    pickled = pickled or (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + number(rows)
                          + number(columns) + b"\x86" + number(columns) + number(1) + b"\x86\x89"
                          + b"ccollections\nOrderedDict\n)RtR.")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("clip/data.pkl", pickled)
        archive.writestr("clip/byteorder", b"little")
        archive.writestr("clip/data/0", array.tobytes())
        archive.writestr("clip/version", b"3\n")
    return out.getvalue()


class System:
    def __reduce__(self):
        return os.system, ("touch executed",)


def wav_bytes(audio, rate=24000, **kw) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, audio, rate, format="WAV", **kw)
    return out.getvalue()


@pytest.fixture(scope="module")
def puppets_dataset(tmp_path_factory):
    return build.prepare(tmp_path_factory.mktemp("puppets") / "p", sentences=5, speakers=2, valid=1, test=1,
                         progress=False)


@pytest.fixture(scope="module")
def puppets(puppets_dataset):
    """[(id, speaker, text, (N,) int16 at 24 kHz, (T, 40) float16 at 25 Hz)] of a few puppets' sentences."""
    dataset, rows = puppets_dataset, []
    for clip in dataset.source("train"):
        audio = soxr.resample(clip["audio"], dataset.features["audio"].rate, 24000)
        times = np.arange(len(audio) // 960) / 25
        motion = np.concatenate([resample.interpolate(clip[name], times * dataset.features[name].rate)
                                 for name in ("face", "pose_z")], 1)
        rows.append((clip["id"], clip["speaker"], clip["text"], audio,
                     np.pad(motion, [(0, 0), (0, 40 - motion.shape[1])]).astype(np.float16)))
    return rows


@pytest.fixture(scope="module")
def files(puppets):
    """({path: bytes} of the whole data set, its table)."""
    out, table = {}, []
    for name, speaker, text, audio, motion in puppets:
        out[f"audio/{name}.wav"], out[f"motion/{name}.pt"] = wav_bytes(audio), torch_file(motion)
        out[f"video/{name}.mp4"] = b"pictures are not read"
        table.append(dict(zip(COLUMNS, (name, speaker, "train", text, f"audio/{name}.wav", f"motion/{name}.pt",
                                        f"video/{name}.mp4", str(len(motion)), "25"), strict=True)))
    return out, table


def add(tar, name: str, data: bytes = b"", **attributes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def lay_out(root, files, table, *, extracted=False, columns=COLUMNS):
    (root / "metadata").mkdir(parents=True)
    with open(root / "metadata" / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(table)
    (root / "lia_x").mkdir()
    np.save(root / "lia_x" / "motion_mean.npy", np.linspace(-1, 1, 40).astype(np.float32))
    np.save(root / "lia_x" / "motion_std.npy", np.r_[np.zeros(1), np.ones(39)].astype(np.float32))
    (root / "shards").mkdir()
    for kind in ("audio", "motion", "video"):  # one shard a kind: a row's files lie in different ones
        with tarfile.open(root / "shards" / f"{kind}-00000.tar", "w") as tar:
            for name, data in files.items():
                if not name.startswith(kind):
                    continue
                if extracted:
                    (root / name).parent.mkdir(exist_ok=True)
                    (root / name).write_bytes(data)
                else:
                    add(tar, "./" + name, data)
    return root


def prepare(source, out, **kw):
    return talker.prepare(source, out, **{"progress": False, **kw})


def rows_of(out) -> dict[str, dict]:
    dataset = store.open_dataset(out)
    return {row["id"]: {**row, "split": split} for split in dataset.splits for row in dataset.source(split)}


def refusals(out) -> dict[str, tuple[str, str]]:
    lines = pathlib.Path(f"{out}.quarantine.jsonl").read_text().splitlines()
    return {entry.get("id", entry.get("member")): (entry["reason"], entry["detail"]) for entry in map(json.loads, lines)}


@pytest.mark.parametrize("extracted", [False, True], ids=["shards", "extracted"])
def test_every_clip_comes_through_as_it_is(puppets, files, tmp_path, extracted):
    root = lay_out(tmp_path / "data", *files, extracted=extracted)
    before = sorted(p.relative_to(root) for p in root.rglob("*"))
    summary = prepare(root, tmp_path / "out", threads=1 + 2 * extracted)
    assert sorted(p.relative_to(root) for p in root.rglob("*")) == before  # nothing was extracted
    found = rows_of(tmp_path / "out")
    assert summary["rows"] == len(found) == 5 and not summary["refused"] and refusals(tmp_path / "out") == {}
    for name, speaker, text, audio, motion in puppets:
        row = found[name]
        assert (row["speaker"], row["text"]) == (speaker, " ".join(text.split()))
        np.testing.assert_array_equal(row["audio"], audio)  # 16 bits at 24 kHz: not a bit changes
        np.testing.assert_array_equal(row["motion"], motion.astype(np.float32))
    assert sum(row["split"] == "valid" for row in found.values()) == 1  # fewer than a share: at least one is held out
    dataset = store.open_dataset(tmp_path / "out")
    assert dataset.recipes["audio"]["sample_rate"] == dataset.features["audio"].rate == 24000
    assert dataset.recipes["motion"]["kind"] == "lia-x" and dataset.recipes["motion"]["rate"] == 25
    codec = dataset.codec("motion")
    np.testing.assert_allclose(codec["mean"], np.linspace(-1, 1, 40), rtol=1e-6)
    assert codec["std"][0] == np.float32(1e-6) and (codec["std"][1:] == 1).all()


def test_talker_features_follow(puppets, files, tmp_path):
    root = lay_out(tmp_path / "data", *files)
    for suffix, data in (("wav", wav_bytes(tone(60))), ("json", b'{"text": "only heard"}')):
        (root / f"speech.{suffix}").write_bytes(data)
    (tmp_path / "list.txt").write_text("speech.wav\n")
    prepare(root, tmp_path / "clips", tts=str(tmp_path / "list.txt"), valid_share=1e-9)
    features = extract.extract(tmp_path / "clips", tmp_path / "features", features="talker", progress=False)
    clips, codec = rows_of(tmp_path / "clips"), features.codec("motion")
    for name, row in rows_of(tmp_path / "features").items():
        frames = len(clips[name]["motion"])
        assert frames == len(row["motion"]) and len(row["audio"]) == (frames or 60), name
        np.testing.assert_allclose(row["motion"] * codec["std"] + codec["mean"], clips[name]["motion"], atol=1e-4)
    assert features.recipes["motion"]["kind"] == "lia-x" and features.splits == {"train": 5, "valid": 1}
    np.testing.assert_array_equal(codec["std"], store.open_dataset(tmp_path / "clips").codec("motion")["std"])


def test_recordings_without_transcript_take_a_placeholder(puppets_dataset, tmp_path):
    """What launch.prepare --dataset=clips makes has no text; speech to motion can be learnt from it all the same."""
    clips = puppets_dataset
    fields = ("id", "speaker", "text", "identity", "audio", "face", "pose_z")
    store.write_dataset(
        tmp_path / "clips", name="mute", description="no text", features={n: clips.features[n] for n in fields},
        splits={"train": ({**row, "text": ""} for row in clips.source("train", fields))},
        recipes={n: clips.recipes[n] for n in ("audio", "face", "pose_z")},
        codecs={n: clips.codec(n) for n in ("face", "pose")}, progress=False)
    with pytest.raises(UserError, match="empty text.*--placeholder"):
        extract.extract(tmp_path / "clips", tmp_path / "none", features="talker", progress=False)
    assert not (tmp_path / "none").exists()
    features = extract.extract(tmp_path / "clips", tmp_path / "out", features="talker", placeholder="speech",
                               progress=False)
    rows = list(features.source("train"))
    assert all(row["text"] == "" and (row["tokens"] == rows[0]["tokens"]).all() for row in rows)
    assert features.recipes["tokens"]["placeholder"] == "speech"


def test_a_finished_dataset_is_not_overwritten(files, tmp_path):
    root = lay_out(tmp_path / "data", *files)
    prepare(root, tmp_path / "out")
    stamp = (tmp_path / "out" / "checksums.json").stat().st_mtime_ns
    with pytest.raises(UserError, match="refusing to overwrite"):
        prepare(root, tmp_path / "out")
    assert (tmp_path / "out" / "checksums.json").stat().st_mtime_ns == stamp
    prepare(root, tmp_path / "again")
    same = [sorted((p.name, p.read_bytes()) for p in (tmp_path / name).glob("*.array_record*"))
            for name in ("out", "again")]
    assert same[0] == same[1] and same[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "again.quarantine.jsonl", "data", "out",
                                                          "out.quarantine.jsonl"]


def test_sound_of_any_rate_and_channels(puppets, files, tmp_path):
    (name, _, _, audio, _), table = puppets[0], files[1][:2]
    high = soxr.resample(audio.astype(np.float64) / 32768, 24000, 44100)
    stereo = np.stack([1.5 * high, 0.5 * high], 1)  # the mean is what it was
    changed = {**files[0], f"audio/{name}.wav": wav_bytes(stereo * 0.5, 44100, subtype="FLOAT")}
    prepare(lay_out(tmp_path / "data", changed, table), tmp_path / "out")
    ours = rows_of(tmp_path / "out")[name]["audio"].astype(float)
    assert abs(len(ours) - len(audio)) <= 1
    n = min(len(ours), len(audio))
    assert np.corrcoef(ours[:n], audio[:n])[0, 1] > 0.999
    assert ours[:n].std() / audio[:n].std() == pytest.approx(0.5, abs=0.01)


def half(frames, width=40, value=0.25):
    return np.full((frames, width), value, np.float16)


def tone(frames, rate=24000):
    return 0.3 * np.sin(np.arange(round(frames / 25 * rate)) / 20)


NAN_MOTION = half(50)
NAN_MOTION[17, 3] = np.nan
BAD = {  # case -> (changed cells, changed files, reason, words of the detail)
    "no id": ({"sample_id": " "}, {}, "no id", "sample_id"),
    "empty text": ({"text": " \t"}, {}, "empty text", "nothing to speak"),
    "missing wav": ({"wav_path": "audio/gone.wav"}, {}, "missing wav", "no audio/gone.wav"),
    "no wav named": ({"wav_path": ""}, {}, "missing wav", "names none"),
    "missing motion": ({"motion_pt_path": "motion/gone.pt"}, {}, "missing motion", "no motion/gone.pt"),
    "fps": ({"fps": "29.97"}, {}, "fps not 25", "29.97"),
    "fps is no number": ({"fps": "fast"}, {}, "fps not 25", "fast"),
    "traversal": ({"wav_path": "audio/../../secret.wav"}, {}, "unsafe path", "leads out"),
    "absolute": ({"motion_pt_path": "/etc/passwd"}, {}, "unsafe path", "/etc/passwd"),
    "wrong width": ({}, {"motion": torch_file(half(50, 39))}, "wrong width", r"\(50, 39\)"),
    "NaN motion": ({}, {"motion": torch_file(NAN_MOTION)}, "NaN", "frame 17"),
    "NaN sound": ({}, {"audio": wav_bytes(np.r_[tone(50), np.nan], subtype="FLOAT")}, "NaN", "sample"),
    "sound too long": ({}, {"audio": wav_bytes(tone(53))}, "lengths differ", "50 frames of motion, 53.00 of sound"),
    "sound too short": ({}, {"audio": wav_bytes(tone(46.5))}, "lengths differ", "46.50 of sound"),
    "short": ({}, {"audio": wav_bytes(tone(7)), "motion": torch_file(half(7))}, "too short", "7.00 frames"),
    "broken zip": ({}, {"motion": torch_file(half(50))[:2000]}, "unreadable motion", "zip"),
    "not a zip": ({}, {"motion": b"hello" * 20}, "unreadable motion", "hello"),
    "integers": ({}, {"motion": torch_file(np.ones((50, 40), np.int16), width="Short")}, "unreadable motion", "int16"),
    "a list": ({}, {"motion": torch_file(half(1), pickle.dumps([1, 2], 2))}, "unreadable motion", "list"),
    "malicious": ({}, {"motion": torch_file(half(50), pickle.dumps(System(), 2))}, "unsafe motion", r"(posix|nt)\.system"),
    "not a wav": ({}, {"audio": b"RIFFnothing else here"}, "unreadable wav", "audio/"),
    "cut wav": ({}, {"audio": wav_bytes(tone(50))[:-9000]}, "truncated wav", "bytes of samples"),
    "two of one id": ({"sample_id": "good"}, {}, "duplicate id", "same sample_id"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_by_name_and_the_others_are_kept(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells, changed, reason, words = BAD[case]
    bad = dict(zip(COLUMNS, ("bad", "mini", "train", "hello", "audio/bad.wav", "motion/bad.pt", "", "50", "25"),
                   strict=True)) | cells
    good = [dict(zip(COLUMNS, (n, "mini", split, "hello", "audio/good.wav", "motion/good.pt", "", "", ""), strict=True))
            for n, split in (("good", "train"), ("held", "valid"))]
    files = {f"{kind}/{name}.{suffix}": data for name in ("good", "bad") for kind, suffix, data in
             (("audio", "wav", wav_bytes(tone(50))), ("motion", "pt", torch_file(half(50))))}
    files |= {f"{kind}/bad.{'wav' if kind == 'audio' else 'pt'}": data for kind, data in changed.items()}
    summary = prepare(lay_out(tmp_path / "data", files, [*good, bad]), tmp_path / "out", progress=True)
    assert rows_of(tmp_path / "out").keys() == {"good", "held"}
    assert summary["refused"] == {reason: 1} and summary["train"] == summary["valid"] == 1
    (name, (found, detail)), = refusals(tmp_path / "out").items()
    assert (name, found) == (bad["sample_id"].strip(), reason)
    assert re.search(words, detail)
    assert sum(reason in line and "line 4" in line for line in capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "executed").exists()


def test_a_few_frames_of_motion_from_a_tiny_file_do_not_fill_the_memory(tmp_path):
    number = lambda n: b"J" + struct.pack("<i", n)  # noqa: E731
    whole = torch_file(half(1))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = archive.read("clip/data.pkl").replace(
            number(1) + number(40) + b"\x86" + number(40) + number(1), number(2**30) + number(40) + b"\x86" + number(0) * 2)
    with pytest.raises(talker.BadRow, match="1073741824, 40"):
        talker.rows_of.motion_of(torch_file(half(1), pickled), "m.pt")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip/data.pkl", b"")
        archive.writestr("clip/data/0", bytes(10**7))
    with pytest.raises(talker.BadRow, match="many times its size"):
        talker.rows_of.motion_of(out.getvalue(), "m.pt")


def test_two_frames_of_difference_are_kept_and_longer_sound_is_cut_on_request_only(tmp_path):
    table = [dict(zip(COLUMNS, (n, "m", split, "hi", f"audio/{n}.wav", "motion/m.pt", "", "50", "25.0"), strict=True))
             for n, split in (("longer", "train"), ("shorter", "valid"), ("tail", "train"))]
    files = {"motion/m.pt": torch_file(half(50)), "audio/longer.wav": wav_bytes(tone(52)),
             "audio/shorter.wav": wav_bytes(tone(48)), "audio/tail.wav": wav_bytes(tone(80))}
    root = lay_out(tmp_path / "data", files, table)
    prepare(root, tmp_path / "out")
    assert {n: len(r["audio"]) / 960 for n, r in rows_of(tmp_path / "out").items()} == {"longer": 52, "shorter": 48}
    assert prepare(root, tmp_path / "cut", trim_audio=True)["sound trimmed"] == 2
    assert {n: len(r["audio"]) / 960 for n, r in rows_of(tmp_path / "cut").items()} == \
        {"longer": 50, "shorter": 48, "tail": 50}


def test_clips_over_thirty_seconds_are_kept_whole_and_counted(tmp_path, capsys):
    table = [dict(zip(COLUMNS, ("long", "m", split, "hi", "audio/m.wav", "motion/m.pt", "", "9", ""), strict=True))
             | {"sample_id": split} for split in ("train", "validation")]
    files = {"motion/m.pt": torch_file(half(751)), "audio/m.wav": wav_bytes(tone(751, 8000), 8000)}
    summary = prepare(lay_out(tmp_path / "data", files, table), tmp_path / "out")
    assert summary["longer than 30 s"] == summary["pt_length differs"] == 2
    assert {len(row["motion"]) for row in rows_of(tmp_path / "out").values()} == {751}
    assert "kept whole" in capsys.readouterr().out


def test_speech_lists_become_clips_without_motion(files, tmp_path):
    root, speech = lay_out(tmp_path / "data", *files), tmp_path / "speech"
    (speech / "ann").mkdir(parents=True)
    for k in range(40):
        (speech / "ann" / f"{k}.wav").write_bytes(wav_bytes(tone(20, 16000), 16000))
        (speech / "ann" / f"{k}.json").write_text(json.dumps({"text": f"sentence\n{k}", "speaker": "ann"}))
    (speech / "ann" / "1.json").unlink()
    (speech / "ann" / "2.json").write_text("[")
    (speech / "ann" / "3.json").write_text('{"text": ""}')
    (speech / "ann" / "4.wav").write_bytes(wav_bytes(tone(7, 16000), 16000))
    lines = [f"ann/{k}.wav" for k in range(30)] + [str(speech / "ann" / f"{k}.wav") for k in range(30, 40)] + ["../no.wav"]
    (speech / "list.txt").write_text("\n".join(lines) + "\n\n")
    summary = prepare(root, tmp_path / "out", tts=str(speech / "list.txt"), valid_share=0.2)
    found = rows_of(tmp_path / "out")
    spoken = {n: row for n, row in found.items() if n.startswith("tts-")}
    assert summary["speech only"] == len(spoken) == 36 and len(found) == 41
    assert {row["split"] for row in spoken.values()} == {"train", "valid_tts"}
    row = spoken["tts-ann.0"]
    assert row["motion"].shape == (0, 40) and len(row["audio"]) == 20 * 960
    assert (row["text"], row["speaker"]) == ("sentence 0", "ann")
    assert {n: reason for n, (reason, _) in refusals(tmp_path / "out").items()} == {
        "tts-ann.1": "missing text", "tts-ann.2": "unreadable text", "tts-ann.3": "empty text",
        "tts-ann.4": "too short", "tts-...no": "unsafe path"}
    (root / "metadata" / "train.csv").unlink()  # a list alone will do: stage 1
    assert prepare(root, tmp_path / "alone", tts=str(speech / "list.txt"), valid_share=1e-9)["valid_tts"] == 1


def test_recordings_are_held_out_whole_and_stay_on_their_side(tmp_path):
    def row(k, **cells):
        return dict(zip(COLUMNS, (f"talk{k // 4:02d}_{k % 4}", "m", "train", "hi", "audio/m.wav", "motion/m.pt",
                                  f"video/{k}.mp4", "50", "25"), strict=True)) | cells

    files = {"motion/m.pt": torch_file(half(50)), "audio/m.wav": wav_bytes(tone(50))}

    def split(name, table, **kw):
        columns = [*COLUMNS, "speaker"] if "speaker" in table[0] else COLUMNS
        prepare(lay_out(tmp_path / name, files, table, columns=columns), tmp_path / f"{name}_out", **kw)
        return {n: r["split"] for n, r in rows_of(tmp_path / f"{name}_out").items()}

    by_pattern = split("pattern", [row(k) for k in range(80)], valid_share=0.3, recording=r"^(.*)_\d+$")
    assert all(len({by_pattern[f"talk{t:02d}_{k}"] for k in range(4)}) == 1 for t in range(20))
    assert 0 < sum(s == "valid" for s in by_pattern.values()) / 80 < 0.6
    more = split("more", [row(k) for k in range(160)][::-1], valid_share=0.3, recording=r"^(.*)_\d+$")
    assert by_pattern.items() <= more.items()  # neither more data nor another order moves anything
    by_video = split("video", [row(k, video_path=f"video/{k // 4}.mp4") for k in range(80)], valid_share=0.3)
    assert by_video == {n: by_video[n[:-1] + "0"] for n in by_video} and set(by_video.values()) == {"train", "valid"}
    by_speaker = split("speaker", [row(k, speaker=f"s{k % 4}") for k in range(80)], valid_share=0.01)
    assert all(len({by_speaker[f"talk{t:02d}_{k}"] for t in range(20)}) == 1 for k in range(4))
    by_csv = split("csv", [row(k, split=("train", "val", "Test")[k % 3]) for k in range(9)], valid_share=0.9)
    assert list(by_csv.values()).count("test") == list(by_csv.values()).count("valid") == 3
    assert set(split("none", [row(k) for k in range(4)], valid_share=0.0).values()) == {"train"}


def test_members_that_must_not_be_extracted_are_not_read(files, tmp_path):
    root = lay_out(tmp_path / "data", *files)
    name = files[1][0]["sample_id"]
    with tarfile.open(root / "shards" / "zz.tar", "w") as tar:
        add(tar, "../outside.wav", b"x")
        add(tar, "/absolute.pt", b"x")
        add(tar, "audio/link.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "audio/hard.wav", type=tarfile.LNKTYPE, linkname="audio/other.wav")
        add(tar, "audio/device.wav", type=tarfile.CHRTYPE)
        add(tar, f"motion/{name}.pt", torch_file(half(9)))
    tree = TarTree(root, progress=False)
    assert {member for _, member, _ in tree.refused} == {"../outside.wav", "/absolute.pt", "audio/link.wav",
                                                         "audio/hard.wav", "audio/device.wav"}
    assert tree.read("audio/link.wav") is None and tree.read("outside.wav") is None
    assert len(talker.rows_of.motion_of(tree.read(f"motion/{name}.pt"), "m")) == 9  # the last one, as if extracted
    table = [*files[1], files[1][1] | {"sample_id": "by link", "wav_path": "audio/link.wav"}]
    shutil.rmtree(root)
    root = lay_out(tmp_path / "data", files[0], table)
    with tarfile.open(root / "shards" / "audio-00000.tar", "a") as tar:
        add(tar, "audio/link.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    prepare(root, tmp_path / "out")
    found = refusals(tmp_path / "out")
    assert found["by link"][0] == "missing wav" and found["audio/link.wav"][0] == "unsafe tar member"


def test_clean_paths():
    assert clean("./a//b.wav") == "a/b.wav"
    for name in ("", "/a", "..", "a/../../b", "a\\b", "C:/x", "."):
        assert clean(name) is None


def spoil(root, how):
    table, mean = root / "metadata" / "train.csv", root / "lia_x" / "motion_mean.npy"
    shard = root / "shards" / "audio-00000.tar"
    if how == "no statistics":
        mean.unlink()
    elif how == "pickled statistics":
        np.save(mean, np.array([{}], object), allow_pickle=True)
    elif how == "statistics of another width":
        np.save(mean, np.zeros(39, np.float32))
    elif how == "no csv":
        table.unlink()
    elif how == "columns":
        table.write_text(table.read_text().replace("motion_pt_path", "motion"))
    elif how == "empty csv":
        table.write_text(",".join(COLUMNS) + "\n")
    elif how == "not UTF-8":
        table.write_bytes(table.read_bytes() + b"\xff\xfe\n")
    elif how == "unknown split":
        table.write_text(table.read_text().replace(",train,", ",mixed,"))
    elif how == "one row":
        table.write_text("\n".join(table.read_text().splitlines()[:2]))
    elif how == "cut shard":
        shard.write_bytes(shard.read_bytes()[:30000])
    elif how == "damaged header":  # tarfile by itself takes it for the end
        data = bytearray(shard.read_bytes())
        data[data.index(b"./audio", 600)] ^= 0xFF
        shard.write_bytes(data)
    elif how == "compressed shard":
        shard.write_bytes(b"\x1f\x8b" + bytes(600))
    elif how == "bad rows":
        (root / "shards" / "motion-00000.tar").unlink()
    elif how == "bad valid":
        table.write_text(table.read_text() + "x,m,valid,hi,audio/x.wav,motion/x.pt,,,\n")


@pytest.mark.parametrize("how,words", {
    "no statistics": "statistics missing.*--statistics=DIR", "pickled statistics": "unreadable motion statistics",
    "statistics of another width": r"\(39,\)", "no csv": "no table of clips", "columns": "columns missing.*motion_pt_path",
    "empty csv": "no rows", "not UTF-8": "unreadable table", "unknown split": "unknown split.*line 2.*'mixed'",
    "one row": "nothing left to train on", "cut shard": "damaged shard.*audio-00000", "compressed shard": "damaged shard",
    "damaged header": "damaged shard.*not a member's header",
    "bad rows": "too many bad rows.*at most 50% of 5.*3 x missing motion", "bad valid": "no usable clip.*where: valid",
}.items())
def test_a_data_set_that_cannot_be_used_is_one_error(files, tmp_path, how, words):
    root = lay_out(tmp_path / "data", *files)
    spoil(root, how)
    with pytest.raises(UserError, match=words) as error:
        prepare(root, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert (tmp_path / "out.quarantine.jsonl").exists() == how.startswith("bad ")


def test_statistics_from_another_folder_and_the_launcher(files, tmp_path):
    root = lay_out(tmp_path / "data", *files)
    shutil.move(root / "lia_x", tmp_path / "lia_x")
    out = str(tmp_path / "out")
    summary = launcher.prepare(dataset="talker", source=str(root), out=out, statistics=str(tmp_path / "lia_x"),
                               max_bad=0.0, progress=False)
    assert summary["train"] == 4
    for arguments, words in (({"valid_share": 2.0}, "between 0 and 1"), ({"recording": "("}, "not a pattern"),
                             ({"recording": "a"}, "without a group"), ({"tts": "none.txt"}, "no such list"),
                             ({"source": out + "x"}, "no such folder"), ({"units": 3}, "has no --units")):
        with pytest.raises(UserError, match=words):
            launcher.prepare(**{"dataset": "talker", "source": str(root), "out": out + "2", "progress": False,
                                "statistics": str(tmp_path / "lia_x"), **arguments})


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs talker_sample below $AVJAX_MEDIA_DIR")
def test_the_published_sample(tmp_path):
    files = {"audio/r.wav": (SAMPLE / "reference_audio.wav").read_bytes(),
             "motion/r.pt": (SAMPLE / "reference_motion.pt").read_bytes()}
    table = [dict(zip(COLUMNS, (split, "sample", split, "hi", "audio/r.wav", "motion/r.pt", "", "125", "25"), strict=True))
             for split in ("train", "valid")]
    prepare(lay_out(tmp_path / "data", files, table), tmp_path / "out", statistics=str(SAMPLE))
    dataset = store.open_dataset(tmp_path / "out")
    row, codec = dataset.source("train")[0], dataset.codec("motion")
    assert row["motion"].shape == (125, 40) and len(row["audio"]) // 960 == 125
    audio, _ = soundfile.read(SAMPLE / "reference_audio.wav", dtype="int16")
    np.testing.assert_array_equal(row["audio"], audio)
    np.testing.assert_array_equal(codec["mean"], np.load(SAMPLE / "motion_mean.npy"))
    normal = (row["motion"] - codec["mean"]) / codec["std"]
    assert np.abs(normal).max() < 20 and 0.1 < normal.std() < 3  # the statistics are this kind's
