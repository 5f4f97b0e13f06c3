"""Long recordings -> clips that training reads at once: it takes seconds of a clip and reads it
whole.

Cuts are at every third frame only: there a frame of video (30 Hz) and one of the tokens (50 Hz)
begin together.
"""

import math
from collections.abc import Iterator

import numpy as np

from data_pipelines.ingest.common import logits
from data_pipelines.ingest.common.recordings import FPS, SAMPLES

MAX_SECONDS = 60.0
_ALIGNED = 3  # frames


def cut(clip: dict, frames: int, max_seconds: float) -> Iterator[dict]:
    """A clip in equal pieces of at most `max_seconds`; as it is, where it is no longer.

    Of its columns, sound is at SAMPLES a frame, `logits` and `partner_logits` as logits.py reads
    them, other arrays of `frames` rows at 30 Hz; the rest is the clip's as a whole.
    """
    count = math.ceil(frames / max(_ALIGNED, int(max_seconds * FPS)))
    if count <= 1:
        yield clip
        return
    edges = np.rint(np.linspace(0, frames, count + 1) / _ALIGNED).astype(int) * _ALIGNED
    edges[-1] = frames
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        piece = {name: _part(name, x, frames, first, last) for name, x in clip.items()}
        yield piece | {"id": f"{clip['id']}-{first:06d}"}


def _part(name: str, x, frames: int, first: int, last: int):
    if not isinstance(x, np.ndarray):
        return x
    if name.endswith("audio"):
        return x[first * SAMPLES : last * SAMPLES]
    if name.endswith("logits"):
        return x[logits.index(first / FPS, len(x), frames / FPS):
                 logits.index(last / FPS, len(x), frames / FPS)]
    return x[first:last] if len(x) == frames else x

