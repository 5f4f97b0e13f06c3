"""Dialogues that cannot be TAVID's features are left out and told of, and nothing else is."""

import json
import types

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines import extract
from data_pipelines.features.common import painter, portraits
from data_pipelines.features.tavid import conversations, frozen_encoders, script
from data_pipelines.features.tavid import extract as tavid
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from tests.data_pipelines.features.dialogues import OPTIONS, SIZE, rewritten


def test_bad_channels_are_quarantined_and_nothing_else_is_lost(clips, features, folder, capsys):
    def spoil(i, r):
        if i == 0:
            r["audio"], r["partner_audio"] = r["partner_audio"], r["audio"]
        elif i == 2:
            r["audio"] = np.zeros_like(r["audio"])
        elif i == 4:
            r["partner_audio"] = r["partner_audio"][:-5000]
        return r

    bad = rewritten(folder / "bad", clips, spoil)
    with pytest.raises(UserError, match="nothing usable.*train.*1 x channels swapped, 1 x silent "
                                        "channel, 1 x lengths differ"):
        extract.extract(bad.dir, folder / "none", features="tavid", **OPTIONS)
    assert not (folder / "none").exists() and not (folder / ".none.partial").exists()

    def mixed(i, r):
        if i == 2:
            r["audio"] = r["partner_audio"] = r["audio"] // 2 + r["partner_audio"] // 2
        return spoil(i, r) if i == 0 else r

    some = rewritten(folder / "some", clips, mixed)
    with pytest.raises(UserError, match="too many unusable examples.*at most 20%.*channels "
                                        "swapped.*max_bad"):
        extract.extract(some.dir, folder / "strict", features="tavid", max_bad=0.2, video=0.0,
                        **OPTIONS)
    with pytest.MonkeyPatch.context() as patch:  # what was made is not made again
        patch.setattr(tavid, "_examples", lambda *args: 1 / 0)
        kept = extract.extract(some.dir, folder / "strict", features="tavid", max_bad=0.7,
                               video=0.0, **OPTIONS)
    assert list(kept.source("train").ids) == ["dialogue-train-00002/0"]
    told = [json.loads(line)
            for line in (folder / "strict.quarantine.jsonl").read_text().splitlines()]
    assert [(t["split"], t["id"], t["reason"]) for t in told[:2]] == [
        ("train", "dialogue-train-00000/0", "channels swapped"),
        ("train", "dialogue-train-00001/0", "one channel twice")]
    assert "ben" in told[0]["detail"] or "ada" in told[0]["detail"] or "cleo" in told[0]["detail"]
    assert "left out" in capsys.readouterr().err


def test_whatever_a_dialogue_does_is_its_own_matter(clips, monkeypatch):
    source = frozen_encoders.Source(clips, ("", "partner_"), None)
    clip = source.clip("train", 0)
    with pytest.raises(store.Unusable, match="cannot be extracted.*JSONDecodeError"):
        source.record(clip | {"events": "[["})
    monkeypatch.setattr(tavid, "_of_recording", lambda record,
                        *a: {} if record.clip["id"] != clip["id"] else 1 / 0)
    monkeypatch.setattr(tavid, "_of_piece", lambda *a: {})

    class Units:
        num_units = 1

        def __call__(self, channels):
            return [np.zeros(len(a) // 320, np.int32) for a in channels]

    encoders = types.SimpleNamespace(units=Units())
    first, second = tavid._examples(source, "train", source.indices("train")[:2], encoders, 0.0,
                                    60.0)
    assert isinstance(first, store.Unusable) and first.id == clip["id"]
    assert "ZeroDivisionError" in str(first)
    assert second == {"id": clips.source("train").ids[source.indices("train")[1]]}
    monkeypatch.setattr(tavid, "_of_recording", lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        tavid._examples(source, "train", source.indices("train")[:1], encoders, 0.0, 60.0)


def test_portraits_without_one_face_are_quarantined(clips, folder, monkeypatch):
    def record(i, r):
        shade = np.uint8(40 + 30 * i)
        pictures = np.full((len(r["face"]), 48, 48, 3), shade)
        pictures[:, :, :, 0] = np.arange(len(pictures))[:, None, None] % 256  # a picture's number
        face = np.full((200, 200, 3), 250 if i == 2 else 90 + 9 * i, np.uint8)
        return r | {"pictures": pictures, "partner_pictures": pictures, "portrait": face,
                    "partner_portrait": face}

    columns = {f"{p}pictures": Feature((None, 48, 48, 3), "uint8", "video", "", 30.0)
               for p in ("", "partner_")}
    columns |= {f"{p}portrait": Feature((200, 200, 3), "uint8", "picture")
                for p in ("", "partner_")}
    filmed = rewritten(folder / "filmed", clips, record, columns)
    with pytest.raises(UserError, match="no portrait is usable"):  # nobody is seen in grey
        extract.extract(filmed.dir, folder / "grey", features="tavid", **OPTIONS)

    def find(picture, kind):
        assert kind == "recorded"
        return [(50.0, 50.0, 100.0, 100.0)] * (2 if picture.mean() > 200 else 1)

    monkeypatch.setattr(portraits, "find", find)
    made = extract.extract(filmed.dir, folder / "seen", features="tavid", **OPTIONS)
    told = [json.loads(line)
            for line in (folder / "seen.quarantine.jsonl").read_text().splitlines()]
    assert [(t["id"], t["reason"]) for t in told if t["split"] == "train"] == [
        ("dialogue-train-00001/0", "a portrait with several faces")]
    assert made.splits["train"] == 2 and made.recipes["portraits"] == {"kind": "recorded",
                                                                       "size": SIZE, "rate": 25}
    look = painter.Painter(filmed, SIZE)
    numbers = look.pictures(next(iter(filmed.source("train"))), "", np.arange(20) / 25)[:, 0, 0, 0]
    assert (np.abs(numbers - np.arange(20) * 30 / 25) <= 0.5).all()  # the nearest in time


def test_a_dialogue_that_cannot_be_cut_is_told_of():
    turns = tuple(script.Turn(k % 2, "words", k > 0, (), k * 3.0, k * 3.0 + 3.5) for k in range(6))
    spoken = script.Script(turns, ("a", "b"))
    record = conversations.Conversation({}, ("a", "b"), (), spoken, 20 * 25)
    found = list(conversations.pieces(record, 10.0))
    assert len(found) == 1 and isinstance(found[0], store.Unusable) and "no" in str(found[0])
    last = turns[5]
    gap = script.Turn(1, "words", False, (), last.start + 1, last.end + 1)
    record = conversations.Conversation({}, ("a", "b"), (),
                                        script.Script((*turns[:2], gap), ("a", "b")), 22 * 25)
    first, second = conversations.pieces(record, 12.0)
    assert (first.start, second.end) == (0, 550)
    assert first.end == second.start == round((6.5 + 16) / 2 * 25)
    assert second.script.turns[0].start == pytest.approx(16 - second.start / 25)
