"""A dialogue's script -> the tokens that the text model reads, with CoVoMix's marks (arXiv
2404.06690, section 3).

    [spka] I went home [backchannel] [spkb] yeah [spka] and slept. [spkchange] [partialoverlap]
    [spkb] But I thought

[spkchange] stands between two speakers' turns, [partialoverlap] before a turn that begins before
the other one ends. Back-channels stand where they are heard; marking who goes on after them, and
more speakers than two ([spkc], ...), are ours.

Three vocabularies, all uncased:
  "wordpiece"   BERT's, from a local vocab.txt; the marks come after its 30 522 ids
  "characters"  the stand-in: the characters of the training scripts
  "phonemes"    the stand-in nearest to sound: espeak-ng's phonemes, nothing to fit
"""

import dataclasses
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np
import tokenizers

from avjax.encoders import espeak
from avjax.encoders.plain_text import plain
from avjax.errors import UserError
from avjax.signal import rates
from data_pipelines.features.tavid.script import BACKCHANNEL, LAUGHTER, TURN, Script
from data_pipelines.media import text_file
from data_pipelines.store.schema import Feature

CODEC = "tokenizer"
KINDS = ("characters", "phonemes", "wordpiece")
PAD, UNKNOWN = "[PAD]", "[UNK]"
UNIT_RATE = rates.UNITS
CHANGE, OVERLAP, SMALL = "[spkchange]", "[partialoverlap]", "[backchannel]"
NOBODY = -1
_WORD = re.compile(r"\w+(?:['’.,-]\w+)*")  # what espeak-ng's front-end counts as one


def speaker_mark(index: int) -> str:
    """[spka], [spkb], ..."""
    return f"[spk{chr(ord('a') + index)}]"


def marks(speakers: int) -> tuple[str, ...]:
    """All marks, in the order of their ids."""
    return (LAUGHTER, CHANGE, OVERLAP, SMALL, *map(speaker_mark, range(speakers)))


@dataclasses.dataclass(frozen=True)
class Encoded:
    """tokens (n,) int32. token_speaker (n,) int32: whose a token is, -1 for [spkchange] and
    [partialoverlap]. turns (K, 6) int32: [speaker, token_start, token_end, unit_start, unit_end,
    kind] of every turn (kind 0) and back-channel (kind 1) in the order of start; token spans begin
    at the speaker's mark and a turn's includes the back-channels in it; units are 0, 0 where the
    script has no times. unknown: characters or words that the vocabulary lacks."""

    tokens: np.ndarray
    token_speaker: np.ndarray
    turns: np.ndarray
    unknown: tuple[str, ...]

    def columns(self) -> dict[str, np.ndarray]:
        """Those of `text_features`."""
        return {"tokens": self.tokens, "token_speaker": self.token_speaker, "turns": self.turns}


def text_features(meaning: str) -> dict[str, Feature]:
    """Columns of an example's text. meaning: of its tokens."""
    return {"tokens": Feature((None,), "int32", meaning),
            "token_speaker": Feature((None,), "int32", "speaker of each token, -1: nobody"),
            "turns": Feature((None, 6), "int32", "speaker, token start, token end, unit start, "
                             "unit end, kind (0 turn, 1 back-channel)")}


class DialogueTokenizer:
    """A vocabulary and the marks.

    Args:
      symbols: the vocabulary in the order of its ids; PAD and UNKNOWN are among them. The marks'
        ids come after it.
      kind: of KINDS.
      speakers: how many speaker marks there are, i.e. streams of the model.
    """

    def __init__(self, symbols: Iterable[str], kind: str, speakers: int = 2):
        self.symbols, self.kind, self.speakers = tuple(symbols), kind, speakers
        if not 2 <= speakers <= 26:
            raise UserError("no such number of speakers", where="dialogue tokenizer",
                            expected="2 to 26", found=str(speakers))
        missing = {PAD, UNKNOWN} - set(self.symbols)
        if missing or len(set(self.symbols)) < len(self.symbols):
            raise UserError("not a vocabulary", where="vocab.txt",
                            expected=f"different entries, {PAD} and {UNKNOWN} among them",
                            found=", ".join(missing) or "an entry twice",
                            hint="use the vocab.txt of bert-base-uncased")
        self._ids = {s: i for i, s in enumerate((*self.symbols, *marks(speakers)))}
        if kind == "wordpiece":
            self._wordpiece = tokenizers.Tokenizer(tokenizers.models.WordPiece(
                {s: i for i, s in enumerate(self.symbols)}, unk_token=UNKNOWN,
                max_input_chars_per_word=100))
            self._wordpiece.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
            self._wordpiece.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()

    @classmethod
    def fit(cls, texts: Iterable[str] = (), *, kind: str = "characters",
            speakers: int = 2) -> "DialogueTokenizer":
        """A stand-in: of the characters of what is said in training (`texts`: turns), or of all
        phonemes."""
        if kind == "phonemes":
            found = [" ", "ˈ", "ˌ", *espeak.PHRASES, *espeak.CLASSES[1:]]
        elif kind == "characters":
            found = sorted(set(" ").union(*map(_plain, texts)))
        else:
            raise UserError("a vocabulary that is not fitted", where="--tokens",
                            expected="characters or phonemes", found=kind,
                            hint="give BERT's vocab.txt")
        return cls((PAD, UNKNOWN, *found), kind, speakers)

    @classmethod
    def from_file(cls, path, *, speakers: int = 2) -> "DialogueTokenizer":
        """BERT's vocab.txt, a token a line. UserError when it is missing."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise UserError("missing vocabulary", where=str(path), expected="BERT's vocab.txt",
                            found="no file", hint="copy it from the model's release, or use the "
                                                  "stand-in")
        return cls(text_file.read(path, what="vocabulary").splitlines(), "wordpiece", speakers)

    @classmethod
    def from_codec(cls, recipe: Mapping | None,
                   arrays: Mapping[str, np.ndarray] | None) -> "DialogueTokenizer":
        """Of a dataset or workdir: recipe "tokens", codec "tokenizer". UserError when missing."""
        if arrays is None or "vocab" not in arrays or (recipe or {}).get("kind") not in KINDS:
            raise UserError("missing tokenizer", where=f"codecs/{CODEC}.npz",
                            expected="an array named vocab, and recipe "
                            "tokens of kind " + " or ".join(KINDS),
                            found=str((recipe or {}).get("kind")),
                            hint="extract the features again")
        return cls(arrays["vocab"].tobytes().decode().split("\n"), recipe["kind"],
                   recipe["speakers"])

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return len(self._ids)

    @property
    def pad(self) -> int:
        """Id of PAD."""
        return self._ids[PAD]

    @property
    def recipe(self) -> dict:
        """What tells one tokenisation from another; "marks" are the ids of what is no text."""
        out = {"kind": self.kind, "vocab": self.vocabulary, "speakers": self.speakers,
               "pad": self.pad,
               "marks": {m: self._ids[m] for m in marks(self.speakers)},
               "tokenizer": hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()}
        return out | ({"front_end": espeak.RECIPE["front_end"]} if self.kind == "phonemes" else {})

    def arrays(self) -> dict[str, np.ndarray]:
        """The codec to keep with a dataset."""
        return {"vocab": np.frombuffer("\n".join(self.symbols).encode(), np.uint8)}

    def encode(self, script: Script) -> Encoded:
        """Tokens of a dialogue. UserError for more speakers than the model has streams, and for
        words that cannot be spoken (phonemes)."""
        if len(script.names) > self.speakers:
            raise UserError("too many speakers", where="script",
                            expected=f"at most {self.speakers}",
                            found=f"{len(script.names)}: {', '.join(script.names)}",
                            hint="use a model of more streams")
        out = _Writer(self._ids)
        for before, turn in zip((None, *script.turns), script.turns, strict=False):
            if before and before.speaker != turn.speaker:
                out.add([CHANGE], NOBODY)
            if turn.overlap:
                out.add([OVERLAP], NOBODY)
            start, row, who = len(out.tokens), len(out.turns), speaker_mark(turn.speaker)
            pieces = self._pieces(turn.text, [b.at for b in turn.backchannels])
            out.add([who, *pieces[0]], turn.speaker)
            for small, after in zip(turn.backchannels, pieces[1:], strict=True):
                begin = len(out.tokens)
                out.add([SMALL, speaker_mark(small.speaker), *self._pieces(small.text, [])[0]],
                        small.speaker)
                out.turns.append((small.speaker, begin, len(out.tokens), *_units(small),
                                  BACKCHANNEL))
                out.add([who, *after] if after else [], turn.speaker)
            out.turns.insert(row, (turn.speaker, start, len(out.tokens), *_units(turn), TURN))
        # stable: untimed stay as written
        turns_K6 = np.asarray(sorted(out.turns, key=lambda t: t[3]), np.int32).reshape(-1, 6)
        return Encoded(np.asarray(out.tokens, np.int32), np.asarray(out.speakers, np.int32),
                       turns_K6, tuple(out.unknown))

    def decode(self, tokens: Iterable[int]) -> str:
        """Symbols of ids, to look at."""
        names = list(self._ids)
        glue = " " if self.kind == "wordpiece" else ""
        said = glue.join(f" {names[i]} " if names[i] in marks(self.speakers) else names[i]
                         for i in tokens)
        return re.sub(r"\s+", " ", said.replace(" ##", "")).strip()

    def _pieces(self, text: str, cuts: list[int]) -> list[list[str]]:
        """Symbols of the text's pieces between the `cuts` (in characters)."""
        edges = [0, *cuts, len(text)]
        parts = [text[a:b].strip() for a, b in zip(edges[:-1], edges[1:], strict=True)]
        if self.kind == "phonemes":
            return _phonemes(parts)
        return [self._symbols(part) for part in parts]

    def _symbols(self, text: str) -> list[str]:
        out = []
        for piece in re.split(f"({re.escape(LAUGHTER)})", text):
            if piece == LAUGHTER:
                out.append(piece)
            elif self.kind == "wordpiece":
                out += self._wordpiece.encode(piece, add_special_tokens=False).tokens
            else:
                out += _plain(piece)
        return out


class _Writer:
    """Tokens as they are written."""

    def __init__(self, ids: Mapping[str, int]):
        self._ids = ids
        self.tokens, self.speakers, self.turns, self.unknown = [], [], [], []

    def add(self, symbols: list[str], speaker: int) -> None:
        self.unknown += [s for s in symbols if (s not in self._ids or s == UNKNOWN)
                         and s not in self.unknown]
        self.tokens += [self._ids.get(s, self._ids[UNKNOWN]) for s in symbols]
        self.speakers += [speaker] * len(symbols)


def _units(said) -> tuple[int, int]:
    return (0, 0) if said.start is None else (round(said.start * UNIT_RATE),
                                              round(said.end * UNIT_RATE))


def _plain(text: str) -> str:
    """Lower case, without accents, typographic marks as ASCII, single spaces."""
    text = plain(text).replace("–", "-").replace("—", "-")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(text.lower().split())


def _phonemes(parts: list[str]) -> list[list[str]]:
    """Phoneme classes, stresses, word gaps and phrase marks of the parts of one turn, spoken as a
    whole: it is not said anew after a back-channel."""
    words_of = [len(_WORD.findall(part.replace(LAUGHTER, " "))) for part in parts]
    whole = " ".join(parts).replace(LAUGHTER, " ")
    if not any(words_of):  # laughter alone
        return [[LAUGHTER] * part.count(LAUGHTER) for part in parts]
    spoken = espeak.synthesize(whole)
    starts = [a for _, a, _ in spoken.words] + [spoken.duration]
    edges = [0.0, *(starts[min(n, len(starts) - 1)] for n in np.cumsum(words_of[:-1])),
             spoken.duration]
    return [_between(spoken, a, b) + [LAUGHTER] * part.count(LAUGHTER)
            for part, a, b in zip(parts, edges[:-1], edges[1:], strict=True)]


def _between(spoken, start: float, end: float) -> list[str]:
    out, gaps = [], {a for _, a, _ in spoken.words}
    for symbol, t0, _ in spoken.phonemes:
        if not start <= t0 < end:
            continue
        if symbol in espeak.PHRASES:
            out.append(symbol)
        elif classes := espeak.classes_of(symbol):
            out += [" "] * (t0 in gaps
                            and bool(out)) + [symbol[0]] * (symbol[0] in "ˈˌ") + list(classes)
    return out
