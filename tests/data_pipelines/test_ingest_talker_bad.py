"""What of Talker-T2AV-Data is refused: bad rows one by one, unsafe files, and data sets that cannot
be used."""

import io
import os
import pickle
import re
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.ingest.talker import prepare as talker
from data_pipelines.media.tar_tree import TarTree, clean
from tests.data_pipelines.talker_tree import (
    COLUMNS,
    add,
    half,
    lay_out,
    prepare,
    refusals,
    rows_of,
    tone,
    torch_file,
    wav_bytes,
)

NAN_MOTION = half(50)

NAN_MOTION[17, 3] = np.nan



class System:
    def __reduce__(self):
        return os.system, ("touch executed",)


BAD = {  # case -> (changed cells, changed files, reason, words of the detail)
    "no id": ({"sample_id": " "}, {}, "no id", "sample_id"),
    "empty text": ({"text": " \t"}, {}, "empty text", "nothing to speak"),
    "missing wav": ({"wav_path": "audio/gone.wav"}, {}, "missing wav", "no audio/gone.wav"),
    "no wav named": ({"wav_path": ""}, {}, "missing wav", "names none"),
    "missing motion": ({"motion_pt_path": "motion/gone.pt"}, {}, "missing motion",
                       "no motion/gone.pt"),
    "fps": ({"fps": "29.97"}, {}, "fps not 25", "29.97"),
    "fps is no number": ({"fps": "fast"}, {}, "fps not 25", "fast"),
    "traversal": ({"wav_path": "audio/../../secret.wav"}, {}, "unsafe path", "leads out"),
    "absolute": ({"motion_pt_path": "/etc/passwd"}, {}, "unsafe path", "/etc/passwd"),
    "wrong width": ({}, {"motion": torch_file(half(50, 39))}, "wrong width", r"\(50, 39\)"),
    "NaN motion": ({}, {"motion": torch_file(NAN_MOTION)}, "NaN", "frame 17"),
    "NaN sound": ({}, {"audio": wav_bytes(np.r_[tone(50), np.nan], subtype="FLOAT")}, "NaN",
                  "sample"),
    "sound too long": ({}, {"audio": wav_bytes(tone(53))}, "lengths differ",
                       "50 frames of motion, 53.00 of sound"),
    "sound half a frame too long": ({}, {"audio": wav_bytes(tone(52.5))}, "lengths differ",
                                    "52.50 of sound"),
    "sound too short": ({}, {"audio": wav_bytes(tone(46.5))}, "lengths differ", "46.50 of sound"),
    "short": ({}, {"audio": wav_bytes(tone(7)), "motion": torch_file(half(7))}, "too short",
              "7.00 frames"),
    "broken zip": ({}, {"motion": torch_file(half(50))[:2000]}, "unreadable motion", "zip"),
    "not a zip": ({}, {"motion": b"hello" * 20}, "unreadable motion", "hello"),
    "integers": ({}, {"motion": torch_file(np.ones((50, 40), np.int16), width="Short")},
                 "unreadable motion", "int16"),
    "a list": ({}, {"motion": torch_file(half(1), pickle.dumps([1, 2], 2))}, "unreadable motion",
               "list"),
    "malicious": ({}, {"motion": torch_file(half(50), pickle.dumps(System(), 2))}, "unsafe motion",
                  r"(posix|nt)\.system"),
    "not a wav": ({}, {"audio": b"RIFFnothing else here"}, "unreadable wav", "audio/"),
    "cut wav": ({}, {"audio": wav_bytes(tone(50))[:-9000]}, "truncated wav", "bytes of samples"),
    "two of one id": ({"sample_id": "good"}, {}, "duplicate id", "same sample_id"),
}



@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_by_name_and_the_others_are_kept(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells, changed, reason, words = BAD[case]
    bad = dict(zip(COLUMNS, ("bad", "mini", "train", "hello", "audio/bad.wav", "motion/bad.pt", "",
                             "50", "25"),
                   strict=True)) | cells
    good = [dict(zip(COLUMNS, (n, "mini", split, "hello", "audio/good.wav", "motion/good.pt", "",
                               "", ""), strict=True))
            for n, split in (("good", "train"), ("held", "valid"))]
    files = {f"{kind}/{name}.{suffix}": data for name in ("good", "bad") for kind, suffix, data in
             (("audio", "wav", wav_bytes(tone(50))), ("motion", "pt", torch_file(half(50))))}
    files |= {f"{kind}/bad.{'wav' if kind == 'audio' else 'pt'}": data for kind,
              data in changed.items()}
    summary = prepare(lay_out(tmp_path / "data", files, [*good, bad]), tmp_path / "out",
                      progress=True)
    assert rows_of(tmp_path / "out").keys() == {"good", "held"}
    assert summary["refused"] == {reason: 1} and summary["train"] == summary["valid"] == 1
    (name, (found, detail)), = refusals(tmp_path / "out").items()
    assert (name, found) == (bad["sample_id"].strip(), reason)
    assert re.search(words, detail)
    assert sum(reason in line and "line 4" in line
               for line in capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "executed").exists()


def test_a_few_frames_of_motion_from_a_tiny_file_do_not_fill_the_memory(tmp_path):
    number = lambda n: b"J" + struct.pack("<i", n)  # noqa: E731
    whole = torch_file(half(1))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = archive.read("clip/data.pkl").replace(
            number(1) + number(40) + b"\x86" + number(40) + number(1),
            number(2**30) + number(40) + b"\x86" + number(0) * 2)
    with pytest.raises(talker.BadRow, match="1073741824, 40"):
        talker.rows_of.motion_of(torch_file(half(1), pickled), "m.pt")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip/data.pkl", b"")
        archive.writestr("clip/data/0", bytes(10**7))
    with pytest.raises(talker.BadRow, match="many times its size"):
        talker.rows_of.motion_of(out.getvalue(), "m.pt")


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
    assert {member for _, member, _ in tree.refused} == {"../outside.wav", "/absolute.pt",
                                                         "audio/link.wav", "audio/hard.wav",
                                                         "audio/device.wav"}
    assert tree.read("audio/link.wav") is None and tree.read("outside.wav") is None
    # the last one, as if extracted
    assert len(talker.rows_of.motion_of(tree.read(f"motion/{name}.pt"), "m")) == 9
    table = [*files[1], files[1][1] | {"sample_id": "by link", "wav_path": "audio/link.wav"}]
    shutil.rmtree(root)
    root = lay_out(tmp_path / "data", files[0], table)
    with tarfile.open(root / "shards" / "audio-00000.tar", "a") as tar:
        add(tar, "audio/link.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    prepare(root, tmp_path / "out")
    found = refusals(tmp_path / "out")
    assert found["by link"][0] == "missing wav" and found["audio/link.wav"][
        0] == "unsafe tar member"


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
    "no statistics": "statistics missing.*--statistics=DIR",
    "pickled statistics": "unreadable motion statistics",
    "statistics of another width": r"\(39,\)", "no csv": "no table of clips",
    "columns": "columns missing.*motion_pt_path", "empty csv": "no rows",
    "not UTF-8": "unreadable table", "unknown split": "unknown split.*line 2.*'mixed'",
    "one row": "nothing left to train on", "cut shard": "damaged shard.*audio-00000",
    "compressed shard": "damaged shard",
    "damaged header": "damaged shard.*not a member's header",
    "bad rows": "too many bad rows.*at most 50% of 5.*3 x missing motion",
    "bad valid": "no usable clip.*where: valid",
}.items())
def test_a_data_set_that_cannot_be_used_is_one_error(files, tmp_path, how, words):
    root = lay_out(tmp_path / "data", *files)
    spoil(root, how)
    with pytest.raises(UserError, match=words) as error:
        prepare(root, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert (tmp_path / "out.quarantine.jsonl").exists() == how.startswith("bad ")
