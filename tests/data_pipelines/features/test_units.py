"""Units of any speech: one speaker or several a recording, by one process or two, for TAVID's text
stage, and beside published ones."""

import json

import numpy as np
import pytest

from avjax.encoders import units as unit_library
from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.systems.tavid.text.rows import TextRows
from data_pipelines import extract
from data_pipelines.features.common.clips import to_float
from data_pipelines.features.units import extract as family
from data_pipelines.features.units import published
from data_pipelines.store import columns
from data_pipelines.store import dataset as store
from data_pipelines.store.merge import Part
from launch.jobs.units import take_out

RATE, UNITS = 8000, 12
OPTIONS = dict(features="units", num_units=UNITS, max_bad=0.5, progress=False)
rng = np.random.default_rng(0)


def voice(seconds, loud=3000):
    """Noise in bursts, so that there is silence too."""
    x = rng.normal(size=round(seconds * RATE)) * loud
    return (x * (np.sin(np.arange(len(x)) / 900) > -0.5)).astype(np.int16)


def clip(id, audio, text="So it is.", words=()):
    return {"id": id, "text": text, "speaker": "ann", "identity": columns.identity_of("ann"),
            "words": json.dumps(words), "audio": audio}


def write(out, train, partner=False):
    features = {k: v for k, v in columns.of_clip().items() if k != "mended"}
    features |= columns.of_speaker(audio=RATE)
    features |= columns.of_speaker("partner_", audio=RATE) if partner else {}
    return store.write_dataset(out, name="clips", description="for tests", features=features,
                               splits={"train": train}, recipes={}, progress=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    words = [["so", 0.1, 0.3], ["is", 0.5, 0.8]]
    rows = [clip(f"a{i}", voice(0.9 + 0.3 * i), words=words * (i < 3)) for i in range(5)]
    rows += [clip("short", voice(0.039)), clip("nothing", voice(0.0)),
             clip("silent", voice(1.0, loud=0))]
    return write(tmp_path_factory.mktemp("units") / "clips", rows)


@pytest.fixture(scope="module")
def made(clips, tmp_path_factory):
    return extract.extract(clips.dir, tmp_path_factory.mktemp("units") / "u", tokens="characters",
                           **OPTIONS)


def rows(dataset):
    return {row["id"]: row for row in dataset.source("train")}


def test_units_of_whole_recordings_at_any_rate(clips, made):
    encoder = unit_library.from_recipe(made.recipes["units"], made.codec("units"))
    found, originals = rows(made), rows(clips)
    assert list(found) == ["a4", "a3", "a2", "a1", "a0"]  # the longest first
    for id, row in found.items():
        audio = resampled(to_float(originals[id]["audio"]), RATE, 16000)
        np.testing.assert_array_equal(row["units"][:, 0], encoder([audio])[0])
        assert row["speaker"] == "ann" and row["words"] == originals[id]["words"]
        np.testing.assert_array_equal(row["identity"], originals[id]["identity"])
    left_out = (made.dir.parent / "u.quarantine.jsonl").read_text()
    assert "too short" in left_out and '"silent"' in left_out
    assert made.recipes["units"]["arrays"] and made.recipes["units"]["level"]


def test_two_parts_make_the_same(clips, made, tmp_path, monkeypatch):
    monkeypatch.setattr(family, "ITEM_SECONDS", 1.0)  # several items
    parts = [extract.extract(clips.dir, Part(tmp_path / "u", k, 2), tokens="characters", **OPTIONS)
             for k in (1, 0)]
    assert parts[0] is None
    for a, b in zip(made.source("train"), parts[1].source("train"), strict=True):
        assert a["id"] == b["id"]
        np.testing.assert_array_equal(a["units"], b["units"])


def test_a_killed_job_goes_on(clips, made, tmp_path, monkeypatch):
    monkeypatch.setattr(family, "ITEM_SECONDS", 1.0)
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)  # a shard an item
    encoded, whole = [], family._examples

    def interrupted(recordings, split, indices, *rest):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(list(indices))
        return whole(recordings, split, indices, *rest)

    monkeypatch.setattr(family, "_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract.extract(clips.dir, tmp_path / "u", tokens="characters", **OPTIONS)
    assert not (tmp_path / "u").exists()
    first = sum(encoded, [])
    encoded[:] = ["again"]
    monkeypatch.setattr(family, "_examples", lambda *a: encoded.append(list(a[2])) or whole(*a))
    again = extract.extract(clips.dir, tmp_path / "u", tokens="characters", **OPTIONS)
    assert not set(first) & set(sum(encoded[1:], []))  # finished shards were not made again
    assert [r["id"] for r in again.source("train")] == [r["id"] for r in made.source("train")]


def test_tavid_s_text_stage_learns_from_one_speaker(made):
    vocabulary = made.recipes["tokens"]["vocab"]
    builder = TextRows(tokens=64, frames=200, streams=1, vocabulary=vocabulary, num_units=UNITS,
                       filler=0, single_share=0.5, fill=0.5, filler_seconds=1.0, filler_weight=0.2)
    for id, row in rows(made).items():
        (turn,) = row["turns"]
        assert turn[:3].tolist() == [0, 0, len(row["tokens"])] and (row["token_speaker"] == 0).all()
        # the times of the words where they are known
        expected = [5, 40] if id in ("a0", "a1", "a2") else [0, len(row["units"])]
        assert np.abs(turn[3:5] - expected).max() <= 2
        built = builder.build([row], np.random.default_rng(0))
        assert built["units_length"] > 30 and built["tokens_length"] == len(row["tokens"])


def test_like_another_dataset(clips, made, tmp_path):
    more = write(tmp_path / "more", [clip("b0", voice(1.1), text="It is so. Zzz!")])
    found = extract.extract(more.dir, tmp_path / "u", like=made.dir, **OPTIONS)
    assert found.recipes == made.recipes  # so they can be mixed
    encoder = unit_library.from_recipe(made.recipes["units"], made.codec("units"))
    audio = resampled(to_float(rows(more)["b0"]["audio"]), RATE, 16000)
    take_out(str(made.dir), str(tmp_path / "fitted.npy"))  # as `avjax weights export` does
    np.testing.assert_array_equal(np.load(tmp_path / "fitted.npy"), encoder.centroids_KD)
    np.testing.assert_array_equal(rows(found)["b0"]["units"][:, 0], encoder([audio])[0])
    with pytest.raises(UserError, match="one unit for silence is for mel units.*random"):
        extract.extract(more.dir, tmp_path / "v", silence_db=50.0,
                        **OPTIONS | {"unit_encoder": "random"})
    with pytest.raises(UserError, match="centroids twice"):
        extract.extract(more.dir, tmp_path / "v", like=made.dir, centroids="c.npy", **OPTIONS)
    with pytest.raises(UserError, match="a dataset without units"):
        extract.extract(more.dir, tmp_path / "v", like=clips.dir, **OPTIONS)


def test_dialogues_have_a_stream_a_speaker(tmp_path):
    own, other = voice(2.0), voice(2.0)
    both = clip("d", own, text="[0] Hi. [1] Yes.") | {
        f"partner_{k}": v for k, v in clip("d", other).items() if k not in ("id", "text")}
    both["partner_speaker"] = "bob"
    dialogues = write(tmp_path / "clips", [both], partner=True)
    found = rows(extract.extract(dialogues.dir, tmp_path / "u", tokens="characters", **OPTIONS))
    assert found["d"]["units"].shape == (100, 2) and found["d"]["partner_speaker"] == "bob"
    assert set(found["d"]["token_speaker"]) == {-1, 0, 1} and len(found["d"]["turns"]) == 2


@pytest.mark.parametrize("form", ["textless", "resynthesis", "runs"])
def test_published_units_are_compared(made, tmp_path, form):
    file, lines = tmp_path / "units.txt", []
    for id, row in rows(made).items():
        units = row["units"][:, 0].copy()
        units[10] = (units[9:12].max() + 1) % UNITS + 20  # another one
        if form == "runs":
            units = units[np.flatnonzero(np.diff(units, prepend=-1))]
        text = " ".join(map(str, units))
        written = str if form == "runs" else json.dumps
        lines.append(f"{id}|{text}" if form == "textless" else
                     written({"audio": f"wavs/{id}.wav", "hubert": text, "duration": None}))
    file.write_text("\n".join([*lines, "other|1 2 2 3"[:None if form == "textless" else 0]]))
    said = published.compared(made, published.read(file)).splitlines()
    agree, of = (int(n) for n in said[-1].split()[1:4:2])
    assert of - 15 <= agree <= of - 5 and said[-1].startswith("agree: ") and len(said) == 6
    if form != "runs":
        assert agree == of - 5 == sum(len(r["units"]) for r in rows(made).values()) - 5
    assert ("runs of equal units once" in said[-1]) == (form == "runs")


def test_published_units_that_break_off(made, tmp_path):
    file = tmp_path / "units.txt"
    first = rows(made)["a0"]["units"][:30, 0]
    file.write_text("a0|" + " ".join(map(str, [*first, "..."])))
    assert "agree: 30 of 30 (100.0 %)" in published.compared(made, published.read(file))
    for text, words in (("", "no published units"), ("a0 1 2", "another form.*a0 1 2"),
                        ("a0|1 x", "another form"), ("{'audio': open('x')}", "another form"),
                        ("{1, 2}", "another form"), ("{[1]: '2'}", "another form"),
                        ("{'audio': 'a', 'hubert': [1.5]}", "another form"),
                        (f"a0|{2**64}", "another form"),
                        ("a0|1\na0|2", "a recording twice"), ("a0|-1", "another form")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            published.read(file)
    file.write_text("LJ003-0001|5884 2411")
    with pytest.raises(UserError, match="no recording with published units.*LJ003-0001.*a4"):
        published.compared(made, published.read(file))


def test_what_cannot_be_asked_for(clips, tmp_path):
    for options, words in (({"normalise": "perhaps"}, "unknown normalise"),
                           ({"unit_encoder": "nowhere.pt"}, "no such weights file"),
                           ({"centroids": "c.npy"}, "unknown unit_encoder"),
                           ({"tokens": "nowhere.txt"}, "missing vocabulary")):
        with pytest.raises(UserError, match=words):
            extract.extract(clips.dir, tmp_path / "u", **OPTIONS | options)
        assert not (tmp_path / "u").exists()
