"""Conversations that cannot be used, or are mended: each with its reason, and nothing lost."""

import json

import cv2
import numpy as np
import pytest
import soxr

from avjax.encoders.voice_activity import Detector
from avjax.errors import UserError
from data_pipelines.ingest.conversations import checks, find, offsets, prepare, turns
from data_pipelines.ingest.conversations import said as transcribed
from data_pipelines.ingest.conversations import write as write_clips
from data_pipelines.media import write_media
from data_pipelines.media.transcripts import Said
from tests.data_pipelines.ingest.test_conversations import (
    RATE,
    SECONDS,
    TURNS,
    channels,
    clips,
    notes,
    refusals,
    run,
    stm,
    write,
)
from tests.data_pipelines.test_clips import detect, film

CLEAN = channels()


def pair(folder, first=CLEAN[:, 0], second=CLEAN[:, 1]) -> None:
    write(folder / "ann.wav", first)
    write(folder / "ben.wav", second)


def later(x, seconds: float) -> np.ndarray:
    """The recording, begun so many seconds earlier."""
    return np.concatenate([np.zeros(round(seconds * RATE)), x])


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder with a conversation for every fault, two good ones, and what was made of it."""
    folder = tmp_path_factory.mktemp("bad")
    source, rng = folder / "source", np.random.default_rng(5)
    pair(source / "good")
    pair(source / "good2")
    pair(source / "silent", second=np.zeros(len(CLEAN)))
    pair(source / "same", second=0.5 * CLEAN[:, 0])
    pair(source / "same2", second=-0.5 * later(CLEAN[:, 0], 0.02)[:len(CLEAN)])
    pair(source / "swapped", *CLEAN.T[::-1])
    stm(source / "swapped" / "talk.stm")
    pair(source / "long", second=later(CLEAN[:, 1], 1.5))
    write(source / "one" / "ann.wav", CLEAN[:, 0])
    for k in range(6):
        write(source / "six" / f"p{k}x.wav", CLEAN[:, 0])
    pair(source / "zero")
    (source / "zero" / "ben.wav").write_bytes(b"")
    pair(source / "stub")
    (source / "stub" / "ben.wav").write_bytes((source / "good" / "ben.wav").read_bytes()[:58])
    write(source / "unread" / "talk.wav", CLEAN)
    (source / "unread" / "talk.wav").write_bytes(b"")
    pair(source / "beside")
    write(source / "beside_cleo.wav", CLEAN[:, 0])
    write(source / "beside_dora.wav", CLEAN[:, 1])
    write(source / "like" / "talk.wav", CLEAN.sum(1))
    stm(source / "like" / "talk.stm", ("A!", "A?"))
    pair(source / "twice")
    write(source / "twice" / "ben.flac", CLEAN[:, 1])
    pair(source / "past")
    stm(source / "past" / "talk.stm", turns=(*TURNS, (0, 30.0, 31.0, "too late")))
    pair(source / "stranger")
    stm(source / "stranger" / "talk.stm", ("ann", "zoe"))
    write(source / "mono" / "talk.wav", CLEAN.sum(1))
    (source / "mono" / "talk.txt").write_text("ann: hello\nben: hi\n")
    pair(source / "brief", CLEAN[:RATE, 0], CLEAN[:RATE, 1])
    write(source / "three" / "talk.wav", channels([(k % 3, 0.5 + k, 1.2 + k, "") for k in range(6)],
                                                  speakers=3))
    leaked = CLEAN @ np.array([[1.0, 0.2], [0.2, 1.0]]) + 1e-4 * rng.standard_normal(CLEAN.shape)
    pair(source / "bleeding", *leaked.T)
    faint = CLEAN @ np.array([[1.0, 0.05], [0.05, 1.0]]) + 1e-4 * rng.standard_normal(CLEAN.shape)
    pair(source / "late", faint[:, 0], later(faint[:, 1], 0.25))
    (source / "empty").mkdir()
    told = run(source, folder / "out", max_bad=0.9, max_seconds=float("inf"))
    assert told["folders without media, not used"] == 1
    return folder


REASONS = {"silent": "silent channel", "same": "one channel twice", "same2": "one channel twice",
           "swapped": "channels swapped",
           "long": "lengths differ", "one": "one speaker", "six": "too many speakers",
           "zero": "unreadable", "stub": "truncated", "twice": "names that repeat",
           "past": "times past the end", "stranger": "unknown speaker",
           "mono": "one channel for all speakers", "unread": "unreadable",
           "beside": "names that repeat", "like": "names that repeat",
           "brief": "too short",
           "three": "another number of speakers"}


def test_each_fault_has_its_reason(bad):
    assert {id: row["reason"] for id, row in refusals(bad / "out").items()} == REASONS


def test_details_are_a_line_without_the_machines_folders(bad):
    for row in refusals(bad / "out").values():
        assert "\n" not in row["detail"] and str(bad) not in row["detail"], row["detail"]
        assert f"where: {row['id']}" in row["detail"]


def test_bleed_is_told_and_kept(bad):
    found = notes(bad / "out")["bleeding"]
    assert "bleed louder than -20 dB" in found["mended"]
    assert any("ann is heard at -14 dB" in note for note in found["notes"]), found["notes"]


def test_an_offset_is_measured_and_corrected(bad):
    found = notes(bad / "out")["late"]
    assert found["mended"][0] == "offset corrected"
    assert "-250 ms" in found["notes"][0] and "corrected" in found["notes"][0]
    row = next(r for s in ("train", "valid") for r in clips(bad / "out", s)
               if r["id"].startswith("late-"))
    good = next(r for s in ("train", "valid") for r in clips(bad / "out", s)
                if r["id"].startswith("good-"))
    x, y = (r["partner_audio"][:4 * 22050].astype(float) for r in (row, good))
    # to half a sample of 8 kHz, which noise does not forgive
    assert max(np.corrcoef(np.roll(x, k), y)[0, 1] for k in range(-3, 4)) > 0.75


def test_too_much_that_is_bad_ends_the_job_and_a_second_try_goes_on(tmp_path, monkeypatch):
    pair(tmp_path / "s" / "good")
    pair(tmp_path / "s" / "silent", second=np.zeros(len(CLEAN)))
    with pytest.raises(UserError, match="1 of 2: 1 x silent channel"):
        run(tmp_path / "s", tmp_path / "out", max_bad=0.1)
    assert not (tmp_path / "out").exists() and refusals(tmp_path / "out")["silent"]
    monkeypatch.setattr("data_pipelines.ingest.conversations.read._heard", None)  # decodes no more
    run(tmp_path / "s", tmp_path / "out", max_bad=0.5)
    assert len(clips(tmp_path / "out")) == 2 and not (tmp_path / ".out.decoded").exists()


@pytest.mark.parametrize("files, message", [((), "no conversations here"),
                                            (("notes.txt",), "no conversations here"),
                                            (("a/ann.wav",), "one speaker")])
def test_folders_without_a_conversation(tmp_path, files, message):
    for name in files:
        write(tmp_path / "s" / name, CLEAN[:, 0]) if name.endswith("wav") else (
            tmp_path / "s").mkdir() or (tmp_path / "s" / name).write_text("ann: hello")
    (tmp_path / "s").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "s", tmp_path / "out")


def test_faces(tmp_path):
    """Two videos beside a file of two channels, whose owners their own sound tells; a video of
    nobody, pictures longer than their sound, and one without a video are left out."""
    def record(path, frames, x):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_media.write_mp4(path, frames, 25, x, RATE)

    seconds, (a, b) = 4.0, CLEAN[:round(4.0 * RATE)].T
    frames, source = film(seconds), tmp_path / "s"
    record(source / "talk" / "ann.mp4", frames, a)
    record(source / "talk" / "ben.mp4", frames, b)
    write(source / "talk" / "talk.wav", np.stack([b, a], 1))
    record(source / "nobody" / "ann.mp4", frames, a)
    record(source / "nobody" / "ben.mp4", film(seconds, people=0), b)
    record(source / "half" / "ann.mp4", frames, a)
    write(source / "half" / "ben.wav", b)
    run(source, tmp_path / "out", detect=detect, components=4, size=32, max_bad=0.9)
    found = refusals(tmp_path / "out")
    assert {id: row["reason"] for id, row in found.items()} == {
        "nobody": "no face", "half": "a face that is not there"}
    assert "channel 1 is ben, 2 is ann, by the sound of the videos" in \
        notes(tmp_path / "out")["talk"]["notes"][-1]
    first, second = clips(tmp_path / "out")
    count = len(first["audio"]) // 735
    assert first["pictures"].shape == first["partner_pictures"].shape == (count, 32, 32, 3)
    assert second["partner_pictures"].shape == (0, 32, 32, 3)
    assert first["face"].shape == (count, 4) and first["pose"].shape == (count, 7)
    true = soxr.resample(a, RATE, 22050)[:len(first["audio"])]
    assert np.corrcoef(true, first["audio"])[0, 1] > 0.9


def test_a_portrait_has_eyes_and_mirrors_itself(monkeypatch):
    rng = np.random.default_rng(0)
    half, noise = rng.uniform(0, 160, (32, 16, 3)), rng.uniform(0, 90, (32, 32, 3))
    crops = np.array([np.hstack([half, half[:, ::-1]]) + k / 3 * noise
                      for k in (3, 1, 0, 2)]).astype(np.uint8)  # the third mirrors itself most
    looked = []
    for eyes, chosen, looks in ({0, 3}, 3, 3), ({0, 1, 2, 3}, 2, 1), ((), 2, 4):
        looked.clear()
        monkeypatch.setattr(write_clips, "_has_eyes", lambda grey, eyes=eyes: looked.append(
            grey) or any((cv2.cvtColor(crops[k], cv2.COLOR_RGB2GRAY) == grey).all() for k in eyes))
        np.testing.assert_array_equal(write_clips.portrait(crops), crops[chosen])
        assert len(looked) == looks


def test_pictures_of_another_length_than_the_sound(tmp_path):
    x = CLEAN[:, 0]
    for name, seconds in (("ann", SECONDS), ("ben", SECONDS - 1.5)):
        (tmp_path / "s" / "talk").mkdir(parents=True, exist_ok=True)
        write_media.write_mp4(tmp_path / "s" / "talk" / f"{name}.mp4", film(seconds), 25)
        write(tmp_path / "s" / "talk" / f"{name}.wav", x if name == "ann" else CLEAN[:, 1])
    with pytest.raises(UserError, match="lengths differ"):
        run(tmp_path / "s", tmp_path / "out", detect=detect)


def test_offsets_are_believed_only_where_something_leaks():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6 * RATE)).astype(np.float32)
    assert not offsets.measure(a, b, RATE).known
    shifted = np.roll(a, -round(0.3 * RATE))
    found = offsets.measure(a, b + 0.1 * shifted, RATE)
    assert found.known and abs(found.seconds - 0.3) < 1e-3


def test_a_clock_that_goes_slower_is_noticed():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(60 * 8000).astype(np.float32)
    slow = np.interp(np.arange(len(a)) * (1 - 5e-5), np.arange(len(a)), a).astype(np.float32)
    assert abs(offsets.measure(a, slow, 8000).drift + 5e-5) < 1e-5


def test_bleed_of_channels_with_nothing_in_common_is_unknown():
    audio = list(channels(noise=1e-3).T.astype(np.float32))
    assert np.isnan(checks.bleed(audio, checks.apart(audio))).all()


def test_small_turns_inside_anothers_are_back_channels():
    found = turns.events([(0, "we went to the", 0.0, 2.0), (1, "yeah", 1.0, 1.4),
                          (0, "river", 2.3, 3.0), (1, "nice", 3.5, 4.0)])
    assert [(e["kind"], e["speaker"], e["text"]) for e in found if "text" in e] == [
        ("turn", 0, "we went to the river"), ("backchannel", 1, "yeah"), ("turn", 1, "nice")]
    assert {e["kind"] for e in found} == {"turn", "backchannel", "overlap", "pause", "gap"}


@pytest.mark.parametrize("said, kept", [("well [noise] yes", "well yes"), ("[cough]", ""),
                                        ("<laugh> ha", "[laughter] ha"), ("a ] b", "a b"),
                                        ("...", "")])
def test_marks_of_transcripts(said, kept):
    assert turns.spoken(said)[0] == kept


def test_folders_in_a_conversation_are_speakers_or_kinds(tmp_path):
    for name in ("a/ann/mic.wav", "a/ben/mic.wav", "b/audio/ann.wav", "b/audio/ben.wav",
                 "c/one/ann.wav", "c/one/ben.wav"):
        write(tmp_path / name, CLEAN[:10, 0])
    found = {one.id: one for one in find.find(tmp_path)}
    assert [[s.label for s in found[id].speakers] for id in "ab"] == 2 * [["ann", "ben"]]
    assert found["c"].reason == "names that repeat" and "a folder in it one speaker" in \
        found["c"].details["hint"]


def test_umlauts_and_spaces(tmp_path):
    """Of files' names and transcripts', in one piece or, as macOS has it, in two."""
    write(tmp_path / "s" / "Größe und Maß" / "Anna Lena.wav", CLEAN[:, 0])
    write(tmp_path / "s" / "Größe und Maß" / "Jo\u0308rg.wav", CLEAN[:, 1])
    (tmp_path / "s" / "Größe und Maß" / "Gespräch.txt").write_text(
        "Anna Lena: eins zwei\nJörg: drei\nanna lena: vier\nJo\u0308rg: fünf\n")
    run(tmp_path / "s", tmp_path / "out")
    rows = clips(tmp_path / "out")
    assert [r["speaker"] for r in rows] == ["Anna_Lena", "Jörg"]
    assert rows[0]["text"] == "Anna_Lena: eins\nJörg: drei"


@pytest.mark.parametrize("out, options, message", [
    ("s/good/out", {}, "among a conversation's files"), ("out", {"speakers": 1}, "two speakers")])
def test_options_that_cannot_be(tmp_path, out, options, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "s", tmp_path / out, **options)


def test_names():
    assert find.named("talk1", "user") == "talk1.user" and find.named("talk1", "Ann") == "Ann"
    assert len(find.clean("x" * 99)) == 40
    assert json.loads(json.dumps(prepare.CHECKS)) == prepare.CHECKS


def test_words_of_nobody_are_told_of():
    said = [Said(name, "so it is", start, start + 1.0)
            for name, start in (("ann", 0.0), (None, 1.0), ("ben", 2.0))]
    silence = np.zeros(3 * 22050, np.float32)
    told = transcribed.told(said, ("ann", "ben"), [silence, silence], 0.0, 3.0, Detector())
    assert told.mended == (transcribed.UNNAMED,) and len(told.utterances) == 2
    assert not transcribed.told(said[::2], ("ann", "ben"), [silence] * 2, 0.0, 3.0,
                                Detector()).mended
