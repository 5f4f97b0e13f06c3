"""Turn-taking of channels whose speech is known: dGSLM's events (Nguyen et al. 2022,
arXiv:2203.16502), and turns and back-channels as datasets of dialogues keep them.

    IPU      speech of a channel, joined over its own silences of at most 200 ms
    overlap  two channels (or more) inside an IPU
    pause    nobody speaks, and the channel that spoke last goes on
    gap      nobody speaks, and another channel goes on
    turn     IPUs of a channel joined over pauses: nobody else spoke between them
Times are integer milliseconds, intervals half-open, any number of channels. Silence before the
first and after the last word is neither pause nor gap. Where two channels stop (or start) on the
same millisecond, a silence counts as a pause if any channel is on both its sides; the paper does
not say.
"""

from collections.abc import Sequence

import numpy as np

from avjax.signal.runs import intervals

JOIN_MS = 200


def ipus(vad_K2: np.ndarray, join_ms: int = JOIN_MS) -> np.ndarray:
    """Speech separated by at most `join_ms` becomes one interval."""
    joined: list[list[int]] = []
    for start, end in sorted(map(tuple, np.asarray(vad_K2, np.int64).reshape(-1, 2).tolist())):
        if joined and start - joined[-1][1] <= join_ms:
            joined[-1][1] = max(joined[-1][1], end)
        elif end > start:
            joined.append([start, end])
    return np.array(joined, np.int64).reshape(-1, 2)


def events(vads: Sequence[np.ndarray], total_ms: int) -> dict[str, np.ndarray]:
    """{event: (K, 2) ms}; IPUs and turns of all channels together, channel by channel.

    Args:
      vads: (K, 2) speech of every channel.
      total_ms: of the dialogue.
    """
    units = [ipus(v) for v in vads]
    speaking_CN = np.zeros((len(units), total_ms), bool)
    for channel, spans in enumerate(units):
        for start, end in spans:
            speaking_CN[channel, start:end] = True
    count_N = speaking_CN.sum(0)
    pauses, gaps = [], []
    for start, end in intervals(count_N == 0):
        if start == 0 or end == total_ms:
            continue
        same = (speaking_CN[:, start - 1] & speaking_CN[:, end]).any()
        (pauses if same else gaps).append((start, end))
    turns = [ipus_joined(spans, set(pauses)) for spans in units]
    table = {"ipu": units, "pause": [pauses], "gap": [gaps], "overlap": [intervals(count_N > 1)],
             "turn": turns}
    return {name: np.concatenate([np.asarray(x, np.int64).reshape(-1, 2) for x in parts]) for name,
            parts in table.items()}


def ipus_joined(ipus_K2: np.ndarray, pauses: set[tuple[int, int]]) -> np.ndarray:
    """Turns of one channel: its IPUs joined where what lies between two of them is a pause."""
    out: list[list[int]] = []
    for start, end in np.asarray(ipus_K2).tolist():
        if out and (out[-1][1], start) in pauses:
            out[-1][1] = end
        else:
            out.append([start, end])
    return np.array(out, np.int64).reshape(-1, 2)
