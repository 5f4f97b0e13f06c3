"""Ends of sentences: at . ? or ! before a space, but not at an abbreviation's or initial's point.

English. The point of an abbreviation ends a sentence as well where the next word is one that
sentences begin with: "at 5 p.m. Then", but "in the U.S. Senate"; of a title it never does.
"""

import re

_TITLES = frozenset("""mr mrs ms mx messrs dr prof rev fr hon gov sen rep gen col maj capt cmdr lt
    sgt cpl pvt adm pres st mt ft e.g i.e cf viz ca approx vs""".split())
_SHORT = frozenset("""jan feb apr aug sept sep oct nov dec mon tue tues thu thur thurs fri etc inc
    ltd co corp bros dept univ assn jr sr esq ave blvd rd hwy al ph.d m.d b.a m.a b.sc m.sc est tel
    ext min max avg misc""".split())
_UNITS = frozenset("lb lbs oz kg km cm mm hr hrs sec yd".split())
_BEFORE_NUMBERS = frozenset("""no nos nr fig figs vol vols p pp ch sec art eq op par mar jun jul wed
    sat sun""".split())
_STARTERS = frozenset("""the a an this that these those there here it its he she they we you i his
    her their our your my then but and so or if when while where what who why how after before
    because although however meanwhile later finally yes no not now please let in on at for to as
    mr mrs ms dr""".split())
_ENDS = re.compile(r"[.?!]+[\"')\]]*(?=\s|$)")
_BEFORE = re.compile(r"[\"'(\[]*([^\s\"'(\[]*)$")
_NEXT = re.compile(r"\s+[\"'(\[]*(\S*)")


def ends_sentence(text: str, at: int) -> bool:
    """True if the point text[at], before a space, quote, bracket or the end, ends a sentence."""
    following = _NEXT.match(text[at + 1:].lstrip("\"')]"))
    if not following or not following[1]:
        return True
    whole = _BEFORE.search(text[:at])[1]
    after = following[1]
    word = whole.lower()
    if not any(c.isalpha() for c in word):
        return True  # after a number, or another mark: "...", "?."
    first = re.sub(r"\W.*", "", after.lower())
    begins = after[0].isupper() and first in _STARTERS and not re.match(r"\w\.", after)  # "A."
    if word in _TITLES:
        return False
    if word in _BEFORE_NUMBERS and after[0].isdigit():
        return False
    dotted = re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word)  # p.m, U.S
    initial = len(whole) == 1 and whole.isupper() and whole != "I"
    if word in _UNITS:
        return after[0].isupper()
    if word in _SHORT or dotted or initial:
        return begins
    return True


def split(text: str) -> list[int]:
    """Ends of a text's sentences: the positions after their marks; the last is its length."""
    ends = [m.end() for m in _ENDS.finditer(text)
            if m[0].strip("\"')]") != "." or ends_sentence(text, m.start())]
    return [*(e for e in ends if text[e:].strip()), len(text)]
