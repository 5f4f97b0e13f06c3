"""LJSpeech in miniature, with the defects that copies of it have."""

import numpy as np
import pytest
import soundfile

from avjax.errors import UserError
from data_pipelines.ingest.ljspeech import prepare as ljspeech
from tests.data_pipelines.ingest import small_films
from tests.data_pipelines.ingest.reading import made

RATE = ljspeech.RATE
GOOD = 6
ROWS = [*(f"LJ001-{k:04d}|Raw {k}|The {k}th." for k in range(1, GOOD + 1)),
        'LJ002-0001|the Gutenberg, or "forty-two line|the "Gutenberg|',  # a fourth cell
        'LJ002-0002|he said "stop, and|he said "stop, and',  # a quote that never ends
        "LJ002-0003|Raw only|",
        "LJ002-0004||",
        "LJ002-0005|of 16 kHz|of 16 kHz",
        "LJ002-0006|in two channels|in two channels",
        "LJ002-0007|no wav|no wav",
        "LJ002-0008|cut short|cut short",
        "LJ002-0009|no file|no file",
        "LJ002-0010|not finite|not finite",
        "LJ002-0011|silence|silence",
        "LJ001-0001|Raw 1 again|The first again."]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("LJSpeech") / "LJSpeech-1.1"
    (root / "wavs").mkdir(parents=True)
    # as Windows saves it
    (root / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(ROWS).encode() + b"\r\n")
    tone = small_films.tone(1.2, RATE)

    def wav(name, samples=tone, rate=RATE, **kw):
        soundfile.write(root / "wavs" / f"{name}.wav", samples, rate, **kw)

    for k in range(1, GOOD + 1):
        wav(f"LJ001-{k:04d}", tone * k / GOOD)
    for name in ("LJ002-0001", "LJ002-0002", "LJ002-0003", "LJ002-0004", "LJ009-0001"):
        wav(name)
    wav("LJ002-0005", small_films.tone(1.2, 16000), 16000)
    wav("LJ002-0006", np.stack([tone, 0 * tone], 1))
    wav("LJ002-0008")
    cut = root / "wavs" / "LJ002-0008.wav"
    cut.write_bytes(cut.read_bytes()[:20000])
    (root / "wavs" / "LJ002-0009.wav").write_bytes(b"")
    wav("LJ002-0010", np.where(np.arange(len(tone)) == 999, np.nan, tone), subtype="FLOAT")
    wav("LJ002-0011", 0 * tone)
    return root


def test_what_is_read_mended_and_left_out(source, tmp_path):
    clips, refused, told = made("ljspeech", source.parent, tmp_path / "out", max_bad=0.6)
    assert refused == {
        "LJ002-0001": "malformed row", "LJ002-0004": "empty text", "LJ002-0007": "no wav",
        "LJ002-0008": "truncated", "LJ002-0009": "unreadable", "LJ002-0010": "NaN",
        "LJ002-0011": "silent", "LJ001-0001": "duplicate id", "LJ009-0001": "no transcript"}
    assert {id: clip["mended"] for id, clip in clips.items() if clip["mended"]} == {
        "LJ002-0003": ["normalised text missing: the raw one"],
        "LJ002-0005": ["sound of 16000 Hz"]}
    assert clips["LJ001-0001"]["text"] == "The 1th."  # the first of the two
    assert clips["LJ002-0002"]["text"] == 'he said "stop, and'
    samples, _ = soundfile.read(source / "wavs" / "LJ001-0003.wav", dtype="int16")
    np.testing.assert_array_equal(clips["LJ001-0003"]["audio"], samples)
    assert abs(len(clips["LJ002-0005"]["audio"]) - round(1.2 * RATE)) <= 1
    assert np.abs(clips["LJ002-0006"]["audio"] - clips["LJ001-0006"]["audio"]).max() <= 1
    assert [clip["split"] for clip in clips.values()].count("valid") == told["clips of valid"] >= 1
    assert told["left out: NaN"] == 1 and told["splits by a hash of the id"] == 17


def test_filelists_decide_about_splits_and_held_out_stays_so(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for name, ids in (("train", (1, 2, 3)), ("val", (4, 3)), ("test", (5,))):
        (lists / f"ljs_audio_text_{name}_filelist.txt").write_text(
            "".join(f"DUMMY/LJ001-{k:04d}.wav|text\n" for k in ids))
    clips, refused, told = made("ljspeech", source, tmp_path / "out", filelists=str(lists),
                                text="raw", max_bad=0.9)
    assert {id[-1]: clip["split"] for id, clip in clips.items()} == {
        "1": "train", "2": "train", "3": "valid", "4": "valid", "5": "test"}
    assert clips["LJ001-0002"]["text"] == "Raw 2"
    assert refused["LJ001-0006"] == "in no filelist"
    assert told["in two filelists, held out"] == 1
    with pytest.raises(UserError, match="no filelists here"):
        ljspeech.corpus(source, filelists=str(tmp_path))


def test_the_whole_corpus_is_split_by_its_order(tmp_path):
    ids = [f"LJ{k // 300:03d}-{k % 300:04d}" for k in range(ljspeech.WHOLE)]
    (tmp_path / "metadata.csv").write_text("".join(f"{id}|a|a\n" for id in ids))
    found = ljspeech.corpus(tmp_path)
    assert {split: len(items) for split, items in found.items.items()} == {
        "train": 12500, "valid": 100, "test": 500}
    assert [item["id"] for item in found.items["test"]] == ids[-500:]
    assert found.told == {"splits by the owner's order": ljspeech.WHOLE}


def test_an_empty_table(tmp_path):
    (tmp_path / "metadata.csv").write_text("")
    (tmp_path / "wavs").mkdir()
    for name in ("LJ001-0001.wav", "._LJ001-0001.wav"):  # as macOS leaves it
        (tmp_path / "wavs" / name).touch()
    found = ljspeech.corpus(tmp_path)
    assert [(one["id"], one["defect"]) for one in found.items["train"]] == [
        ("LJ001-0001", "no transcript")]


def test_a_table_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "metadata.csv").write_bytes("LJ001-0001|café|café\n".encode("latin-1"))
    with pytest.raises(UserError, match="unreadable table.*line 1.*CP1252"):
        ljspeech.corpus(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(UserError, match="no table of clips"):
        ljspeech.corpus(tmp_path)
