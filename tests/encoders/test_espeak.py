import numpy as np
import pytest

from avjax.encoders import espeak
from avjax.errors import UserError

SENTENCE = "My happy brother, people say, buys nine purple boats!"


def test_speech_does_not_depend_on_what_was_said_before():
    first = espeak.synthesize(SENTENCE)
    espeak.synthesize("Something else entirely, loud and long.", pitch=(150, 220), formants=92,
                      rate=190)
    again = espeak.synthesize(SENTENCE)
    assert np.array_equal(first.audio, again.audio) and first.phonemes == again.phonemes
    assert not np.array_equal(first.audio, espeak.synthesize(SENTENCE, formants=92).audio)


def test_alignment_covers_the_audio_and_finds_the_words():
    spoken = espeak.synthesize(SENTENCE)
    starts, ends = ([p[i] for p in spoken.phonemes] for i in (1, 2))
    assert starts[0] == 0 and abs(ends[-1] - spoken.duration) < 1e-9
    np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-9)
    assert all(b > a for a, b in zip(starts, ends, strict=True))
    assert [w for w, _,
            _ in spoken.words] == "My happy brother people say buys nine purple boats".split()
    assert [s for s, _, _ in spoken.phonemes if s in espeak.PHRASES] == [",", ",", "!"]
    assert spoken.audio.dtype == np.int16 and np.abs(spoken.audio).max() > 3000


def test_pitch_and_rate_are_obeyed():
    slow, fast = (espeak.synthesize(SENTENCE, rate=r).duration for r in (130, 190))
    assert slow > 1.2 * fast


def test_classes():
    assert espeak.classes_of("ˈaɪ") == ("a", "ɪ") and espeak.classes_of("tʃ") == ("tʃ",)
    assert espeak.classes_of("ɔːɹ") == ("ɔ",
                                        "ɹ") and espeak.classes_of("n̩") == (
                                            "n",) and espeak.classes_of(".") == ()
    assert espeak.stress_of("ˈaɪ") == 1 and espeak.stress_of("ˌaɪ") == 0.5 and espeak.stress_of(
        "p") == 0
    with pytest.raises(UserError, match="sound"):
        espeak.classes_of("ǂ")


def test_features_follow_the_phonemes():
    phonemes = [("_", 0.0, 0.2), ("b", 0.2, 0.3), ("ˈaɪ", 0.3, 0.5), ("?", 0.5, 0.8)]
    x_NC = espeak.phone_features(phonemes, 40)
    assert x_NC.shape == (40, espeak.WIDTH) == (40, 53) and x_NC.dtype == np.float32
    column = {c: i for i, c in enumerate((*espeak.CLASSES, *espeak.PROSODY))}
    classes = x_NC[:, :len(espeak.CLASSES)]
    np.testing.assert_allclose(classes.sum(1), 3.0, atol=1e-5)  # one-hot, or two that cross-fade
    assert (classes.argmax(1)[:10] == 0).all() and (classes.argmax(1)[10:15] == column["b"]).all()
    a, i = x_NC[15:25, column["a"]], x_NC[15:25, column["ɪ"]]
    assert (np.diff(a) < 0).all() and (np.diff(i) > 0).all()
    assert (x_NC[10:40, column["phrase ?"]] > 0).all() and not x_NC[:9, column["phrase ?"]].any()
    assert x_NC[:, column["beat"]].argmax() == 15
    assert (np.diff(x_NC[10:25, column["position"]]) > 0).all()


@pytest.mark.parametrize("bad", ["", "   ", "?!... --", "♪♪", "word " * 2000])
def test_unspeakable_text_is_refused(bad):
    with pytest.raises(UserError, match="text|speakable"):
        espeak.synthesize(bad)


@pytest.mark.parametrize("odd", ["Dr. Smith paid $3.50 at 10:45!", "well-known o'clock",
                                 "Wait... what?!", "naïve café", "abc; def: ghi", "A",
                                 "\"Quoted,\" she said (twice)."])
def test_odd_text_is_spoken(odd):
    spoken = espeak.synthesize(odd)
    assert spoken.duration > 0.6 and spoken.words


@pytest.mark.parametrize("mark", ",;:.?!")
def test_the_pauses_of_the_recipe_are_those_that_are_made(mark):
    pauses = espeak.RECIPE["pauses"]
    made = [(t1 - t0, symbol) for symbol, t0, t1 in espeak.synthesize(f"One{mark} two.").phonemes
            if symbol in pauses]
    assert made[0] == (pytest.approx(pauses.get(mark, pauses[","]), abs=1e-4),
                       mark if mark in pauses else ",")
