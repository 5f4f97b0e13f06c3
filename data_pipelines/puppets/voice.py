"""The voice that an identity vector determines."""

import numpy as np

from avjax.encoders import espeak


def voice_of(identity: np.ndarray) -> dict:
    """Arguments of `espeak.synthesize`. The pitches are those of the voice's definition; measured
    ones follow them."""
    size, weight, haste, cheer, manner = (float(identity[i]) for i in (0, 1, 2, 3, 7))
    middle = 135 * 2 ** (-0.4 * size - 0.2 * weight)
    span = 2 ** (0.2 + 0.08 * cheer)
    return {"pitch": (round(middle / span), round(middle * span)),
            "formants": round(101 - 4.5 * size - 1.5 * manner),
            "rate": round(150 + 14 * haste)}


def speak(text: str, identity: np.ndarray) -> espeak.Utterance:
    """A text in this identity's voice. UserError for text that cannot be spoken."""
    return espeak.synthesize(text, **voice_of(identity))
