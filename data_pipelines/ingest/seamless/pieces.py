"""Which stretches of an interaction become clips."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.ingest.seamless.seen import FPS, runs

SHORTEST = 2 * FPS  # frames
SPOKEN = "cut while somebody speaks: there is no silence"


def cut(known_N: np.ndarray, activity: Sequence[Sequence[Sequence[float]]], max_seconds: float
        ) -> Iterator[tuple[int, int, str]]:
    """Yields (first frame, last + 1, "" or what is to be noted).

    Args:
      known_N: frames that can be used.
      activity: of every speaker, [[start, end], ...] in seconds.
      max_seconds: of a piece; it ends in the last silence of all speakers before, if there is one.
    """
    silent_N = np.ones(len(known_N), bool)
    for start, end in (span for mine in activity for span in mine):
        silent_N[int(start * FPS): int(np.ceil(end * FPS))] = False
    middles = [(a + b) // 2 for a, b in runs(silent_N)]
    longest = max(SHORTEST, int(max_seconds * FPS))
    for first, last in usable(known_N):
        while last - first > longest:
            least, most = first + SHORTEST, min(first + longest, last - SHORTEST)
            inside = [m for m in middles if least <= m <= most]
            end = inside[-1] if inside else max(most, least)
            yield first, end, "" if inside else SPOKEN
            first = end
        yield first, last, ""


def usable(known_N: np.ndarray) -> list[tuple[int, int]]:
    """Stretches that are known and long enough."""
    return [(a, b) for a, b in runs(known_N) if b - a >= SHORTEST]


def lost(known_N: np.ndarray) -> list[tuple[int, int]]:
    """What lies between and around `usable` and would have been a clip: long enough."""
    free_N = np.ones(len(known_N), bool)
    for a, b in usable(known_N):
        free_N[a:b] = False
    return usable(free_N)
