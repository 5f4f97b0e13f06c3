"""Text front-end: espeak-ng -> speech, timed phonemes and words, and the phoneme features that
condition a model of speech."""

import dataclasses
import functools
import re
import unicodedata

import numpy as np

from avjax.encoders import espeak_library
from avjax.encoders.espeak_library import END, PHONEME, SAMPLE_RATE, WORD
from avjax.encoders.plain_text import check_letters, plain
from avjax.encoders.sentences import ends_sentence
from avjax.errors import UserError
from avjax.signal import rates

RATE = float(rates.UNITS)  # phoneme feature frames a second; frame k is at time k / RATE
# seconds of silence after a clause; ; and : pause as , does
PAUSES = {",": 0.2, ".": 0.35, "?": 0.35, "!": 0.35}
LEAD, TRAIL = 0.2, 0.3  # seconds of silence around an utterance
MAX_CHARACTERS = 5000
VOWELS = tuple("i ɪ ᵻ e ɛ æ a ɑ ɔ o ʌ ə ʊ u ɜ".split())
CONSONANTS = tuple("p b t d k ɡ ɾ ʔ f v θ ð s z ʃ ʒ tʃ dʒ h m n ŋ l ɹ w j".split())
SILENCE = "_"
CLASSES = (SILENCE, *VOWELS, *CONSONANTS)
PHRASES = tuple(PAUSES)  # what ends a phrase; also the symbol of the pause that follows it
PROSODY = ("stress", "ramp", "position", "since_pause", "to_pause", "beat", "foot",
           *(f"phrase {p}" for p in PHRASES))
WIDTH = len(CLASSES) + len(PROSODY)
_ALIASES = {"ɐ": "ə", "ɚ": "ɜ", "ɝ": "ɜ", "r": "ɹ", "g": "ɡ", "ʍ": "w", "x": "k", "ɫ": "l",
            "ɬ": "l", "ɒ": "ɑ", "ɨ": "ᵻ", "y": "u", "ø": "ɜ", "œ": "ɜ", "ç": "h", "ɣ": "ɡ",
            "β": "v", "ɲ": "n", "ɥ": "j", "c": "k", "ʎ": "l", "χ": "h",
            "ʁ": "ɹ", "q": "k", "ɵ": "ə", "ɤ": "ʌ", "ɯ": "u", "ʋ": "v", "ɕ": "ʃ", "ʑ": "ʒ",
            "ʂ": "ʃ", "ʐ": "ʒ", "ʈ": "t",
            # neighbours for sounds that en-us rarely has
            "ɖ": "d", "ɳ": "n", "ɭ": "l", "ɽ": "ɾ", "ts": "t"}
# one-hots are scaled up so that they are not lost beside unit noise in the input
_CLASS_SCALE = 3.0
RECIPE = {"kind": "phones", "front_end": "espeak-ng 1.52 en-us, flutter 0, roughness 0",
          "native_rate": RATE, "classes": list(CLASSES), "prosody": list(PROSODY),
          "class_scale": _CLASS_SCALE, "diphthongs": "cross-faded",
          "pauses": PAUSES, "lead_trail": [LEAD, TRAIL], "version": 2}


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Speech with alignments; times in seconds from the first sample.

    audio: (N,) int16 at 22050 Hz. phonemes: (symbol, t0, t1), gapless from 0 to the end; stress
      marks lead the symbol
    ("ˈaɪ"); silences are "_" or the punctuation that caused them. words: (word, t0, t1) in order.
    """

    audio: np.ndarray
    phonemes: list[tuple[str, float, float]]
    words: list[tuple[str, float, float]]

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE


def synthesize(text: str, *, pitch: tuple[int, int] = (90, 130), formants: int = 100,
               rate: int = 150) -> Utterance:
    """Speaks a text, clause by clause.

    Args:
      text: English. Clauses end at , ; : . ? ! but not at the point of an abbreviation
        (sentences.py).
      pitch: lowest and highest pitch of the voice's intonation, Hz (whole numbers).
      formants: formant frequencies in percent of the neutral voice's: a vocal tract 1 / that as
        long.
      rate: words a minute, 80 to 400.

    Raises:
      UserError: empty text, text with no speakable character, too long, or sounds outside the
        inventory.
    """
    check_text(text)
    text = plain(text)
    pieces = []
    phonemes = []
    words = []
    samples = 0

    def silence(seconds, symbol):
        nonlocal samples
        n = round(seconds * SAMPLE_RATE)
        pieces.append(np.zeros(n, np.int16))
        phonemes.append((symbol, samples / SAMPLE_RATE, (samples + n) / SAMPLE_RATE))
        samples += n

    silence(LEAD, SILENCE)
    clauses = [(c, m) for c, m in _clauses(text) if any(ch.isalnum() for ch in c)]
    for i, (clause, mark) in enumerate(clauses):
        audio, spoken, heard = _speak(clause + mark, pitch, formants, rate)
        start = samples / SAMPLE_RATE
        pieces.append(audio)
        phonemes += [(p, start + a, start + b) for p, a, b in spoken]
        words += [(w, start + a, start + b) for w, a, b in heard]
        samples += len(audio)
        mark = mark if mark in PHRASES else ","
        silence(TRAIL if i == len(clauses) - 1 else PAUSES[mark], mark)
    if all(not classes_of(p) for p, _, _ in phonemes):
        raise _unspeakable(text)
    return Utterance(np.concatenate(pieces), phonemes, words)


def check_text(text: str) -> None:
    """UserError for text that cannot be spoken at all."""
    if not text.strip():
        raise UserError("empty text", where="text", expected="an English sentence",
                        found=repr(text[:20]))
    if not any(ch.isalnum() for ch in plain(text)):
        raise _unspeakable(text)
    check_letters(text)
    if len(text) > MAX_CHARACTERS:
        raise UserError("text too long", where="text",
                        expected=f"at most {MAX_CHARACTERS} characters", found=str(len(text)),
                        hint="split it into sentences")


def _unspeakable(text):
    return UserError("no speakable character", where="text", expected="English words",
                     found=repr(text[:40]))


def _clauses(text: str) -> list[tuple[str, str]]:
    """(words, closing mark) of every clause; a text without a closing mark gets a full stop."""
    text = " ".join(text.split())
    out = []
    start = 0
    for found in re.finditer(r"([,;:.?!]+)[\"')\]]*(?=\s|$)", text):
        if found[1] != "." or ends_sentence(text, found.start()):
            # "Ph.D.," ends with a comma
            out.append((text[start:found.start()].strip(), found[1].lstrip(".")[:1] or "."))
            start = found.end()
    out.append((text[start:].strip(), "."))
    return [(c, m) for c, m in out if c]


# ---- phoneme features


@functools.lru_cache(maxsize=4096)
def classes_of(symbol: str) -> tuple[str, ...]:
    """Classes that an espeak phoneme passes through: "ˈaɪ" -> ("a", "ɪ"), "p" -> ("p",), a pause ->
    ().

    Raises UserError for a sound outside the inventory.
    """
    if symbol == SILENCE or symbol in PAUSES:
        return ()
    rest = "".join(c for c in unicodedata.normalize("NFD", symbol.strip("ˈˌ"))
                   if not unicodedata.combining(c))
    rest = re.sub(r"[ːˑ.ʲʰˤ|^~*'\"-]", "", rest)
    out = []
    while rest:
        size = 2 if rest[:2] in CLASSES or rest[:2] in _ALIASES else 1
        head = rest[:size]
        rest = rest[size:]
        head = _ALIASES.get(head, head)
        if head not in CLASSES:
            raise UserError("a sound that English lacks", where="text", found=repr(symbol),
                            expected="English words",
                            hint="write it in English letters")
        out.append(head)
    return tuple(out)


def stress_of(symbol: str) -> float:
    """1 primary, 0.5 secondary, 0 none."""
    return {"ˈ": 1.0, "ˌ": 0.5}.get(symbol[:1], 0.0)


def is_vowel(symbol: str) -> bool:
    """True if a phoneme starts with a vowel class."""
    classes = classes_of(symbol)
    return bool(classes) and classes[0] in VOWELS


def phrases_of(phonemes) -> list[tuple[float, float, str]]:
    """(start, end, closing mark) of every stretch of speech between pauses that a mark or silence
    makes."""
    out = []
    start = None
    end = None
    for symbol, t0, t1 in phonemes:
        if classes_of(symbol):
            start = t0 if start is None else start
            end = t1
        elif start is not None and (symbol != SILENCE or t1 - t0 > 0.1):
            out.append((start, end, symbol if symbol in PHRASES else ","))
            start = None
    return out + ([(start, end, ".")] if start is not None else [])


def beats_of(phonemes) -> list[tuple[float, float]]:
    """(onset time, strength) of stressed syllables' vowels."""
    return [(t0, stress_of(s)) for s, t0, _ in phonemes if stress_of(s) and is_vowel(s)]


def feet_of(phonemes) -> list[tuple[float, int, float]]:
    """(onset, place, stress) of every vowel; places count from 0 and start again after a pause of
    0.15 s: the metre."""
    out = []
    place = 0
    for symbol, t0, t1 in phonemes:
        if is_vowel(symbol):
            out.append((t0, place, stress_of(symbol)))
            place += 1
        elif not classes_of(symbol) and t1 - t0 > 0.15:
            place = 0
    return out


def phone_features(phonemes, n_frames: int, rate: float = RATE) -> np.ndarray:
    """(n_frames, WIDTH) float32: scaled one-hot of the class (diphthongs cross-fade) and prosody
    that text decides.

    Prosody: stress of the phoneme; ramp 0..1 through it; position 0..1 in its phrase; exponentials
      (0.3 s) of the time
    since the phrase began and until it ends; a 60 ms bump at the onset of stressed vowels; the
    metre, +-1 by turns from vowel to vowel; one-hot of the phrase's closing mark (also during the
    pause after it).

    Args:
      phonemes: (symbol, t0, t1) in order, as Utterance.phonemes; gaps count as silence.
    """
    time_N = np.arange(n_frames) / rate
    x_NC = np.zeros((n_frames, WIDTH), np.float32)
    column = {c: i for i, c in enumerate((*CLASSES, *PROSODY))}
    for symbol, t0, t1 in phonemes:
        a, b = np.searchsorted(time_N, (t0 - 1e-9, t1 - 1e-9))
        classes = classes_of(symbol)
        if a == b or not classes:
            continue
        ramp = (time_N[a:b] - t0) / max(t1 - t0, 1e-6)
        place = ramp * (len(classes) - 1)
        for i, name in enumerate(classes):
            x_NC[a:b, column[name]] += _CLASS_SCALE * np.clip(1 - np.abs(place - i), 0, 1)
        x_NC[a:b, column["stress"]] = 2 * stress_of(symbol)
        x_NC[a:b, column["ramp"]] = ramp
    spoken = x_NC[:, 1:len(CLASSES)].any(1)
    x_NC[~spoken, 0] = _CLASS_SCALE
    phrases = phrases_of(phonemes)
    for i, (t0, t1, mark) in enumerate(phrases):
        until = min(t1 + 0.5, phrases[i + 1][0] if i + 1 < len(phrases) else np.inf)
        inside, after = (time_N >= t0) & (time_N < t1), (time_N >= t0) & (time_N < until)
        x_NC[inside, column["position"]] = 2 * (time_N[inside] - t0) / max(t1 - t0, 1e-6)
        x_NC[after, column[f"phrase {mark}"]] = 1.5
        since, to = np.abs(time_N - t0), np.abs(time_N - t1)
        x_NC[:, column["since_pause"]] = np.maximum(x_NC[:, column["since_pause"]],
                                                    2 * np.exp(-since / 0.3))
        x_NC[:, column["to_pause"]] = np.maximum(x_NC[:, column["to_pause"]], 2 * np.exp(-to / 0.3))
    feet = feet_of(phonemes)
    for (t0, place, _), following in zip(feet, [*feet[1:], None], strict=True):
        until = following[0] if following and following[1] else t0 + 0.4
        x_NC[(time_N >= t0) & (time_N < until), column["foot"]] = 1.5 - 3 * (place % 2)
    for t, strength in beats_of(phonemes):
        x_NC[:, column["beat"]] += 2 * strength * np.exp(-((time_N - t) / 0.06) ** 2 / 2)
    return x_NC


_GAP = 0.02  # seconds between the words around a point that ends nothing
_AUDIBLE = 400  # mean |sample| above which a nameless espeak event is sound, not silence


def _speak(text, pitch, formants, rate):
    """One clause: audio cut after its last sound, [(symbol, t0, t1)], [(word, t0, t1)]."""
    audio, events = espeak_library.speak(text, pitch, formants, rate)
    audio, events = _without_pauses(text, audio, events)
    phonemes = []
    words = []
    word = None
    for i, (kind, position, length, sample, symbol) in enumerate(events):
        if kind == WORD:
            word = (position, length)
        elif kind == PHONEME:
            end = next((e[3] for e in events[i + 1:] if e[0] == PHONEME), len(audio))
            if end <= sample:
                continue
            silent = not classes_of(symbol)
            linked = (silent and phonemes
                      and np.abs(audio[sample:end].astype(np.int32)).mean() > _AUDIBLE)
            # a glide between words, or a pause
            if phonemes and (linked or (silent and phonemes[-1][0] == SILENCE)):
                phonemes[-1] = (*phonemes[-1][:2], end)
                if linked and words:
                    words[-1][2] = end
                continue
            phonemes.append((SILENCE if silent else symbol, sample, end))
            if not silent and word:
                if words and words[-1][0] == word:
                    words[-1][2] = end
                else:
                    words.append([word, sample, end])
    while phonemes and phonemes[-1][0] == SILENCE:
        phonemes.pop()
    if not phonemes:
        return np.zeros(0, np.int16), [], []
    audio = audio[:phonemes[-1][2]].copy()
    fade = min(64, len(audio))  # 3 ms: no click where espeak's own pause was cut off
    audio[-fade:] = (audio[-fade:] * np.linspace(1, 0, fade)).astype(np.int16)
    phonemes[0] = (phonemes[0][0], 0, phonemes[0][2])  # espeak's first event is a little late
    if words:
        words[0][1] = 0
    second = SAMPLE_RATE
    return (audio, [(s, a / second, b / second) for s, a, b in phonemes],
            [(w, a / second, b / second) for w, a,
             b in _spell(text, words, [a for _, a, _ in phonemes])])


def _without_pauses(text, audio, events):
    """Without the silence that espeak makes at a point within a clause: of 0.4 s between an
    abbreviation and a number."""
    for i, (kind, position, *_) in enumerate(events):
        if kind != END or not text[:position].rstrip().endswith(".") or not text[
            position:].strip():
            continue
        sounds = [k for k, e in enumerate(events) if e[0] == PHONEME and classes_of(e[4])]
        last = max((k for k in sounds if k < i), default=None)
        then = min((k for k in sounds if k > i), default=None)
        if last is None or then is None:
            continue
        a = next(e[3] for e in events[last + 1:] if e[0] == PHONEME) + round(_GAP * SAMPLE_RATE)
        cut = max(0, events[then][3] - a)
        audio = np.delete(audio, slice(a, a + cut))
        events = [(*e[:3], e[3] if e[3] <= a else max(a, e[3] - cut), e[4]) for e in events]
    return audio, events


def _spell(text, events, starts):
    """[[(position, length), t0, t1]] of espeak's word events -> (word, t0, t1) of the text's own
    words.

    espeak marks a pair such as "in the" once; its span is shared out by letters, at the nearest
    phoneme.
    """
    out = []
    for i, ((position, _), t0, t1) in enumerate(events):
        until = events[i + 1][0][0] if i + 1 < len(events) else len(text) + 1
        names = re.findall(r"\w+(?:['’.,-]\w+)*", text[position - 1:until - 1])
        edges = [t0]
        for k in range(1, len(names)):
            wanted = t0 + (t1 - t0) * len("".join(names[:k])) / len("".join(names))
            inside = [s for s in starts if edges[-1] < s < t1]
            edges.append(min(inside, key=lambda s: abs(s - wanted)) if inside else edges[-1])
        out += zip(names, edges, [*edges[1:], t1], strict=True) if names else []
    return [(name, a, b) for name, a, b in out if b > a]
