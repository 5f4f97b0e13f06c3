"""Text as people type and paste it -> the characters that front-ends and recognisers know.

One apostrophe, one double quote, one hyphen; no invisible characters; no emoji.
Accents stay: "café" is spoken as it is written. `foreign` finds what a voice cannot speak.
"""

import itertools
import re
import unicodedata
from collections.abc import Collection

from avjax.errors import UserError

_ALIKE = {
    **dict.fromkeys("’‘‛ʼʻ`´＇", "'"),
    **dict.fromkeys("“”„‟«»＂", '"'),
    **dict.fromkeys("‐‑", "-"),
    "…": "...",
    "\u00ad": "",  # a soft hyphen
    "\u2044": "/",
}
# of emoji's category, but spoken in running text; currency and arithmetic have others
_SPOKEN = "°©®℗"
_CALLED = {"CJK": "Chinese", "HANGUL": "Korean", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}
_LIKE_LATIN = ("MICRO", "FEMININE", "MASCULINE", "SCRIPT", "MODIFIER", "KELVIN", "ANGSTROM", "OHM")
_ALIKE_TABLE = str.maketrans(_ALIKE)


def plain(text: str) -> str:
    """Composed (NFC), with the plain form of quotes, hyphens, dots, letters and digits that are
    drawn in other ways; without format characters and emoji. Whitespace stays. Idempotent."""
    text = unicodedata.normalize("NFC", text).translate(_ALIKE_TABLE)
    return text if text.isascii() else "".join(map(_plain_character, text))


def _plain_character(c: str) -> str:
    category = unicodedata.category(c)
    if category in ("Cf", "Cn", "Co") or "\ufe00" <= c <= "\ufe0f":
        return ""  # marks of direction, joiners, variants
    symbol = category == "So" and c not in _SPOKEN
    if category == "Me" or "\U0001f3fb" <= c <= "\U0001f3ff" or symbol:
        return " "
    if category == "Nd":
        return str(unicodedata.digit(c))
    drawn = unicodedata.normalize("NFKC", c)
    # Ligatures, full width and mathematical letters; not a superscript 2, which is spoken
    # otherwise.
    return drawn if drawn.isascii() and (drawn.isalpha() or "\uff00" <= c <= "\uffef") else c


def foreign(text: str, scripts: Collection[str] = ("LATIN",)) -> tuple[int, str, str] | None:
    """The first letters in none of the scripts: (their place, the letters, their script), or None.

    A lone Greek letter, as in formulas, is none. Scripts are first words of Unicode names.
    """
    for word in re.finditer(r"[^\W\d_]+", text):
        of = [_script(c) if c.isalpha() else "NONE" for c in word[0]]  # no letter: a superscript 2
        first = next((i for i, name in enumerate(of) if name not in (*scripts, "NONE")), None)
        if first is not None and of != ["GREEK"]:
            start = word.start() + first
            run = itertools.takewhile(lambda c: _of_a_word(c) and _script(c) not in scripts,
                                      text[start:])
            return start, "".join(run), of[first]
    return None


def check_letters(text: str, scripts: Collection[str] = ("LATIN",), where: str = "text") -> None:
    """UserError for letters of a script that is not spoken, with the place of the first."""
    if found := foreign(plain(text), scripts):
        _, letters, script = found
        spoken = " or ".join(sorted(s.title() for s in scripts))
        raise UserError(
            "text in letters that are not spoken here", expected=f"{spoken} letters",
            where=f"{where}, character {text.find(letters) + 1}",
            found=f"{letters[:20]!r}, {_CALLED.get(script, script.title())}",
            hint="write it as it is spoken, in those letters, or leave it out")


def scripts_of(text: str) -> set[str]:
    """Scripts of the letters of a text."""
    return {_script(c) for c in text if c.isalpha()}


def _of_a_word(c: str) -> bool:
    return unicodedata.category(c)[0] in "LM"  # letters and the signs that belong to them


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "LATIN" if name in _LIKE_LATIN else name
