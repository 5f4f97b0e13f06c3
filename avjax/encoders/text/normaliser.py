"""Text as it is written -> as it is spoken: numbers, dates, times, money, units, addresses.

The grammars are NVIDIA NeMo's (nemo_text_processing 1.2) as kitten-text-processing carries them:
of 17 languages, in plain Python, without the 700 MB of pynini. For other languages espeak-ng reads
numbers by its own rules. Here stand only abbreviations and units that those grammars leave, for
English.
"""

import functools
import itertools
import re

import kitten_text_processing as kitten

from avjax.encoders import sentences
from avjax.errors import UserError

# Japanese comes out in Chinese letters, which espeak-ng cannot read
LANGUAGES = frozenset(kitten.SUPPORTED_LANGUAGES) - {"ja"}
_POINTED_THOUSANDS = ("de", "it")
# what a grammar may have to spell out: anything but letters and punctuation, or a point in a word
_WRITTEN = re.compile(r"\d|[^\w\s;:,.!?¡¿—–…\"«»“”'’()\[\]{}-]|\.\w")
_SHORT = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor",
    "jr": "junior", "sr": "senior", "gen": "general", "col": "colonel", "capt": "captain",
    "lt": "lieutenant", "sgt": "sergeant", "maj": "major", "cmdr": "commander", "adm": "admiral",
    "pvt": "private", "cpl": "corporal", "rev": "reverend", "hon": "honorable", "gov": "governor",
    "sen": "senator", "rep": "representative", "pres": "president", "esq": "esquire",
    "st": "saint", "mt": "mount", "ft": "fort", "ave": "avenue", "blvd": "boulevard",
    "rd": "road", "hwy": "highway", "co": "company", "corp": "corporation",
    "inc": "incorporated", "ltd": "limited", "bros": "brothers", "dept": "department",
    "univ": "university", "assn": "association", "etc": "et cetera", "vs": "versus",
    "approx": "approximately", "e.g": "for example", "i.e": "that is", "cf": "compare",
    "viz": "namely", "fig": "figure", "figs": "figures", "vol": "volume", "vols": "volumes",
    "ch": "chapter", "sec": "section", "no": "number", "nos": "numbers", "p": "page",
    "pp": "pages", "eq": "equation", "ext": "extension", "tel": "telephone", "avg": "average",
    "min": "minimum", "max": "maximum", "misc": "miscellaneous", "est": "established",
    "jan": "January", "feb": "February", "mar": "March", "apr": "April", "jun": "June",
    "jul": "July", "aug": "August", "sep": "September", "sept": "September", "oct": "October",
    "nov": "November", "dec": "December", "mon": "Monday", "tue": "Tuesday", "tues": "Tuesday",
    "wed": "Wednesday", "thu": "Thursday", "thur": "Thursday", "thurs": "Thursday",
    "fri": "Friday", "sat": "Saturday", "sun": "Sunday",
}
# these are words too: at the end of a sentence they are meant as such
_WORDS = frozenset("""gen col rep sen pres fig no min max mar jun sat sun wed mon p ch sec est mt
    hon ext""".split())
_UNITS = {"m": "meters", "kB": "kilobytes", "KB": "kilobytes", "MB": "megabytes",
          "GB": "gigabytes", "TB": "terabytes", "Mbps": "megabits per second"}
_PER = {"h": "hour", "s": "second", "min": "minute"}
_POINTED = re.compile(r"(?<![\w.])((?:[A-Za-z]\.)*[A-Za-z]+)\.(?=[\s,;:!?\"')\]]|$)")


def normalised(text: str, language: str) -> str:
    """A text with everything spelled out, in words of the language.

    Args:
      text: with plain quotes and one space between words (avjax.encoders.plain_text).
      language: of espeak-ng; the first part decides ("en-us": English).

    Raises:
      UserError: what the grammars cannot read.
    """
    root = {"cmn": "zh"}.get(language, language.split("-")[0])
    if root == "en":
        text = _english(text)
    if root not in LANGUAGES:
        return text
    if root in _POINTED_THOUSANDS:  # "1.234,50": the grammars read a decimal point
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+(?![\d.]*\d)",
                      lambda m: m[0].replace(".", ""), text)
    if root == "de":  # the grammar knows "€5" and not "5 €"
        text = re.sub(r"(?<![\d.,])(\d[\d.,]*) ?([€$£])", r"\2\1", text)
    edges = [0, *(e for e in sentences.split(text)
                  # "am 3. März"
                  if root == "en" or e == len(text) or not re.search(r"\d\.$", text[:e]))]
    return " ".join(_spelled(text[a:b].strip(), root)
                    for a, b in itertools.pairwise(edges)).strip()


def _spelled(sentence: str, root: str) -> str:
    if not _WRITTEN.search(sentence):
        return sentence
    try:
        if root == "en":
            said = _grammar(root).normalize(sentence, punct_post_process=True)
        else:
            words = sentence.rstrip(".?!")  # "2021." is an ordinal elsewhere
            said = _grammar(root).normalize(words) + sentence[len(words):]
    except (AssertionError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise UserError("text that cannot be spelled out", where=f"text, language {root}",
                        expected="words, numbers, dates, times, money, units, addresses",
                        found=repr(sentence[:60]), hint="write it as it is spoken") from error
    said = re.sub(r" +([,.;:!?])(?=\s|$)", r"\1", said)
    if root == "en":
        said = re.sub(r"(\w) ' (s|t|d|m|re|ve|ll)\b", r"\1'\2", said)
    mark = sentence[-1]  # "a.m." takes that of its sentence along
    return said + mark if mark in ".?!" and said[-1:].isalnum() else said


@functools.lru_cache(maxsize=4)
def _grammar(root: str) -> kitten.Normalizer:
    return kitten.Normalizer(lang=root)


def _english(text: str) -> str:
    """Abbreviations, and what else the grammar would misread, as words."""
    text = re.sub(r"\bSt\.(?=\s*[a-z,;:])|\bSt(?=\.$)", "street", text)
    text = _POINTED.sub(lambda m: _whole(m, text), text)
    text = re.sub(r"#\s?(?=\d)", "number ", text)
    text = re.sub(r"~ ?(?=\d)", "approximately ", text)
    text = re.sub(r"\b24/7\b", "twenty four seven", text)
    text = re.sub(r"(?<!\w)(\d)' ?(\d\d?)\"", r"\1 feet \2 inches", text)
    text = re.sub(r"\b([A-Z]{1,3})&([A-Z]{1,3})\b",  # AT&T
                  lambda m: f"{' '.join(m[1])} and {' '.join(m[2])}", text)
    text = re.sub(r"(?<![\d.])\d+(?:\.\d+){2,}(?!\.?\d)",  # a version
                  lambda m: m[0].replace(".", " point "), text)
    text = re.sub(r"(?<![\d-])(\d{1,3})[-–](\d{1,3})(?![\d-])", r"\1 to \2", text)
    text = re.sub(r"(?<=\d),(?=(?:\d{3},)*\d{3}-[a-z])", "", text)  # 5,000-metre
    text = re.sub(r"(?<=\d)( ?[A-Za-z]+)/(h|s|min)\b",
                  lambda m: f"{m[1]} per {_PER[m[2]]}", text)
    return re.sub(r"(?<![$€£¥\d.,])(\d[\d.,]*) ?(m|[kKMGT]B|Mbps)\b(?![\w²³/])",
                  lambda m: f"{m[1]} {_UNITS[m[2]]}", text)


def _whole(found: re.Match, text: str) -> str:
    """The word of an abbreviation with its point, which stays where it ends a sentence."""
    short = found[1]
    ends = found.end() == len(text) or sentences.ends_sentence(text, found.end() - 1)
    word = _SHORT.get(short.lower())
    before = text[:found.start()].rstrip()
    if before[-1:].isdigit() and short.lower() in ("ft", "lb", "lbs", "oz", "in", "min", "sec",
                                                   "hr", "hrs", "yd", "mi"):
        return short + "." * ends
    if word is None or (ends and short.lower() in _WORDS):
        return found[0]
    return word + "." * ends
