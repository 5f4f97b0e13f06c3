"""How recordings are cut into clips, and which clips are held out.

Held out (split "valid"): of a speaker with five recordings or more, the last tenth of the
recordings, by name; otherwise the end (15 %, at least 1.5 s) of every recording of 5 s or more,
half a second after what is trained on.
"""

import collections
import math

import numpy as np

from avjax.errors import UserError
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.common.recordings import FPS

GAP = 0.5  # seconds between what is trained on and what is held out


def plan(lengths: list[tuple[recordings.Source, int]],
         max_seconds: float) -> dict[str, list[tuple]]:
    """(source, frames) of all recordings -> {split: [(source, first frame, last frame + 1)]}, in
    order of id.

    Raises UserError when nothing can be held out.
    """
    by_speaker = collections.defaultdict(list)
    for item, frames in sorted(lengths, key=lambda pair: pair[0].id):
        by_speaker[item.speaker].append((item, frames))
    splits = {"train": [], "valid": []}
    for mine in by_speaker.values():
        whole = math.ceil(len(mine) / 10) if len(mine) >= 5 else 0
        for index, (item, frames) in enumerate(mine):
            if whole:
                split = "valid" if index >= len(mine) - whole else "train"
                splits[split] += _cut(item, 0, frames, max_seconds)
            elif frames >= 5 * FPS:
                held = max(round(1.5 * FPS), round(0.15 * frames))
                splits["train"] += _cut(item, 0, frames - held - round(GAP * FPS), max_seconds)
                splits["valid"] += _cut(item, frames - held, frames, max_seconds)
            else:
                splits["train"] += _cut(item, 0, frames, max_seconds)
    if not splits["valid"]:
        raise UserError("nothing to hold out", where="the accepted recordings",
                        expected="one of 5 s or more, or "
                        "five of one speaker", found=f"{len(lengths)} shorter ones",
                        hint="add longer recordings")
    return splits


def _cut(item, first: int, last: int, max_seconds: float) -> list[tuple]:
    parts = math.ceil((last - first) / (max_seconds * FPS))
    edges = np.linspace(first, last, parts + 1).round().astype(int).tolist()
    return [(item, a, b) for a, b in zip(edges, edges[1:], strict=False)]
