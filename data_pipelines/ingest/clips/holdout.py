"""How recordings are cut into clips, and which clips are held out.

Held out (split "valid"): of a speaker with five recordings or more, the last tenth of the
recordings, by name; otherwise the end (15 %, at least 1.5 s) of every recording of 5 s or more,
half a second after what is trained on. Of what filters left of a recording, the same holds: pieces
shorter than a second, which the border between the two can leave, are not used.
"""

import collections
import math
from collections.abc import Mapping

import numpy as np

from avjax.errors import UserError
from data_pipelines.ingest.common import recordings
from data_pipelines.ingest.common.recordings import FPS

GAP = 0.5  # seconds between what is trained on and what is held out
LEAST = 1.0  # seconds of a piece


def plan(lengths: list[tuple[recordings.Source, int]], max_seconds: float,
         kept: Mapping[str, np.ndarray] | None = None) -> dict[str, list[tuple]]:
    """(source, frames) of all recordings -> {split: [(source, first frame, last frame + 1)]}, in
    order of id. `kept`: {id: (S, 2) stretches} of the recordings that are not used whole.

    Raises UserError when nothing can be held out.
    """
    by_speaker = collections.defaultdict(list)
    for item, frames in sorted(lengths, key=lambda pair: pair[0].id):
        by_speaker[item.speaker].append((item, frames))
    splits = {"train": [], "valid": []}
    for mine in by_speaker.values():
        whole = math.ceil(len(mine) / 10) if len(mine) >= 5 else 0
        for index, (item, frames) in enumerate(mine):
            stretches = np.asarray((kept or {}).get(item.id, [(0, frames)]))
            count = int(np.diff(stretches).sum())
            if whole:
                split = "valid" if index >= len(mine) - whole else "train"
                splits[split] += _cut(item, stretches, max_seconds)
            elif count >= 5 * FPS:
                border = _border(stretches, max(round(1.5 * FPS), round(0.15 * count)))
                splits["train"] += _cut(item, stretches.clip(max=border - round(GAP * FPS)),
                                        max_seconds)
                splits["valid"] += _cut(item, stretches.clip(min=border), max_seconds)
            else:
                splits["train"] += _cut(item, stretches, max_seconds)
    if not splits["valid"]:
        raise UserError("nothing to hold out", where="the accepted recordings",
                        expected="one of 5 s or more, or "
                        "five of one speaker", found=f"{len(lengths)} shorter ones",
                        hint="add longer recordings")
    return splits


def _border(stretches: np.ndarray, held: int) -> int:
    """The frame from which on the stretches have `held` frames."""
    for first, last in stretches[::-1].tolist():
        if last - first >= held:
            return last - held
        held -= last - first
    return first


def _cut(item, stretches: np.ndarray, max_seconds: float) -> list[tuple]:
    out = []
    for first, last in stretches.tolist():
        if last - first >= LEAST * FPS:
            parts = math.ceil((last - first) / (max_seconds * FPS))
            edges = np.linspace(first, last, parts + 1).round().astype(int).tolist()
            out += [(item, a, b) for a, b in zip(edges, edges[1:], strict=False)]
    return out
