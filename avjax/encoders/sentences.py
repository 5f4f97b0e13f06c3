"""Ends of sentences: at . ? or ! before a space, but not at an abbreviation's or initial's point;
and long text cut into pieces, at sentences where it can be.

English; long text may have the marks of Chinese and Japanese too. The point of an abbreviation ends
a sentence as well where the next word is one that sentences begin with: "at 5 p.m. Then", but "in
the U.S. Senate"; of a title it never does.
"""

import re
from collections.abc import Callable

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
_WIDE_ENDS = re.compile(r"[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*|\n\s*\n")  # 。！？
_CLAUSES = re.compile(r"[,;:][\"')\]]*(?=\s)|[\uff0c\u3001\uff1b\uff1a]|\s[-\u2013](?=\s)|\u2014")
_WORDS = re.compile(r"\S(?=\s)|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
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


def pieces(text: str, cost: Callable[[str], float]) -> list[str]:
    """Consecutive parts of a text, each of a cost of at most 1: whole sentences, as many as fit and
    about as long as each other; a sentence that costs more is cut at clauses, and a clause at
    words. All of the text is in them, but for the white space between.

    Raises ValueError with the word that costs more than 1.
    """
    units = _units(text, cost, [_sentence_ends, _CLAUSES, _WORDS])
    made = _packed(units, cost, 1.0)
    even = (_packed(units, cost, most / 10) for most in range(5, 10))
    return next((parts for parts in even if len(parts) == len(made)), made)


def _sentence_ends(text: str) -> list[int]:
    return sorted({*split(text), *(m.end() for m in _WIDE_ENDS.finditer(text))})


def _units(text: str, cost: Callable[[str], float], levels: list) -> list[str]:
    """Parts that fit, no smaller than they must be; they join to the text."""
    if cost(text.strip()) <= 1:
        return [text]
    if not levels:
        raise ValueError(text.strip())
    first, *rest = levels
    ends = first(text) if callable(first) else [m.end() for m in first.finditer(text)]
    edges = [0, *(end for end in ends if end < len(text)), len(text)]
    return [unit for a, b in zip(edges, edges[1:], strict=False)
            for unit in _units(text[a:b], cost, rest)]


def _packed(units: list[str], cost: Callable[[str], float], most: float) -> list[str]:
    """As many consecutive units to a part as cost at most that; one may cost more alone."""
    parts = [""]
    for unit in units:
        if parts[-1].strip() and cost((parts[-1] + unit).strip()) > most:
            parts.append("")
        parts[-1] += unit
    return [part.strip() for part in parts if part.strip()]
