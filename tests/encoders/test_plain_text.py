"""Text as people type and paste it; where its sentences end; how words are counted."""

import itertools

import pytest

from avjax.encoders import espeak, sentences
from avjax.encoders.plain_text import check_letters, foreign, plain
from avjax.errors import UserError
from data_pipelines.features.talker import frontend
from data_pipelines.features.talker.tokenizer import Tokenizer
from data_pipelines.features.tavid.script import Script, Turn
from eval.metrics.intelligibility import words_of


@pytest.mark.parametrize("typed, expected", [
    ("don’t donʼt don‘t don`t", "don't don't don't don't"),
    ("“Well…” «so»", '"Well..." "so"'),
    ("\ufeffsoft\u00adhy\u200bphen\u2060s, non‑breaking", "softhyphens, non-breaking"),
    ("cafe\u0301 Müller naïve", "café Müller naïve"),
    ("Ａｂｃ，１２ ﬁne 𝐁old ٣", "Abc,12 fine Bold 3"),
    ("hi 👍🏽 👩‍👩‍👧 1️⃣ ♥", "hi 1"),
    ("5 € ½ x² 3×4 10°C", "5 € ½ x² 3×4 10°C"),
])
def test_plain(typed, expected):
    assert " ".join(plain(typed).split()) == expected
    assert plain(plain(typed)) == plain(typed)


@pytest.mark.parametrize("text, parts", [
    ("Dr. Smith met Mr. Jones at 5 p.m. on Jan. 3.", 1),
    ("He came at 5 p.m. Then he left.", 2),
    ("J. R. R. Tolkien and J. A. Hill wrote it. I like it.", 2),
    ("The U.S. Senate met in Washington, D.C. It was late.", 2),
    ("Pi is 3.14, e.g. here, i.e. there, etc. and so on.", 1),
    ("See www.example.com/a.html or me@x.org. Good!", 2),
    ("No. Never. It is No. 5, Fig. 3, p. 12, vs. 6 lbs. of tea.", 3),
    ("Wait... what? (He said \"yes.\") Then he went.", 4),
    ("i went home. then i slept. 'no!' she said", 4),
    ("I am I. You are you.", 2),
])
def test_sentences(text, parts):
    ends = sentences.split(text)
    assert len(ends) == parts and ends[-1] == len(text)
    assert all(text[end].isspace() for end in ends[:-1])
    assert len(Turn(0, text).sentences()) == parts
    assert Script((Turn(0, text),), ("Anna", "Ben")).text == f"Anna: {text}"


@pytest.mark.parametrize("text, marks", [
    ("Dr. Smith met Mr. Jones at 5 p.m. on Jan. 3.", "."),
    ("No. 5 vs. No. 6, approx. 3 cm. Mt. Everest is higher.", ",.."),
    ("Ann, Ph.D., lives here. Wait... what?", ",,..?"),
])
def test_points_that_end_nothing_make_no_pause(text, marks):
    spoken = espeak.synthesize(text)
    assert "".join(s for s, _, _ in spoken.phonemes if s in espeak.PHRASES) == marks
    inside = [t1 - t0 for s, t0, t1 in spoken.phonemes[1:-1] if s == espeak.SILENCE]
    assert max(inside, default=0) < 0.15
    times = [t for phoneme in spoken.phonemes for t in phoneme[1:]]
    assert min(b - a for a, b in itertools.pairwise(times)) > -1e-9
    assert times[-1] == pytest.approx(spoken.duration)


@pytest.mark.parametrize("text, letters, place", [
    ("你好，世界", "你好", 1), ("Say привет, please.", "привет", 5), ("مرحبا", "مرحبا", 1),
    ("καλημέρα", "καλημέρα", 1),
    # the last with a Cyrillic letter
    ("say हिन्दी", "हिन्दी", 5), ("한국어", "한국어", 1), ("mixеd", "е", 4),
])
def test_letters_that_the_voice_does_not_speak_are_refused(text, letters, place):
    with pytest.raises(UserError, match="not spoken") as error:
        espeak.synthesize(text)
    assert f"character {place};" in str(error.value) and letters in str(
        error.value) and "Latin" in str(error.value)
    with pytest.raises(UserError, match="not spoken"):
        check_letters(text, Tokenizer.fit(["Only English is known."]).scripts)


@pytest.mark.parametrize("text", ["Müller's naïve café in Łódź", "π r² is 5 µm",
                                  "hello 😀, I ♥ you ©"])
def test_lone_foreign_words_and_symbols_are_spoken(text):
    assert foreign(plain(text)) is None
    assert espeak.synthesize(text).words


def test_typographic_marks_change_no_speech_no_prompt_and_no_word():
    typed, same = "“Don’t — stop,” she\u00a0said…", "\"Don't — stop,\" she said..."
    assert espeak.synthesize(typed).words == espeak.synthesize(same).words
    talker = frontend.Encoder(Tokenizer.fit(["Hello there."]), None, None)
    assert talker.prompt(typed.replace("\u00a0", " ")).tolist() == talker.prompt(same).tolist()
    assert words_of("Don’t, donʼt, don`t: CAFÉ—Straße søster re\u00adturn ‘tis") == [
        *["don't"] * 3, "cafe", "strasse", "soster", "return", "tis"]


def test_a_corpus_in_other_letters_is_spoken_in_them():
    russian = Tokenizer.fit(["привет мир, как дела", "мир и привет, дела мира"] * 9)
    assert {"LATIN", "CYRILLIC"} == russian.scripts
