"""Written text -> what a text-to-tokens network reads: spelled out, as phonemes, as places in the
table of symbols."""

import dataclasses

import numpy as np

from avjax.encoders import espeak, espeak_library
from avjax.encoders.plain_text import check_letters, plain
from avjax.encoders.text import normaliser, phonemes, symbols
from avjax.encoders.text.phonemes import LANGUAGE
from avjax.errors import UserError

# the letters of languages that are not written in Latin ones, by first words of Unicode names
_LETTERS = {
    **dict.fromkeys("ba be bg cv kaa kk ky mk nog ru sr tt uk tg".split(), ("CYRILLIC",)),
    **dict.fromkeys("ar fa sd ug ur".split(), ("ARABIC",)),
    **dict.fromkeys("hi kok mr ne".split(), ("DEVANAGARI",)),
    **dict.fromkeys("as bn bpy".split(), ("BENGALI",)),
    **dict.fromkeys("am ti".split(), ("ETHIOPIC",)), **dict.fromkeys(["el", "grc"], ("GREEK",)),
    **dict.fromkeys("cmn zh yue hak".split(), ("CJK",)),
    **dict.fromkeys("hy hyw".split(), ("ARMENIAN",)),
    "chr": ("CHEROKEE",), "gu": ("GUJARATI",), "he": ("HEBREW",),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"), "ka": ("GEORGIAN",),
    "kn": ("KANNADA",), "ko": ("HANGUL",), "ml": ("MALAYALAM",), "my": ("MYANMAR",),
    "or": ("ORIYA",), "pa": ("GURMUKHI",), "shn": ("MYANMAR",), "si": ("SINHALA",),
    "ta": ("TAMIL",), "te": ("TELUGU",), "th": ("THAI",)}
RECIPE = {"kind": "symbols", "blanks": "interspersed",
          "phonemes": "espeak-ng 1.52, stress and punctuation", "table": len(symbols.RELEASED),
          "spelled_out": "NeMo 1.2 grammars of kitten-text-processing", "version": 1}


@dataclasses.dataclass(frozen=True)
class Spoken:
    """normalised: in words. phonemes: IPA with marks. ids: (2 n + 1,) int32 with blanks."""

    normalised: str
    phonemes: str
    ids: np.ndarray


def read(text: str, language: str = LANGUAGE, *, count: int = len(symbols.SYMBOLS)) -> Spoken:
    """What is said, and how.

    Args:
      text: as people write it.
      language: of espeak-ng.
      count: symbols of the model's table: 178 of released weights and of English.

    Raises:
      UserError: empty, too long, in letters that are not the language's, a language that espeak-ng
        does not speak, nothing to say, or a sound that the table lacks.
    """
    clean = " ".join(plain(text).split())
    if not clean:
        raise UserError("empty text", where="text", expected="a sentence", found=repr(text[:20]))
    if len(clean) > espeak.MAX_CHARACTERS:
        raise UserError("text too long", where="text", found=str(len(clean)),
                        expected=f"at most {espeak.MAX_CHARACTERS} characters",
                        hint="split it into sentences")
    language = language.lower()
    espeak_library.voice_of(language)
    # espeak-ng says Latin words by another voice
    check_letters(clean, ("LATIN", *_LETTERS.get(language.split("-")[0], ())))
    said = normaliser.normalised(clean, language)
    spoken = phonemes.phonemes(said, language)
    if not any(c.isalpha() for c in spoken):
        raise UserError("nothing to say", where="text", expected=f"words in {language}",
                        found=repr(clean[:40]))
    return Spoken(said, spoken, symbols.ids_of(spoken, count=count))


def recipe(language: str) -> dict:
    """Of the symbols of a language."""
    english = language.split("-")[0] == "en"
    return {**RECIPE, "language": language.lower(),
            **({} if english else {"table": len(symbols.SYMBOLS)})}
