"""Tokens of a text with the durations of its symbols, and what they spell.

Suffixes: P symbols, T frames, C token width, S stretches of speech.
"""

import difflib
import functools
import itertools
import json
from collections.abc import Mapping

import numpy as np

from avjax.encoders import espeak
from avjax.encoders.text import symbols
from avjax.encoders.wav2vec2 import spelled
from avjax.signal import mel
from eval.registry import TOKENS


class Spoken:
    """One variant of one example.

    Args:
      tokens_TC: None where the variant has durations only.
      kind: of the tokens' recipe.
      stretches_S: seconds of each phoneme and pause of the truth (see `stretches`), where known.
      seconds: of it all; default the tokens'.
    """

    has_audio = has_motion = False
    speaker = ""

    def __init__(self, tokens_TC: np.ndarray | None, kind: str, *,
                 stretches_S: np.ndarray | None = None, seconds: float | None = None):
        self.tokens_TC, self.stretches_S, self._kind = tokens_TC, stretches_S, kind
        self.streams = {} if tokens_TC is None else {"tokens": tokens_TC}
        self.scored = set() if tokens_TC is None else {TOKENS}
        self.seconds = len(tokens_TC) / mel.FRAME_RATE if seconds is None else seconds
        self.own_length = True
        self.computed_s: float | None = None  # that making it took, where that was measured

    @property
    def length(self) -> float:
        """Of which lengths are compared: seconds."""
        return self.seconds

    @functools.cached_property
    def labels(self) -> list[int]:
        """The strongest label of each frame, without repetitions and without what means nothing
        (CTC's blank, silence)."""
        width = len(espeak.CLASSES) if self._kind == "phones" else self.tokens_TC.shape[1]
        runs = [int(k) for k, _ in itertools.groupby(self.tokens_TC[:, :width].argmax(1))]
        return runs if self._kind == "units" else [k for k in runs if k]

    @property
    def letters(self) -> str:
        """What CTC tokens spell."""
        return spelled(self.tokens_TC)


def stretches(phonemes: str) -> list[tuple[str, float]]:
    """(phoneme, or "" for a pause, seconds) of an utterance's phonemes as JSON; silences that
    follow one another are one pause."""
    out: list[tuple[str, float]] = []
    for symbol, start, end in json.loads(phonemes):
        name = symbol if espeak.classes_of(symbol) else ""
        if not name and out and not out[-1][0]:
            start -= out.pop()[1]
        out.append((name, end - start))
    return out


def shared_out(durations_P: np.ndarray, ids_P: np.ndarray, names: list[str]) -> np.ndarray:
    """(S,) the durations of symbols, given to the stretches that they spell.

    Blanks and spaces between two phonemes go half to each; with marks they are the pause's where
    there is one.
    """
    spelled = [symbols.SYMBOLS[i] for i in ids_P]
    owner_of = _owners([c if c not in {symbols.PAD, " ", *symbols.MARKS} else "" for c in spelled],
                       names)
    out = np.zeros(len(names))
    before = None  # the last phoneme
    between = 0.0
    for owner, duration in zip([*owner_of, len(names)], [*durations_P, 0.0], strict=True):
        if owner is None:
            between += duration
            continue
        first = -1 if before is None else before
        pauses = [k for k in range(first + 1, owner) if not names[k]]
        shares = pauses or [k for k in (before, owner) if k is not None and k < len(names)]
        for k in set(shares):
            out[k] += between / len(set(shares))
        between = 0.0
        before = owner
        if owner < len(names):
            out[owner] += duration
    return out


def _owners(letters: list[str], names: list[str]) -> list[int | None]:
    """Which stretch each symbol spells; of a sound that was left out in speech, the one before."""
    ours = [(k, c) for k, c in enumerate(letters) if c]
    theirs = [(k, c) for k, name in enumerate(names) for c in name]
    matcher = difflib.SequenceMatcher(None, [c for _, c in ours], [c for _, c in theirs], False)
    owner: list[int | None] = [None] * len(letters)
    last = next((k for k, name in enumerate(names) if name), 0)
    for kind, a, b, c, d in matcher.get_opcodes():
        for i in range(a, b):
            if kind == "equal" or (kind == "replace" and i - a < d - c):
                last = theirs[c + i - a][0]
            owner[ours[i][0]] = last
    return owner


def mean_durations(examples: list[Mapping]) -> dict[str, float]:
    """{phoneme, "" for a pause: mean seconds} of examples whose phonemes are known."""
    found: dict[str, list[float]] = {}
    for example in examples:
        for name, seconds in stretches(example["phonemes"]):
            found.setdefault(name, []).append(seconds)
    return {name: float(np.mean(x)) for name, x in found.items()}
