"""A tiny text-to-units System and dialogues for it."""

import numpy as np

from avjax.systems.tavid.text import config as presets

FILLER = 3


def small(**overrides):
    c = presets.tiny()
    c.update(dict(vocab=20, num_units=9, filler=FILLER, encoder_width=16, encoder_layers=1,
                  encoder_heads=2, encoder_ff=24, encoder_window=4, d_model=24, num_layers=2,
                  num_heads=2, head_dim=8, d_ff=24, window=5, depth_width=8,
                  depth_layers=1, depth_heads=2, row_tokens=32, row_frames=48, dropout=0.0,
                  unit_dropout=0.0))
    c.update(overrides)
    return c


def dialogue(seed=0, turns=4, streams=2):
    """Turns of 6 to 10 frames and 4 to 7 tokens, every other one with a back-channel inside; some
    overlap. A speaker's units are 4 + speaker, so that rows show whose frames they hold."""
    rng = np.random.default_rng(seed)
    tokens, who, spans, clock = [], [], [], 2
    for k in range(turns):
        speaker, first = k % streams, len(tokens) + (k > 0)
        length, count = int(rng.integers(6, 11)), int(rng.integers(4, 8))
        tokens += [1] * (k > 0) + list(rng.integers(10, 20, count))
        who += [-1] * (k > 0) + [speaker] * count
        start = clock + int(rng.integers(-2, 4)) if k else clock
        if k % 2:
            other = (speaker + 1) % streams
            tokens[-1:-1], who[-1:-1] = [2, 7], [other, other]
            spans.append((other, len(tokens) - 3, len(tokens) - 1, start + 3, start + 5, 1))
        spans.append((speaker, first, len(tokens), start, start + length, 0))
        clock = start + length
    units = np.full((clock + 3, streams), FILLER, np.int32)
    for speaker, _, _, start, end, _ in spans:
        units[start:end, speaker] = 4 + speaker
    return {"id": "a", "tokens": np.array(tokens, np.int32),
            "token_speaker": np.array(who, np.int32),
            "turns": np.array(sorted(spans, key=lambda t: t[3]), np.int32), "units": units}
