"""Written text as a text-to-tokens network reads it: in words, phonemes and places in the table."""

import json
import pathlib

import numpy as np
import pytest

from avjax.encoders import espeak_library
from avjax.encoders.text import front_end, normaliser, phonemes, symbols
from avjax.errors import UserError

# phonemizer 3.4 after Matcha-TTS' english_cleaners2, run beside with the espeak-ng 1.52 of
# espeakng-loader: rows of LJSpeech (public domain) and sentences with every mark
PUBLISHED = json.loads((pathlib.Path(__file__).parents[1]
                        / "golden/english_phonemes.json").read_text("utf-8"))


def test_phonemes_are_the_published_ones():
    assert {text: phonemes.phonemes(text) for text in PUBLISHED} == PUBLISHED


def test_places_in_the_published_table():
    """Counted in the released table: Matcha-TTS' list of symbols."""
    assert len(symbols.RELEASED) == 178
    at = {c: symbols.RELEASED.index(c) for c in ["_", ";", " ", "A", "a", "ɑ", "ˈ", "ᵻ"]}
    assert at == {"_": 0, ";": 1, " ": 16, "A": 17, "a": 43, "ɑ": 69, "ˈ": 156, "ᵻ": 177}
    ids = symbols.ids_of("həlˈoʊ.", count=178)
    assert ids.tolist() == [0, 50, 0, 83, 0, 54, 0, 156, 0, 57, 0, 135, 0, 4, 0]
    assert ids.dtype == np.int32 and symbols.spelled(ids) == "həlˈoʊ."
    assert symbols.ids_of("'")[1] == 176  # it is there twice; the later counts


@pytest.mark.parametrize("written, said", [
    ("It cost $5.50 in 1999.", "It cost five dollars fifty cents in nineteen ninety nine."),
    ("£3.20, then €1,000,000", "three pounds twenty pence, then one million euros"),
    ("$3.5 million", "three point five million dollars"),
    ("March 3, 2021 at 10:30 a.m.", "march third, twenty twenty one at ten thirty AM."),
    ("12/25/2020 at 5 p.m.", "december twenty fifth twenty twenty at five PM."),
    ("on 4 July 1776", "on the fourth of july seventeen seventy six"),
    ("Jan. 5", "january fifth"),
    ("in the 1990s and the '80s", "in the nineteen nineties and the eighties"),
    ("from 1805 to 2007", "from eighteen oh five to two thousand seven"),
    ("At 17:45", "At seventeen forty five"),
    ("Dr. Smith, Mrs. Jones Jr. & Prof. Brown", "doctor Smith, missus Jones junior and professor "
                                                "Brown"),
    ("Baker St. is near St. Paul's.", "Baker street is near saint Paul's."),
    ("Smith & Co. Ltd.", "Smith and company limited."),
    ("vol. 2, No. 5, pp. 10-20", "volume two, number five, pages ten to twenty"),
    ("e.g. this, i.e. that, etc.", "for example this, that is that, et cetera."),
    ("No. He sat. Gen. Lee came.", "No. He sat. general Lee came."),
    ("-5°C or 23°F", "minus five degrees Celsius or twenty three degrees Fahrenheit"),
    ("5 km at 12 km/h", "five kilometers at twelve kilometers per hour"),
    ("65.5 kg, 1.75 m", "sixty five point five kilograms, one point seven five meters"),
    ("3 ft. 4 inches", "three feet four inches"),
    ("100 m², 2.5 MB/s", "one hundred square meters, two point five megabytes per second"),
    ("50% of 1/2", "fifty percent of one half"),
    ("1,234,567", "one million two hundred thirty four thousand five hundred and sixty seven"),
    ("the 21st and the 3rd", "the twenty first and the third"),
    ("version 2.0.1, 3.14", "version two point zero point one, three point one four"),
    ("www.example.com", "WWW dot example dot com"),
    ("john.doe@example.com", "john dot doe at example dot com"),
    ("Call 555-123-4567", "Call five five five, one two three, four five six seven"),
    ("#1 fan", "number one fan"),
    ("The dog's bone; it's \"his\".", "The dog's bone; it's \"his\"."),
])
def test_english_is_spelled_out(written, said):
    assert front_end.read(written).normalised == said


@pytest.mark.parametrize("language, written, said, spoken", [
    ("de", "Am 3. März, 25 km/h.", "Am dritter märz, fünf und zwanzig kilometer pro stunde.",
     "am dɾˈɪtɜ mˈɛɾts, fˈʏnf ʊnt tsvˈantsɪç kˌiːloːmˈeːtɜ pɾoː ʃtˈʊndə."),
    ("es", "¿A las 10:30?", "¿A las diez y media?", "¿a las ðjˈeθ i mˈeðja?"),
    ("nl", "5 euro", "5 euro", "vˈɛɪf ˈøːroː"),  # no grammar: espeak-ng's own rules
    ("fr-fr", "un bon weekend", "un bon weekend", "œ̃ bˈɔ̃ wiːkˈɛnd"),
    ("ru", "Привет, мир.", "Привет, мир.", "prʲivʲˈet, mʲˈir."),
])
def test_other_languages(language, written, said, spoken):
    read = front_end.read(written, language)
    assert (read.normalised, read.phonemes) == (said, spoken)
    assert symbols.spelled(read.ids) == spoken


def test_capitals_are_spelled_and_shouting_is_not():
    assert phonemes.phonemes("the BBC") == "ðə bˌiːbˌiːsˈiː"
    assert phonemes.phonemes("THE END") == phonemes.phonemes("the end")


def test_the_same_words_sound_the_same_in_any_order_of_languages():
    alone = phonemes.phonemes("one two")
    phonemes.phonemes("eins zwei", "de")
    espeak_library.speak("one.", (90, 130), 100, 150)
    assert phonemes.phonemes("one two") == alone


@pytest.mark.parametrize("text, language, message", [
    (" \u200b", "en-us", "empty text"),
    ("... !?", "en-us", "nothing to say; where: text; expected: words in en-us; found: '... !?'"),
    ("Say 你好.", "en-us", "character 5; expected: Latin letters; found: '你好', Chinese"),
    ("мир", "el", "expected: Greek or Latin letters; found: 'мир', Cyrillic"),
    ("hello", "en-uk", "expected: one of 152, such as en-us, en-gb"),
    ("word " * 1200, "en-us", "at most 5000 characters"),
])
def test_what_cannot_be_read(text, language, message):
    with pytest.raises(UserError) as caught:
        front_end.read(text, language)
    assert message in str(caught.value)


def test_a_sound_outside_the_models_table():
    with pytest.raises(UserError) as caught:
        front_end.read("un bon vin", "fr-fr", count=178)
    assert ("expected: one of the first 178 symbols; found: \u0303 (COMBINING TILDE); hint: train "
            "with config.system.symbols = 202") in str(caught.value)


def test_what_the_grammar_refuses_is_named(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError

    monkeypatch.setattr(normaliser._grammar("pt"), "normalize", refuse)
    with pytest.raises(UserError, match="cannot be spelled out; where: text, language pt"):
        front_end.read("25 reais", "pt-br")
