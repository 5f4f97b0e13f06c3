"""Scripts of dialogues, the tokens made of them, and portraits: what is understood, and one line
for what is not."""

import cv2
import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.features.common import portraits
from data_pipelines.features.tavid import script
from data_pipelines.features.tavid.tokenizer import DialogueTokenizer
from data_pipelines.media import faces
from data_pipelines.puppets import dialogue, identities, render
from data_pipelines.puppets import text as puppet_text

SCRIPT = """
# two friends
Anna: I went home [Ben: yeah] and slept.   [laughter]
Ben+ : But I thought, no?
anna: Sure [BEN: oh, really]. I did. It was late.
"""
NAMES = ("Anna", "Ben")
VOCAB = ("[PAD]", "[UNK]", "i", "went", "home", "yeah", "and", "sl", "##ept", ".", ",", "?", "but",
         "thought", "no", "sure")


def test_a_script_is_read_and_written_again(tmp_path):
    path = tmp_path / "talk.txt"
    path.write_bytes(b"\xef\xbb\xbf" + SCRIPT.replace("\n", "\r\n").encode())
    said = script.read(path)
    assert said == script.parse(SCRIPT) == script.parse(said.text,
                                                        names=NAMES) and said.names == NAMES
    assert [(t.speaker, t.overlap, t.pieces, [(b.speaker, b.text) for b in t.backchannels])
            for t in said.turns] == [
        (0, False, ["I went home", "and slept. [laughter]"], [(1, "yeah")]),
        (1, True, ["But I thought, no?"], []),
        (0, False, ["Sure", ". I did. It was late."], [(1, "oh, really")])]
    assert said.text.splitlines()[0] == "Anna: I went home [Ben: yeah] and slept. [laughter]"
    other = script.parse(SCRIPT, names=("Ben", "Anna"))
    assert other.names == ("Ben", "Anna") and [t.speaker for t in other.turns] == [1, 0, 1]
    assert script.parse("Ada: a [Eve: b] c\nBo: d").names == ("Ada", "Eve",
                                                              "Bo"), "in the order of speaking"
    assert not said.part(1, 3).turns[0].overlap and said.part(1, 3).names == NAMES
    pieces = said.turns[2].sentences()
    assert [(t.text, [b.text for b in t.backchannels]) for t in pieces] == [
        ("Sure.", ["oh, really"]), ("I did.", []), ("It was late.", [])]


@pytest.mark.parametrize("text, names, message", [
    ("Anna: Hi.\nAnna: Anyone?", (), "a script with one speaker.*only Anna speaks"),
    ("Anna: Hi.\nAnna: Anyone?", NAMES, "one speaker"),
    ("Anna: Hi.\nBob: Hi.", NAMES, "unknown speaker.*line 2.*Anna or Ben.*'Bob'"),
    ("Anna: Hi [Bob: hm] you.\nBen: Hi.", NAMES, "unknown speaker.*line 1.*'Bob'"),
    ("Anna: Hi.\nBen:  ", (), "an empty turn.*line 2.*Ben"),
    ("Anna: Hi.\nBen: ...", (), "an empty turn.*line 2"),
    ("Anna: Hi [Ben: ] there.\nBen: Hi.", (), "an empty turn.*line 1.*Ben"),
    ("Anna: Hi.\nBen: Hi.", (*NAMES, "Eve"), "never speaks.*Eve"),
    ("Anna: Hi.\nBen: Hi.", ("Anna", "anna"), "a name twice"),
    ("Anna: Hi.\nBen: Hi.", ("Anna",), "one speaker.*--speakers"),
    ("Anna: Hi.\nand more\nBen: Hi.", (), "not a turn.*line 2.*'and more'"),
    ("Anna: Hi [yeah].\nBen: Hi.", (), "brackets that mean nothing.*line 1"),
    ("Anna: Hi [Ben: yeah.\nBen: Hi.", (), "brackets that mean nothing.*line 1"),
    ("Anna: Hi [Anna: yeah].\nBen: Hi.", (), "back-channel in one's own turn.*line 1"),
    ("Anna+: Hi.\nBen: Hi.", (), "overlap with nobody.*line 1.*first turn"),
    ("Anna: Hi.\nAnna+: So.\nBen: Hi.", (), "overlap with nobody.*line 2.*own turn"),
    ("\n# nothing\n", (), "an empty script"),
])
def test_one_line_for_a_script_that_cannot_be(text, names, message):
    with pytest.raises(UserError, match=message) as error:
        script.parse(text, names=names)
    assert "\n" not in str(error.value)


def test_files_that_are_no_scripts(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00Anna")
    for path in (tmp_path / "x.txt", tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match=f"unreadable script.*{path.name}"):
            script.read(path)


def test_tokens_say_who_speaks_and_where_turns_lie():
    said = script.parse(SCRIPT)
    letters = DialogueTokenizer.fit([x.text for t in said.turns for x in (t, *t.backchannels)])
    made = letters.encode(said)
    assert letters.decode(made.tokens) == (
        "[spka] i went home [backchannel] [spkb] yeah [spka] and slept. [laughter] [spkchange] "
        "[partialoverlap] [spkb] but i thought, no? [spkchange] [spka] sure [backchannel] [spkb] "
        "oh, really [spka] . i did. it was late.")
    assert made.tokens.dtype == made.token_speaker.dtype == made.turns.dtype == np.int32
    assert not made.unknown
    shown = [letters.decode(made.tokens[a:b]) for _, a, b, *_ in made.turns]
    assert shown[1:3] == ["[backchannel] [spkb] yeah",
                          "[spkb] but i thought, no?"] and shown[0].endswith("[laughter]")
    assert made.turns[:, [0, 5]].tolist() == [[0, 0], [1, 1], [1, 0], [0, 0],
                                              [1, 1]] and not made.turns[:, 3:5].any()
    for who, a, b, *_, kind in made.turns:
        mine = made.token_speaker[a:b] == who
        assert mine.all() if kind else mine[0] and mine[-1]
    nobody = made.tokens[made.token_speaker == -1]
    assert letters.decode(nobody) == "[spkchange] [partialoverlap] [spkchange]"
    again = DialogueTokenizer.from_codec(letters.recipe, letters.arrays())
    assert again.recipe == letters.recipe and (again.encode(said).tokens == made.tokens).all()
    assert "marks" in letters.recipe and max(letters.recipe["marks"].values(
        )) == letters.vocabulary - 1
    assert letters.encode(script.parse("Anna: Quiz?\nBen: Ünder.")).unknown == ("q", "z")
    assert "[spkchange]" not in letters.decode(letters.encode(script.Script(said.turns[2:] * 2,
                                                                            NAMES)).tokens)


def test_published_wordpieces_and_phonemes(tmp_path):
    said = script.parse(SCRIPT)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    pieces = DialogueTokenizer.from_file(tmp_path / "vocab.txt", speakers=3)
    made = pieces.encode(said)
    assert pieces.decode(made.tokens).startswith("[spka] i went home [backchannel] [spkb] yeah "
                                                 "[spka] and slept . [laughter]")
    assert pieces.recipe["marks"]["[laughter]"] == len(VOCAB) and pieces.vocabulary == len(
        VOCAB) + 7 and "[UNK]" in made.unknown
    assert DialogueTokenizer.from_codec(pieces.recipe,
                                        pieces.arrays()).encode(
                                            said).tokens.tolist() == made.tokens.tolist()
    sounds = DialogueTokenizer.fit(kind="phonemes")
    made = sounds.encode(said)
    assert not made.unknown and sounds.decode(made.tokens).startswith(
        "[spka] aɪ wɛnt hˈoʊm [backchannel] [spkb] jˈɛh. [spka] ænd slˈɛpt. [laughter] [spkchange]")
    for wrong, message in ((lambda: DialogueTokenizer.from_file(tmp_path / "no.txt"),
                            "missing vocabulary"),
                           (lambda: DialogueTokenizer.from_codec({}, None), "missing tokenizer"),
                           (lambda: DialogueTokenizer.fit(kind="letters"), "not fitted"),
                           (lambda: sounds.encode(script.parse("A: a.\nB: b.\nC: c.")),
                            "too many speakers.*at most 2")):
        with pytest.raises(UserError, match=message):
            wrong()


def test_puppets_scripts_know_their_times():
    rng = np.random.default_rng(3)
    who = list(identities.identities(3, 0).items())[:2]
    talk = dialogue.converse(who, [puppet_text.opening(rng), *puppet_text.sentences(5, rng)], rng)
    names = tuple(n for n, _ in who)
    said = script.of_puppet(talk.text, talk.events, names=names,
                            words=[c.words for c in talk.channels])
    starts = [t.start for t in said.turns]
    assert len(said.turns) == 6 and starts == sorted(starts) and any(t.backchannels
                                                                     for t in said.turns)
    for before, turn in zip(said.turns[:-1], said.turns[1:], strict=True):
        assert turn.overlap == (turn.start < before.end)
    assert any(t.overlap for t in said.turns) and not all(t.overlap for t in said.turns[1:])
    # back-channels stand between the words that were said before and after them
    for turn in said.turns:
        begun = [w[1] for w in talk.channels[turn.speaker].words if turn.start - 1e-3
                 <= w[1] < turn.end]
        for small in turn.backchannels:
            assert len(turn.text[:small.at].split()) == sum(w < small.start for w in begun)
    untimed = script.of_puppet(talk.text, names=names)
    assert [t.text for t in untimed.turns] == [t.text for t in said.turns]
    assert script.parse(said.text, names=names).text == said.text
    turns = DialogueTokenizer.fit(kind="phonemes").encode(said).turns
    assert (np.diff(turns[:, 3]) >= 0).all()
    assert (turns[:, 4] > turns[:, 3]).all()
    assert turns[:, 4].max() <= 50 * talk.duration
    part = said.part(2, 4, origin=said.turns[2].start)
    assert part.turns[0].start == 0 and part.turns[1].end == pytest.approx(said.turns[3].end
                                                                           - said.turns[2].start)


def test_a_portrait_shows_one_face_and_is_framed_as_in_training():
    people = list(identities.identities(12, 1).values())
    recipe = {"kind": "puppet", "size": 64, "zoom": 1.2}
    for person in people:
        given = render.portrait(person, 256)
        made = portraits.prepared(given, recipe, "a.png")
        assert made.shape == (64, 64, 3) and made.dtype == np.uint8
        trained = render.portrait(person, 64, zoom=1.2).astype(float)
        unchecked = portraits.prepared(given, recipe, "", checked=False)
        assert np.abs(made - trained).mean() < 0.4 * np.abs(unchecked - trained).mean()
    framed = render.portrait(people[0], 64, zoom=1.2)
    np.testing.assert_array_equal(portraits.prepared(framed, recipe, "a.png"), framed)
    two = np.concatenate([render.portrait(p, 256) for p in people[:2]], axis=1)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for picture, message in ((two, "several faces.*a.png.*found: 2.*crop"),
                             (two * 0 + 230, "without a face.*a.png"),
                             (noise, "without a face.*unchecked"),
                             (framed[:50, :50], "portrait too small")):
        with pytest.raises(UserError, match=message):
            portraits.prepared(picture, recipe, "a.png")


def test_photographs_are_searched_by_the_cascade(monkeypatch):
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8),
                               (0, 0), 4)
    recipe, found = {"kind": "recorded", "size": 64}, []
    monkeypatch.setattr(faces, "detector", lambda: lambda grey: found)
    for boxes, message in (([], "without a face"),
                           ([(10.0, 10, 90, 90), (300.0, 9, 70, 70)], "several faces.*found: 2")):
        found[:] = boxes
        with pytest.raises(UserError, match=message):
            portraits.prepared(picture, recipe, "a.png")
    found[:] = [(300.0, 200.0, 100.0, 100.0), (20.0, 20.0, 30.0, 30.0)]  # a small one is chance
    made = portraits.prepared(picture, recipe, "a.png")
    part = cv2.resize(picture[250 - 75:250 + 75, 350 - 75:350 + 75], (64, 64),
                      interpolation=cv2.INTER_AREA)
    assert np.corrcoef(made.ravel(), part.ravel())[0, 1] > 0.98
    assert portraits.prepared(picture, recipe, "a.png", checked=False).shape == (64, 64, 3)


def test_portraits_that_are_no_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(b"")
    for name, message in (("a.png", "unreadable portrait"), ("b.png", "unreadable portrait"),
                          ("c.png", "no such portrait")):
        with pytest.raises(UserError, match=f"{message}.*{name}"):
            portraits.read(tmp_path / name)
