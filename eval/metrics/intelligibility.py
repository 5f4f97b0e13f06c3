"""Word error rate by an independent recogniser: pocketsphinx with the en-us model of its wheel; and
what tokens of a text spell.

The recogniser is limited to a grammar: any sequence of the corpus' own words. That makes it usable
on Griffin-Lim speech, and it also means that the number is no general WER: read it beside the
ground truth's through the same codec.
"""

import functools
import math
import re
import tempfile
import unicodedata
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from avjax.encoders.plain_text import plain
from eval import pooling
from eval.registry import TOKENS, declare

RATE = 16000
ERRORS = ("substitutions", "deletions", "insertions", "hits")
MEAN = "_mean"  # ends the names of rates that are averaged over examples
RECIPE = {"implementation": "pocketsphinx + jiwer", "pocketsphinx": version("pocketsphinx"),
          "jiwer": version("jiwer"), "model": "en-us of the wheel",
          "grammar": "any sequence of the corpus' words, all equally likely (unigram)",
          "sample_rate": RATE, "resampler": "soxr HQ", "peak": 0.6, "dither": 0.003,
          "normaliser": "lower case, letters without accents, plain apostrophes"}

# that NFKD leaves
_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th"})


def words_of(text: str) -> list[str]:
    """Lower-case words of a transcript, without accents, whatever apostrophes it has; punctuation
    and digits are dropped."""
    text = unicodedata.normalize("NFKD", plain(text).casefold().translate(_LETTERS))
    return re.findall(r"[a-z]+(?:'[a-z]+)*",
                      "".join(c for c in text if not unicodedata.combining(c)))


@functools.lru_cache(maxsize=1)
def dictionary() -> dict[str, list[str]]:
    from pocketsphinx import get_model_path
    pronunciations: dict[str, list[str]] = {}
    for line in Path(get_model_path("en-us/cmudict-en-us.dict")).read_text().splitlines():
        word, _, phones = line.partition(" ")
        pronunciations.setdefault(word.split("(")[0], []).append(line)
    return pronunciations


def _uniform(words: list[str]) -> str:
    """A language model that finds every word equally likely at every place, as ARPA text. The same
    set of sentences as a grammar `(a | b | ...)+`, but searched in milliseconds: the grammar's
    automaton has a transition a pair of words and takes minutes a sentence from 200 words on."""
    log10 = -math.log10(len(words) + 1)
    lines = ["-99 <s> 0", *(f"{log10:.4f} {w} 0" for w in ["</s>", *words])]
    return f"\\data\\\nngram 1={len(lines)}\n\n\\1-grams:\n" + "\n".join(lines) + "\n\n\\end\\\n"


class Recogniser:
    """Grammar-limited recogniser. `vocabulary`: words it may hear; those without a pronunciation
    are in `.unknown`."""

    def __init__(self, vocabulary):
        from pocketsphinx import Decoder
        words = sorted(set(vocabulary))
        known = [w for w in words if w in dictionary()]
        self.unknown = [w for w in words if w not in dictionary()]
        if not known:
            raise ValueError("no word of the vocabulary has a pronunciation in pocketsphinx's "
                             "dictionary")
        # a small dictionary loads in a tenth of the time of the full one
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "words.dict").write_text("\n".join(line for w in known
                                                               for line in dictionary()[w]) + "\n")
            (Path(folder) / "words.arpa").write_text(_uniform(known))
            self.decoder = Decoder(dict=str(Path(folder) / "words.dict"),
                                   lm=str(Path(folder) / "words.arpa"),
                                   loglevel="FATAL")

    def transcribe(self, wave_N: np.ndarray, rate: int) -> str:
        """Words heard in a waveform (float in [-1, 1]); "" when none. Stateless: the same wave
        gives the same words."""
        import soxr
        wave_N = soxr.resample(np.asarray(wave_N, np.float32), rate, RATE)
        peak = np.abs(wave_N).max(initial=0)
        if len(wave_N) < RATE // 20 or peak < 1e-4:
            return ""
        # it expects some silence before and after
        wave_N = np.pad(wave_N * (RECIPE["peak"] / peak), RATE // 5)
        # Digital silence, which synthesisers make and recordings do not, upsets the model: dither,
        # always the same.
        wave_N = wave_N + np.random.default_rng(0).normal(size=len(wave_N)) * RECIPE["dither"]
        self.decoder.reinit_feat()  # forgets the running cepstral mean of the previous utterance
        self.decoder.start_utt()
        self.decoder.process_raw(np.round(wave_N * 32767).astype(np.int16).tobytes(), full_utt=True)
        self.decoder.end_utt()
        heard = self.decoder.hyp()
        return " ".join(words_of(re.sub(r"\(\d+\)", "", heard.hypstr))) if heard else ""


def word_errors(reference: str, hypothesis: str) -> dict[str, int]:
    """Substitutions, deletions, insertions and hits of one pair of normalised texts (jiwer's
    alignment)."""
    import jiwer
    if not reference:
        return {"substitutions": 0, "deletions": 0, "insertions": len(hypothesis.split()),
                "hits": 0}
    out = jiwer.process_words(reference, hypothesis)
    return {k: int(getattr(out, k)) for k in ERRORS}


def character_errors(reference: str, hypothesis: str) -> dict[str, int]:
    """The same of characters, spaces among them."""
    import jiwer
    if not reference:
        return {**dict.fromkeys(ERRORS, 0), "insertions": len(hypothesis)}
    out = jiwer.process_characters(reference, hypothesis)
    return {k: int(getattr(out, k)) for k in ERRORS}


def wer(counts_nC):
    """Error rate of counts of ERRORS, over the last axis but one; NaN where nothing was said."""
    s, d, i, h = np.moveaxis(np.asarray(counts_nC, np.float64).sum(-2), -1, 0)
    return np.divide(s + d + i, s + d + h, out=np.full_like(s, np.nan), where=s + d + h > 0)


def _score(case):
    heard = case.signals.transcript
    reference = " ".join(words_of(case.benchmark.labels(case.split)[1][case.index]))
    return rates(reference, heard) | {"heard": heard}


def rates(reference: str, heard: str, suffix: str = "") -> dict[str, Any]:
    """Entries of a row, of normalised texts: counts of words and characters, and the example's own
    rates; None where nothing was said."""
    found: dict[str, Any] = {}
    for name, errors in (("WER", word_errors), ("CER", character_errors)):
        counts = errors(reference, heard) if reference else None
        found[name + suffix] = counts
        found[name + suffix + MEAN] = counts and _rate(counts)
    return found


def _rate(counts: dict[str, int]) -> float:
    return float(wer(np.array([[counts[k] for k in ERRORS]])))


@pooling.labelled("errors of all examples over their words or characters")
def pooled(name, pool):
    """As jiwer does of a list; NaN where nothing was said, None where no row knows of any."""
    counted = pool.entries(name)
    if not counted:
        return None
    return pooling.interval(np.array([[c[k] for k in ERRORS] for c in counted if c],
                                     np.float64).reshape(-1, len(ERRORS)), wer)


def declare_rates(suffix: str, by: str, recipe: Callable[[Any, str], dict], **fields) -> None:
    """The metrics of `rates`. recipe: (benchmark, how examples are pooled) -> definition."""
    for name, of in (("WER", "word"), ("CER", "character")):
        for mean, pool, how in (("", pooled, ""), (MEAN, pooling.by_mean, ", mean over examples")):
            declare(name + suffix + mean, "down", f"{of} error rate of {by}{how}", family="words",
                    pool=pool, recipe=functools.partial(recipe, over=pool.label), **fields)


def _recipe(benchmark, over: str):
    words = benchmark.vocabulary
    return RECIPE | {"pooling": over, "vocabulary": len(words),
                     "vocabulary_crc32": zlib.crc32(" ".join(words).encode())}


def _tokens(case):
    return {"token_error": _share(case.truth.labels, case.signals.labels)}


def _letters(case):
    said = "|".join(words_of(case.benchmark.labels(case.split)[1][case.index])).upper()
    return {"letter_error": _share(said, case.signals.letters.replace(" ", "|"))}


def _share(true, found) -> float:
    """Errors of single labels over those of the truth."""
    return _rate(word_errors(" ".join(map(str, true)), " ".join(map(str, found))))


_LABELS = {"labels": "strongest of each frame, repetitions and blanks left out",
           "distance": "Levenshtein / true length"}

declare_rates("", "the recogniser", _recipe, score=_score, needs=("audio", "waveform", "words"))
declare("token_error", "down", "share of what the true tokens spell that is wrong", family="words",
        score=_tokens, needs=(TOKENS,), in_loop=True, of_shuffled=True,
        recipe=lambda benchmark: _LABELS | {"tokens": benchmark.kind})
declare("letter_error", "down", "share of the text's letters that CTC tokens spell wrongly",
        family="words", score=_letters, needs=(TOKENS, "letters"),
        recipe=lambda benchmark: _LABELS | {"beside": "the transcript in capitals"})
