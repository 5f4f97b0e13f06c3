"""What Talker-T2AV-Data becomes: clips as they are, splits, lists of speech, features, the
published sample."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
import soxr

from avjax.errors import UserError
from data_pipelines import extract
from data_pipelines import prepare as preparing
from data_pipelines.store import dataset as store
from tests.data_pipelines.talker_tree import (
    COLUMNS,
    half,
    lay_out,
    prepare,
    refusals,
    rows_of,
    tone,
    torch_file,
    wav_bytes,
)

SAMPLE = pathlib.Path(os.environ.get("AVJAX_MEDIA_DIR", "")) / "talker_sample"



@pytest.mark.parametrize("extracted", [False, True], ids=["shards", "extracted"])
def test_every_clip_comes_through_as_it_is(puppets, files, tmp_path, extracted):
    root = lay_out(tmp_path / "data", *files, extracted=extracted)
    before = sorted(p.relative_to(root) for p in root.rglob("*"))
    summary = prepare(root, tmp_path / "out", threads=1 + 2 * extracted)
    assert sorted(p.relative_to(root) for p in root.rglob("*")) == before  # nothing was extracted
    found = rows_of(tmp_path / "out")
    assert summary["rows"] == len(found) == 5 and not summary["refused"] and refusals(tmp_path
                                                                                      / "out") == {}
    for name, speaker, text, audio, motion in puppets:
        row = found[name]
        assert (row["speaker"], row["text"]) == (speaker, " ".join(text.split()))
        np.testing.assert_array_equal(row["audio"], audio)  # 16 bits at 24 kHz: not a bit changes
        np.testing.assert_array_equal(row["motion"], motion.astype(np.float32))
    # fewer than a share: at least one is held out
    assert sum(row["split"] == "valid" for row in found.values()) == 1
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
    features = extract.extract(tmp_path / "clips", tmp_path / "features", features="talker",
                               progress=False)
    clips, codec = rows_of(tmp_path / "clips"), features.codec("motion")
    for name, row in rows_of(tmp_path / "features").items():
        frames = len(clips[name]["motion"])
        assert frames == len(row["motion"]) and len(row["audio"]) == (frames or 60), name
        np.testing.assert_allclose(row["motion"] * codec["std"] + codec["mean"],
                                   clips[name]["motion"], atol=1e-4)
    assert features.recipes["motion"]["kind"] == "lia-x" and features.splits == {"train": 5,
                                                                                 "valid": 1}
    np.testing.assert_array_equal(codec["std"],
                                  store.open_dataset(tmp_path / "clips").codec("motion")["std"])


def test_recordings_without_transcript_take_a_placeholder(puppets_dataset, tmp_path):
    """What launch.prepare --dataset=clips makes has no text; speech to motion can be learnt from it
    all the same."""
    clips = puppets_dataset
    fields = ("id", "speaker", "text", "identity", "audio", "face", "pose_z")
    store.write_dataset(
        tmp_path / "clips", name="mute", description="no text",
        features={n: clips.features[n] for n in fields},
        splits={"train": ({**row, "text": ""} for row in clips.source("train", fields))},
        recipes={n: clips.recipes[n] for n in ("audio", "face", "pose_z")},
        codecs={n: clips.codec(n) for n in ("face", "pose")}, progress=False)
    with pytest.raises(UserError, match="empty text.*--placeholder"):
        extract.extract(tmp_path / "clips", tmp_path / "none", features="talker", progress=False)
    assert not (tmp_path / "none").exists()
    features = extract.extract(tmp_path / "clips", tmp_path / "out", features="talker",
                               placeholder="speech",
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "again.quarantine.jsonl", "data",
                                                          "out", "out.quarantine.jsonl"]


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


def test_two_frames_of_difference_are_kept_and_longer_sound_is_cut_on_request_only(tmp_path):
    table = [dict(zip(COLUMNS, (n, "m", split, "hi", f"audio/{n}.wav", "motion/m.pt", "", "50",
                                "25.0"), strict=True))
             for n, split in (("longer", "train"), ("shorter", "valid"), ("tail", "train"))]
    files = {"motion/m.pt": torch_file(half(50)), "audio/longer.wav": wav_bytes(tone(52)),
             "audio/shorter.wav": wav_bytes(tone(48)), "audio/tail.wav": wav_bytes(tone(80))}
    root = lay_out(tmp_path / "data", files, table)
    prepare(root, tmp_path / "out")
    assert {n: len(r["audio"]) / 960 for n,
            r in rows_of(tmp_path / "out").items()} == {"longer": 52, "shorter": 48}
    assert prepare(root, tmp_path / "cut", trim_audio=True)["sound trimmed"] == 2
    assert {n: len(r["audio"]) / 960 for n, r in rows_of(tmp_path / "cut").items()} == \
        {"longer": 50, "shorter": 48, "tail": 50}


def test_clips_over_thirty_seconds_are_kept_whole_and_counted(tmp_path, capsys):
    table = [dict(zip(COLUMNS, ("long", "m", split, "hi", "audio/m.wav", "motion/m.pt", "", "9",
                                ""), strict=True))
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
        (speech / "ann"
         / f"{k}.json").write_text(json.dumps({"text": f"sentence\n{k}", "speaker": "ann"}))
    (speech / "ann" / "1.json").unlink()
    (speech / "ann" / "2.json").write_text("[")
    (speech / "ann" / "3.json").write_text('{"text": ""}')
    (speech / "ann" / "4.wav").write_bytes(wav_bytes(tone(7, 16000), 16000))
    lines = [f"ann/{k}.wav" for k in range(30)] + [str(speech / "ann" / f"{k}.wav")
                                                   for k in range(30, 40)] + ["../no.wav"]
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
    # a list alone will do: stage 1, without motion's statistics
    (root / "metadata" / "train.csv").unlink()
    shutil.rmtree(root / "lia_x")
    assert prepare(root, tmp_path / "alone", tts=str(speech / "list.txt"),
                   valid_share=1e-9)["valid_tts"] == 1
    alone = store.open_dataset(tmp_path / "alone")
    assert not any("motion" in part for part in (alone.features, alone.recipes, alone.codecs))


def test_recordings_are_held_out_whole_and_stay_on_their_side(tmp_path):
    def row(k, **cells):
        return dict(zip(COLUMNS, (f"talk{k // 4:02d}_{k % 4}", "m", "train", "hi", "audio/m.wav",
                                  "motion/m.pt", f"video/{k}.mp4", "50", "25"),
                        strict=True)) | cells

    files = {"motion/m.pt": torch_file(half(50)), "audio/m.wav": wav_bytes(tone(50))}

    def split(name, table, **kw):
        columns = [*COLUMNS, "speaker"] if "speaker" in table[0] else COLUMNS
        prepare(lay_out(tmp_path / name, files, table, columns=columns), tmp_path / f"{name}_out",
                **kw)
        return {n: r["split"] for n, r in rows_of(tmp_path / f"{name}_out").items()}

    by_pattern = split("pattern", [row(k) for k in range(80)], valid_share=0.3,
                       recording=r"^(.*)_\d+$")
    assert all(len({by_pattern[f"talk{t:02d}_{k}"] for k in range(4)}) == 1 for t in range(20))
    assert 0 < sum(s == "valid" for s in by_pattern.values()) / 80 < 0.6
    more = split("more", [row(k) for k in range(160)][::-1], valid_share=0.3,
                 recording=r"^(.*)_\d+$")
    assert by_pattern.items() <= more.items()  # neither more data nor another order moves anything
    by_video = split("video", [row(k, video_path=f"video/{k // 4}.mp4") for k in range(80)],
                     valid_share=0.3)
    assert by_video == {n: by_video[n[:-1] + "0"]
                        for n in by_video} and set(by_video.values()) == {"train", "valid"}
    by_speaker = split("speaker", [row(k, speaker=f"s{k % 4}") for k in range(80)],
                       valid_share=0.01)
    assert all(len({by_speaker[f"talk{t:02d}_{k}"] for t in range(20)}) == 1 for k in range(4))
    by_csv = split("csv", [row(k, split=("train", "val", "Test")[k % 3]) for k in range(9)],
                   valid_share=0.9)
    assert list(by_csv.values()).count("test") == list(by_csv.values()).count("valid") == 3
    assert set(split("none", [row(k) for k in range(4)], valid_share=0.0).values()) == {"train"}


def test_statistics_from_another_folder_and_the_launcher(files, tmp_path):
    root = lay_out(tmp_path / "data", *files)
    shutil.move(root / "lia_x", tmp_path / "lia_x")
    out = str(tmp_path / "out")
    summary = preparing.prepare(dataset="talker", source=str(root), out=out,
                               statistics=str(tmp_path / "lia_x"),
                               max_bad=0.0, progress=False)
    assert summary["train"] == 4
    for arguments, words in (({"valid_share": 2.0}, "no such valid_share.*<= 1"),
                             ({"recording": "("}, "not a pattern"),
                             ({"recording": "a"}, "without a group"),
                             ({"tts": "none.txt"}, "no such list"),
                             ({"source": out + "x"}, "no such folder"),
                             ({"units": 3}, "has no --units")):
        with pytest.raises(UserError, match=words):
            preparing.prepare(**{"dataset": "talker", "source": str(root), "out": out + "2",
                                "progress": False, "statistics": str(tmp_path / "lia_x"),
                                **arguments})


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs talker_sample below $AVJAX_MEDIA_DIR")
def test_the_published_sample(tmp_path):
    files = {"audio/r.wav": (SAMPLE / "reference_audio.wav").read_bytes(),
             "motion/r.pt": (SAMPLE / "reference_motion.pt").read_bytes()}
    table = [dict(zip(COLUMNS, (split, "sample", split, "hi", "audio/r.wav", "motion/r.pt", "",
                                "125", "25"), strict=True))
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
