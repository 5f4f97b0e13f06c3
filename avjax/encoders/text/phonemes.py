"""Words -> phonemes with stress and the punctuation between them, by espeak-ng.

As the published text front-end has it (Matcha-TTS' english_cleaners2, which AV-Flow's release
uses): each stretch between marks is pronounced by itself, and the marks stay where they were. Words
in capitals stay so here, where that spells small letters: espeak-ng spells "BBC" and says "NASA".
"""

import re

from avjax.encoders import espeak_library
from avjax.encoders.text.symbols import MARKS

LANGUAGE = "en-us"
_STRETCH = re.compile(rf"([{re.escape(MARKS)}()\[\]{{}}\s]*[{re.escape(MARKS)}()\[\]{{}}]"
                      rf"[{re.escape(MARKS)}()\[\]{{}}\s]*)")
_FLAG = re.compile(r"\([a-z-]+\)")  # of a word in another language
# espeak-ng's joints of words, and marks of its own that are no sound
_JOINTS = re.compile(rf"[-_#^`{re.escape(MARKS)}()\[\]{{}}\u200d]")


def phonemes(text: str, language: str = LANGUAGE) -> str:
    """IPA of a normalised text: "hello, world." -> "həlˈoʊ, wˈɜːld."; "" where nothing is said.

    Raises UserError for a language that espeak-ng does not speak.
    """
    text = _small(text)
    pieces = _STRETCH.split(" ".join(text.split()))
    out = [re.sub(r"[()\[\]{}]", "", piece) if k % 2 else _said(piece, language)
           for k, piece in enumerate(pieces)]
    return " ".join("".join(out).split())


def _said(words: str, language: str) -> str:
    if not any(c.isalnum() for c in words):
        return ""
    return _JOINTS.sub("", _FLAG.sub("", espeak_library.phonemes(words, language))).strip()


def _small(text: str) -> str:
    """In small letters, except words in capitals where not all words are."""
    if text.upper() == text:
        return text.lower()
    return re.sub(r"\w+", lambda m: m[0] if len(m[0]) > 1 and m[0].isupper() else m[0].lower(),
                  text)
