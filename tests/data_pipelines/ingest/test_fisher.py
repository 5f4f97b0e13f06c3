"""Fisher in its owners' layout, with each defect planted; and what may be made of telephone
sound."""

import json

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.signal import mel, rates
from avjax.systems.api import Spec
from data_pipelines import extract, prepare
from data_pipelines.ingest.fisher import transcript
from data_pipelines.loading import loader
from data_pipelines.store import dataset as store
from data_pipelines.store.merge import Part
from tests.data_pipelines.ingest import fisher_tree
from tests.data_pipelines.ingest.fisher_tree import TALK, Tree, lines, sphere, voices
from tests.data_pipelines.ingest.reading import made

REFUSED = {
    "fe_03_00010": "no sound", "fe_03_00011": "no transcript", "fe_03_00012": "truncated",
    "fe_03_00013": "end before start", "fe_03_00014": "times past the end",
    "fe_03_00015": "not a line of a transcript", "fe_03_00016": "unknown speaker",
    "fe_03_00017": "not two channels", "fe_03_00018": "another sample rate",
    "fe_03_00019": "one channel twice", "fe_03_00020": "silent channel",
    "fe_03_00021": "duplicate call", "fe_03_00022": "only one speaks",
    "fe_03_00023": "unreadable", "fe_03_00024": "unreadable transcript"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = Tree(tmp_path_factory.mktemp("fisher"))
    tree.call("00001", pins=("1001", "2000"))
    tree.call("00005", [*TALK, (11.2, 11.2, "A", "bye")], pins=None)
    longer = [(a + shift, b + shift, *said) for shift in (0, 12, 24) for a, b, *said in TALK]
    tree.call("00006", longer, sound=sphere(voices(longer, 36)))
    # the owners' typo: 31.09 stands for 231.09
    late = [(231.09, 234.06, "A", "i see what you mean")]
    typo = lines([*TALK, *late]).replace("231.09", "31.09")
    tree.call("11487", text=fisher_tree.HEADER + typo, sound=sphere(voices([*TALK, *late], 236)))
    both, good = voices(TALK), sphere(voices(TALK))
    tree.call("00010", sound=b"")
    tree.call("00011", text="")
    tree.call("00012", sound=good[:-4000])
    tree.call("00013", [*TALK, (11.5, 11.2, "A", "bye")])
    tree.call("00014", [*TALK, (20.0, 21.0, "A", "bye")])
    tree.call("00015", text="#\n#\n\n" + lines(TALK) + "and then she left\n")
    tree.call("00016", [*TALK, (11.2, 11.5, "C", "bye")])
    tree.call("00017", sound=sphere(both[:1]))
    tree.call("00018", sound=sphere(both, rate=16000))
    tree.call("00019", sound=sphere([both[0], both[0]]))
    tree.call("00020", sound=sphere([both[0], 0 * both[1]]))
    tree.call("00021")
    tree.call("00021", [*TALK, (11.2, 11.5, "A", "bye")], year="2005")
    tree.call("00022", [u for u in TALK if u[2] == "A"])
    tree.call("00023", sound=b"nothing of this is sound" * 100)
    tree.call("00024", text=lines(TALK) + "11.00 11.50 A: café\n", encoding="latin-1")
    tree.tables()
    other = tree.root / "LDC2005T19/doc/fe_03_p2_calldata.tbl"
    other.parent.mkdir(parents=True)
    other.write_text("00001,,,,,1001,,,,,3000\n")
    return tree.root


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three calls without a defect: (folder, clips)."""
    tree = Tree(tmp_path_factory.mktemp("small"))
    for number in range(1, 4):
        tree.call(f"{number:05d}", pins=(f"{1000 + number}", "2000"))
    tree.tables()
    out = tmp_path_factory.mktemp("clips") / "small"
    made("fisher", tree.root, out)
    return tree.root, out


@pytest.fixture(scope="module")
def clips(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "fisher"
    return out, *made("fisher", tree, out, max_bad=0.9, valid_share=0.3, max_seconds=20.0)


def test_calls_are_clips_of_both_speakers(clips):
    _, found, _, _ = clips
    one = found["fe_03_00001-000000"]
    assert (one["speaker"], one["partner_speaker"]) == ("fisher1001", "fisher2000")
    assert one["text"] == ("fisher1001: hello how are you\n"
                           "fisher2000: i [fisher1001: mhm] am fine thanks\n"
                           "fisher1001: so th- what do you think of [laughter] cats\n"
                           "fisher2000: oh i like cats")
    assert one["mended"] == ["words that the transcribers were not sure of",
                             "marks left out of the transcript"]
    turns = [e for e in json.loads(one["events"]) if e["kind"] in ("turn", "backchannel")]
    assert [(e["kind"], e["speaker"], e["start"], e["end"]) for e in turns] == [
        ("turn", 0, 0.5, 2.5), ("turn", 1, 2.8, 4.5), ("backchannel", 0, 3.4, 3.8),
        ("turn", 0, 5.0, 8.0), ("turn", 1, 8.5, 11.0)]
    assert len(one["audio"]) == len(one["partner_audio"]) == 12 * 22050
    for prefix, speaker in (("", 0), ("partner_", 1)):  # each is loud in its own turns
        power = np.square(one[f"{prefix}audio"].astype(float)).reshape(-1, 735).mean(1)
        loud = power > power.max() / 100
        for turn in turns:
            inside = slice(round(turn["start"] * 30) + 1, round(turn["end"] * 30) - 1)
            if turn["speaker"] == speaker:
                assert loud[inside].all()
        assert loud.mean() < 0.6


def test_each_defect_is_named_and_one_is_mended(clips):
    out, found, refused, told = clips
    assert refused == REFUSED | {i: r for i, r in refused.items() if r == "nothing is said"}
    typo = {id: clip for id, clip in found.items() if id.startswith("fe_03_11487")}
    assert all("start of an utterance in session 11487" in c["mended"] for c in typo.values())
    assert sum("i see what you mean" in c["text"] for c in typo.values()) == 1
    last = next(c for c in typo.values() if "i see" in c["text"])
    (event,) = [e for e in json.loads(last["events"]) if e["kind"] == "turn"]
    assert event["end"] - event["start"] == pytest.approx(2.97)
    assert told["mended: start of an utterance in session 11487"] == len(typo)
    assert found["fe_03_00005-000000"]["speaker"] == "fe_03_00005.A"
    assert {"speaker not in the tables", transcript.INSTANTS} <= set(
        found["fe_03_00005-000000"]["mended"])
    assert told["calls of which tables name other speakers, the first taken"] == 1
    assert {c["split"] for c in found.values()} == {"train", "valid"}
    lines_of = [json.loads(x)["detail"] for x in out.with_name(
        "fisher.quarantine.jsonl").read_text().splitlines()]
    assert any("fe_03_00013.txt, line 14" in x for x in lines_of)


def test_a_table_that_is_none_is_one_line(tmp_path):
    (tmp_path / "x_calldata.tbl").write_text('00001,"' + "x" * 200_000)
    with pytest.raises(UserError, match="unreadable table.*x_calldata.tbl"):
        prepare.prepare("fisher", source=str(tmp_path), out=str(tmp_path / "out"), progress=False)


def test_long_calls_are_cut_where_nobody_speaks(clips):
    found = [c for id, c in clips[1].items() if id.startswith("fe_03_00006")]
    assert len(found) == 2 and sum(len(c["audio"]) for c in found) == 36 * 22050
    said = "".join(c["text"] for c in found)
    assert said.count("hello how are you") == said.count("oh i like cats") == 3


def test_two_processes_make_the_same(small, tmp_path):
    for index in (1, 0):
        prepare.prepare("fisher", source=str(small[0]), out=Part(tmp_path / "both", index, 2),
                        progress=False)
    parts, whole = (store.open_dataset(p) for p in (tmp_path / "both", small[1]))
    assert parts.splits == whole.splits
    for split in whole.splits:
        assert [r["text"] for r in parts.source(split)] == [r["text"] for r in whole.source(split)]


def test_text_and_units_are_made_of_it_and_no_sound(small, tmp_path):
    clips = small[1]
    features = extract.extract(clips, tmp_path / "tavid", features="tavid", video=0.0,
                               num_units=4, progress=False)
    example = features.source("train")[0]
    assert example["units"].shape[1] == 2 and len(example["tokens"]) and len(example["turns"])
    assert features.recipes["mel"]["native_rate"] == 8000
    mels = Spec(("batch", "time", 2, 80), "float32", "mel", rate=mel.FRAME_RATE,
                recipe=dict(mel.SPEECH))
    units = Spec(("batch", "time", 2), "int32", "units", rate=rates.UNITS)
    loader.check_features(features, {"units": units})
    with pytest.raises(UserError, match="telephone sound is not for a model that makes.*8000 Hz"):
        loader.check_features(features, {"mel": mels})
    for family in ("avflow", "talker"):
        with pytest.raises(UserError, match="telephone sound is not for what makes sound"):
            extract.extract(clips, tmp_path / family, features=family, progress=False)
        assert not (tmp_path / family).exists()
