"""Phonemes -> mouth: targets blended by dominance functions (Cohen and Massaro 1993), which is
coarticulation.

Every phoneme pulls each articulator towards its target with a strength that is full inside its
interval and decays exponentially around it; the mouth is the weighted mean. Bilabials pull the lips
so hard that they really close.
"""

import numpy as np

from avjax.encoders import espeak
from data_pipelines.puppets.face_code import INDEX

MOUTH = ("jaw_open", "lip_aperture", "lip_width", "lip_protrusion", "upper_lip_raise",
         "lower_lip_drop", "tongue_tip",
         "tongue_body")
_REST = (0.02, -0.12, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
_TARGETS = {  # in the order of MOUTH
    "i": (0.20, 0.30, 0.8, 0.0, 0.2, 0.20, 0.2, 0.9),
    "ɪ": (0.30, 0.40, 0.55, 0.0, 0.2, 0.25, 0.1, 0.6),
    "ᵻ": (0.25, 0.33, 0.4, 0.0, 0.15, 0.20, 0.1, 0.4),
    "e": (0.40, 0.45, 0.6, 0.0, 0.2, 0.30, 0.1, 0.6),
    "ɛ": (0.50, 0.55, 0.5, 0.0, 0.25, 0.35, 0.0, 0.4),
    "æ": (0.80, 0.80, 0.6, 0.0, 0.35, 0.50, 0.0, 0.2),
    "a": (0.85, 0.85, 0.3, 0.0, 0.3, 0.55, 0.0, -0.2),
    "ɑ": (0.95, 0.90, 0.1, 0.05, 0.25, 0.60, 0.0, -0.6),
    "ɔ": (0.70, 0.60, -0.4, 0.5, 0.1, 0.35, 0.0, -0.7),
    "o": (0.50, 0.42, -0.6, 0.7, 0.05, 0.25, 0.0, -0.7),
    "ʌ": (0.55, 0.55, 0.1, 0.05, 0.15, 0.35, 0.0, -0.2),
    "ə": (0.35, 0.38, 0.1, 0.05, 0.1, 0.20, 0.0, 0.0),
    "ʊ": (0.30, 0.32, -0.5, 0.6, 0.0, 0.15, 0.0, -0.4),
    "u": (0.20, 0.24, -0.8, 0.9, 0.0, 0.10, 0.0, -0.5),
    "ɜ": (0.35, 0.36, -0.2, 0.4, 0.1, 0.20, 0.3, 0.1),
    "p": (0.12, -0.40, 0.0, 0.1, -0.2, -0.2, 0.0, 0.0),
    "f": (0.15, 0.16, 0.1, 0.0, 0.4, -0.5, 0.0, 0.0),
    "t": (0.20, 0.28, 0.2, 0.0, 0.1, 0.15, 1.0, 0.2),
    "s": (0.08, 0.24, 0.4, 0.0, 0.25, 0.25, 0.8, 0.3),
    "θ": (0.25, 0.30, 0.1, 0.0, 0.1, 0.20, 1.2, 0.0),
    "ʃ": (0.15, 0.30, -0.4, 0.8, 0.3, 0.30, 0.5, 0.5),
    "k": (0.30, 0.34, 0.1, 0.0, 0.1, 0.20, -0.2, 1.0),
    "h": (0.35, 0.40, 0.1, 0.0, 0.1, 0.20, 0.0, 0.0),
    "l": (0.35, 0.42, 0.1, 0.0, 0.1, 0.25, 0.9, -0.2),
    "ɹ": (0.25, 0.30, -0.3, 0.6, 0.1, 0.20, 0.4, -0.1),
    "w": (0.15, 0.16, -0.9, 1.0, 0.0, 0.05, 0.0, -0.6),
    "j": (0.20, 0.30, 0.7, 0.0, 0.2, 0.20, 0.2, 1.0),
}
_LIKE = {"b": "p", "m": "p", "v": "f", "d": "t", "n": "t", "ɾ": "t", "z": "s", "ð": "θ", "ʒ": "ʃ",
         "tʃ": "ʃ", "dʒ": "ʃ",
         "ɡ": "k", "ŋ": "k", "ʔ": "h"}
BILABIALS = ("p", "b", "m")
_LIP, _TIP, _BODY = MOUTH.index("lip_aperture"), MOUTH.index("tongue_tip"), MOUTH.index(
    "tongue_body")
_VOWEL_TAU, _CONSONANT_TAU, _REST_TAU = 0.05, 0.03, 0.05
_PROTRUSION = MOUTH.index("lip_protrusion")


def _strength(name: str) -> np.ndarray:
    """(8,) how firmly a class holds each articulator."""
    like = _LIKE.get(name, name)
    s = np.ones(len(MOUTH))
    if like == "p":
        s[:] = 1.5
        s[_LIP], s[_TIP], s[_BODY] = 80.0, 0.1, 0.1
    elif like == "f":
        s[:] = 3.0
        s[_TIP], s[_BODY] = 0.1, 0.1
    elif like in ("t", "l", "θ", "s"):
        s[:] = 2.0 if like == "s" else 0.6
        s[_TIP] = 6.0
    elif like == "k":
        s[:] = 0.4
        s[_BODY] = 6.0
    elif like == "h":
        s[:] = 0.15
    elif like in ("w", "ʃ"):
        s[:] = 4.0
    elif name in ("ə", "ᵻ"):
        s[:] = 0.6
    return s


def mouth(phonemes, n_frames: int, rate: float = 30.0, manner: float = 1.0) -> np.ndarray:
    """(n_frames, 8) float64 of MOUTH. `manner` scales how far the mouth moves."""
    targets, strengths, spans, taus = [], [], [], []
    for symbol, t0, t1 in phonemes:
        classes = espeak.classes_of(symbol)
        edges = np.linspace(t0, t1, max(len(classes), 1) + 1)
        for name, a, b in zip(classes or (espeak.SILENCE,), edges[:-1], edges[1:], strict=True):
            vowel = name in espeak.VOWELS
            if name == espeak.SILENCE:
                target, strength, tau = np.array(_REST), np.full(len(MOUTH), 1.5), _REST_TAU
            else:
                target = np.array(_TARGETS[_LIKE.get(name, name)])
                if vowel:
                    target = target * (0.85 + 0.3 * espeak.stress_of(symbol)) * manner
                strength, tau = _strength(name), _VOWEL_TAU if vowel else _CONSONANT_TAU
            # the lips are shut before the sound that espeak marks; two frames at least
            if name in BILABIALS:
                a, b = a - 0.025, max(b, a + 0.05)
                tau = 0.008
            elif name == espeak.SILENCE:  # not shut while the neighbouring sounds still ring
                a, b = ((a + b) / 2, (a + b) / 2) if b - a < 0.12 else (a + 0.06, b - 0.06)
            targets.append(target)
            strengths.append(strength)
            spans.append((a, b))
            taus.append(tau)
    time_N = np.arange(n_frames)[:, None] / rate
    span_P2, tau_P = np.array(spans), np.array(taus)
    before, after = span_P2[:, 0] - time_N, time_N - span_P2[:, 1]
    # anticipation reaches further than carry-over
    away_NP = np.maximum(np.maximum(before * 0.8, after), 0)
    weights, wanted = np.array(strengths), np.array(strengths) * np.array(targets)
    out = np.zeros((n_frames, len(MOUTH)))
    for columns, widen in (([i for i in range(len(MOUTH)) if i != _PROTRUSION], 1.0),
                           ([_PROTRUSION], 1.8)):
        pull_NP = np.exp(-away_NP / (tau_P * widen)) + 1e-12
        out[:, columns] = (pull_NP @ wanted[:, columns]) / (pull_NP @ weights[:, columns])
    return out


def place(mouth_NM: np.ndarray, articulators_NA: np.ndarray) -> None:
    """Writes the mouth into its columns of the articulators."""
    articulators_NA[:, [INDEX[name] for name in MOUTH]] = mouth_NM
