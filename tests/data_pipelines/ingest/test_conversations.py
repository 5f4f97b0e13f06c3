"""Folders of conversations -> clips of both sides: the forms that people have, sound alone."""

import json

import numpy as np
import pytest
import soundfile

from avjax.errors import UserError
from data_pipelines import extract, prepare
from data_pipelines.store import dataset as store

RATE = 16000
SECONDS = 8.0
TURNS = ((0, 0.5, 2.0, "hello there my friend"), (1, 2.4, 4.0, "how are you"),
         (0, 4.5, 6.0, "quite well [noise] indeed"), (1, 6.4, 7.6, "so am I"))


def speech(seconds: float, seed: int) -> np.ndarray:
    """Noise with syllables, which no two seeds share."""
    count = round(seconds * RATE)
    noise = np.random.default_rng(seed).standard_normal(count)
    return 0.1 * noise * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE + seed))


def channels(turns=TURNS, seconds=SECONDS, speakers=2, noise=1e-4, seed=0) -> np.ndarray:
    """(N, speakers) of what each says, in a little noise of its own."""
    out = noise * np.random.default_rng(99).standard_normal((round(seconds * RATE), speakers))
    for k, (who, start, end, _) in enumerate(turns):
        part = speech(end - start, seed + 10 * who + k)
        out[round(start * RATE):round(start * RATE) + len(part), who] += part
    return out


def write(path, x) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, RATE)


def stm(path, names=("ann", "ben"), turns=TURNS) -> None:
    path.write_text("".join(f"talk 1 {names[who]} {start} {end} {text}\n"
                            for who, start, end, text in turns))


def run(source, out, **options):
    return prepare.prepare("conversations", source=source, out=out, progress=False, **options)


def clips(out, split="train") -> list[dict]:
    dataset = store.open_dataset(out)
    return list(dataset.source(split))


def refusals(out) -> dict[str, dict]:
    lines = out.with_name(f"{out.name}.quarantine.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def notes(out) -> dict[str, dict]:
    lines = out.with_name(f"{out.name}.conversations.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """One conversation in every form of sound alone, and the clips made of them."""
    folder = tmp_path_factory.mktemp("talks")
    x, source = channels(), folder / "source"
    write(source / "files" / "ann.wav", x[:, 0])
    write(source / "files" / "ben.wav", x[:, 1])
    stm(source / "files" / "talk.stm")
    write(source / "tracks" / "talk.wav", x[:, ::-1])  # ben's is the first channel
    stm(source / "tracks" / "talk.stm")
    write(source / "mixed" / "talk.wav", x.sum(1))
    stm(source / "mixed" / "talk.stm")
    write(source / "flat_ann.wav", x[:, 0])
    write(source / "flat_ben.wav", x[:, 1])
    write(source / "rooms" / "ann" / "audio.wav", x[:, 0])
    write(source / "rooms" / "ben" / "audio.wav", x[:, 1])
    (source / "rooms" / "ann" / "said.txt").write_text("hello there my friend quite well indeed")
    (source / "rooms" / "ben" / "said.txt").write_text("how are you so am I")
    run(source, folder / "out")
    return folder


def test_every_form_gives_the_same_channels(talks):
    rows = {row["id"]: row for row in clips(talks / "out") + clips(talks / "out", "valid")}
    expected = channels()
    for form in ("files", "tracks", "mixed", "flat", "rooms"):
        row = next(r for id, r in rows.items() if id.startswith(f"{form}-000000/0"))
        assert [row["speaker"], row["partner_speaker"]] == ["ann", "ben"], form
        heard = [row[f"{p}audio"].astype(float) for p in ("", "partner_")]
        for k, x in enumerate(heard):
            frames = np.arange(len(x) // 735)
            loud = (x[:len(frames) * 735].reshape(-1, 735) ** 2).mean(1) > 100.0**2
            true = expected[:round(len(frames) / 30 * RATE), k]
            own = np.interp(frames + 0.5, np.arange(len(true)) / RATE * 30, np.abs(true) > 0.02)
            assert np.corrcoef(loud, own > 0)[0, 1] > 0.6, (form, k)


def test_both_sides_are_clips(talks):
    first, second = (next(r for r in clips(talks / "out") if r["id"] == f"files-000000/{side}")
                     for side in (0, 1))
    assert [first["side"], second["side"]] == ["0", "1"]
    assert first["speaker"] == second["partner_speaker"] == "ann"
    np.testing.assert_array_equal(first["audio"], second["partner_audio"])
    assert first["events"] == second["events"] and len(first["audio"]) % 735 == 0


def test_what_is_said(talks):
    row = next(r for r in clips(talks / "out") if r["id"] == "files-000000/0")
    assert row["text"] == ("ann: hello there my friend\nben: how are you\n"
                           "ann: quite well indeed\nben: so am I")
    turns = [e for e in json.loads(row["events"]) if e["kind"] == "turn"]
    assert [(e["speaker"], e["start"]) for e in turns] == [(0, 0.5), (1, 2.4), (0, 4.5), (1, 6.4)]
    assert [e["kind"] for e in json.loads(row["events"])].count("gap") == 3
    assert "marks left out of the transcript" in json.loads(row["mended"])


def test_a_transcript_without_times_is_laid_over_the_speech(talks):
    row = next(r for r in clips(talks / "out") if r["id"] == "rooms-000000/0")
    assert "turns timed by voice activity" in json.loads(row["mended"])
    turns = [e for e in json.loads(row["events"]) if e["kind"] == "turn"]
    assert turns[0]["speaker"] == 0 and abs(turns[0]["start"] - 0.5) < 0.2
    assert row["text"] == ("ann: hello there my friend\nben: how are you\n"
                           "ann: quite well indeed\nben: so am I")


def test_channels_get_their_owners_by_the_transcript(talks):
    found = notes(talks / "out")
    assert "channel 1 is ben, 2 is ann, by the transcript's times" in found["tracks"]["notes"][0]
    assert found["mixed"]["mended"][0] == "one channel for all speakers: cut by the transcript's " \
                                          "times"


def test_of_five_conversations_the_last_is_held_out(talks):
    assert {r["id"].split("-")[0] for r in clips(talks / "out", "valid")} == {"tracks"}
    assert len({r["id"].split("-")[0] for r in clips(talks / "out")}) == 4


def test_of_one_conversation_the_end_is_held_out(tmp_path):
    x = channels()
    write(tmp_path / "s" / "talk.wav", x)
    stm(tmp_path / "s" / "talk.stm")
    run(tmp_path / "s", tmp_path / "out", max_seconds=4.0)
    trained, held = clips(tmp_path / "out"), clips(tmp_path / "out", "valid")
    assert [r["id"] for r in held if r["side"] == "0"] == ["talk-000134/0"]
    # from a silence on, with something of both
    assert held[0]["text"] == "ann: quite well indeed\nben: so am I"
    assert [r["text"] for r in trained if r["side"] == "0"] == [
        "ann: hello there my friend\nben: how are you"]
    assert max(len(r["audio"]) for r in trained) <= 4.0 * 22050


def test_the_same_again_is_nothing_to_do_and_other_content_is_refused(talks, tmp_path):
    before = (talks / "out" / "checksums.json").read_bytes()
    run(talks / "source", talks / "out")
    assert (talks / "out" / "checksums.json").read_bytes() == before
    with pytest.raises(UserError, match="overwrite"):
        run(talks / "source", talks / "out", max_seconds=3.0)


def test_units_of_speech_without_a_script(tmp_path):
    x = channels()
    write(tmp_path / "s" / "talk" / "ann.wav", x[:, 0])
    write(tmp_path / "s" / "talk" / "ben.wav", x[:, 1])
    run(tmp_path / "s", tmp_path / "clips")
    made = extract.extract(tmp_path / "clips", tmp_path / "features", features="tavid", video=0.0,
                           num_units=8, progress=False)
    assert "tokens" not in made.features and "units" in made.features
    with pytest.raises(UserError, match="script"):
        extract.extract(tmp_path / "clips", tmp_path / "more", features="tavid", video=0.0,
                        num_units=8, scripts="needed", progress=False)


def test_who_says_nothing_in_a_clip_keeps_the_voice(talks, tmp_path):
    """Of clips of one turn each, the other's channel is all zeros."""
    x = channels(noise=0.0)
    write(tmp_path / "s" / "talk.wav", x)
    stm(tmp_path / "s" / "talk.stm")
    run(tmp_path / "s", tmp_path / "clips", max_seconds=2.5)
    assert any(not r["partner_audio"].any() for r in clips(tmp_path / "clips"))
    made = extract.extract(tmp_path / "clips", tmp_path / "features", features="tavid", video=0.0,
                           num_units=8, max_bad=0.0, progress=False)
    rows = list(made.source("train"))
    assert len(rows) == 2 and np.isfinite([r["voices"] for r in rows]).all()


def test_talkers_examples_are_turns(talks):
    made = extract.extract(talks / "out", talks / "talker", features="talker", vocabulary=300,
                           placeholder="speech",
                           progress=False)
    rows = {r["id"]: r for r in made.source("train")}
    assert rows["files-000000/0.0"]["text"] == "hello there my friend"
    assert rows["files-000000/1.1"]["text"] == "so am I"
    assert len(rows["files-000000/1.1"]["audio"]) == 35  # 1.4 s at 25 Hz
    assert {r["speaker"] for r in rows.values()} == {"ann", "ben"}


def test_more_speakers(tmp_path):
    speakers = 3
    turns = [(k % speakers, 0.2 + k, 0.9 + k, f"this is turn {k}") for k in range(12)]
    x = channels(turns, 12.5, speakers)
    names = ("ann", "ben", "cleo")
    for k, name in enumerate(names):
        write(tmp_path / "s" / "talk" / f"{name}.wav", x[:, k])
    stm(tmp_path / "s" / "talk" / "talk.stm", names, turns)
    run(tmp_path / "s", tmp_path / "clips")
    rows = [r for r in clips(tmp_path / "clips") if r["id"].startswith("talk-000000")]
    assert [r["speaker"] for r in rows] == list(names)
    assert rows[1]["partner_speaker"] == "ann" and rows[2]["partner2_speaker"] == "ben"
    made = extract.extract(tmp_path / "clips", tmp_path / "features", features="tavid", video=0.0,
                           num_units=8, progress=False)
    assert made.features["units"].shape == (None, speakers)
