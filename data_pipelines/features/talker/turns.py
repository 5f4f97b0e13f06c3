"""The turns of dialogues as clips of their own: one speaker, what is said and how it is said.

A dialogue's clip has the text of everybody and one speaker's channel from beginning to end, while
Talker learns utterances. A turn is "<clip>.<k>", the k-th of the clip's own speaker, with MARGIN
around it; those of less than SHORTEST seconds, such as a yes, are passed over.
"""

import bisect
import json
from collections.abc import Iterator

from avjax.errors import UserError

MARGIN = 0.1  # seconds (ours)
SHORTEST = 1.0  # seconds (ours)
_FRAME = 1 / 30  # seconds: turns are cut at frames of the pictures, whole samples at 22 050 Hz


class Turns:
    """A view of a clip dataset, to be read as one: each of its records' own turns is a record.

    Raises UserError: a split without turns.
    """

    def __init__(self, clips):
        self._clips = clips
        self._spans = {split: _spans(clips, split) for split in clips.splits}
        self.splits = {split: sum(map(len, spans)) for split, spans in self._spans.items()}
        for split, count in self.splits.items():
            if not count:
                raise UserError("no turns here", where=f"{clips.dir}, {split}", found="none",
                                expected=f"a turn of {SHORTEST:g} s or more",
                                hint="prepare longer conversations")

    def __getattr__(self, name: str):
        if name.startswith("_"):  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._clips, name)

    def source(self, split: str, fields=None) -> "Source":
        """As that of a Dataset."""
        fields = tuple(self._clips.features if fields is None else fields)
        return Source(self._clips, split, fields, self._spans[split])


class Source:
    """Random access to the turns of a split."""

    def __init__(self, clips, split: str, fields: tuple[str, ...], spans: list[list[tuple]]):
        self._fields, self._features, self._spans = fields, clips.features, spans
        self._clips = clips.source(split, tuple(dict.fromkeys((*fields, "id"))))
        self._starts = [0]
        for own in spans:
            self._starts.append(self._starts[-1] + len(own))

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"turn {index} of {len(self)}")
        which = bisect.bisect_right(self._starts, index) - 1
        k = index - self._starts[which]
        text, first, last = self._spans[which][k]
        clip = self._clips[which]
        return {name: self._cut(name, clip[name], f"{clip['id']}.{k}", text, first, last)
                for name in self._fields}

    def _cut(self, name: str, value, id: str, text: str, first: int, last: int):
        if name == "id":
            return id
        if name == "text":
            return text
        if name in ("words", "phonemes"):
            start, end = first * _FRAME, last * _FRAME
            return json.dumps([[w, round(a - start, 4), round(b - start, 4)]
                               for w, a, b in json.loads(value) if start <= a and b <= end])
        feature = self._features[name]
        if feature.shape[:1] != (None,) or not feature.rate:
            return value
        a, b = (round(frame * _FRAME * feature.rate) for frame in (first, last))
        return value[a:b]


def _spans(clips, split: str) -> list[list[tuple[str, int, int]]]:
    """Of every record, (text, first frame, last frame + 1) of its own speaker's turns."""
    out = []
    seconds_N = clips.lengths(split, ("audio",))["audio"] / clips.features["audio"].rate
    for row, seconds in zip(clips.source(split, ("side", "events")), seconds_N, strict=True):
        own = [e for e in json.loads(row["events"]) if e["kind"] == "turn"
               and str(e["speaker"]) == row["side"] and e["end"] - e["start"] >= SHORTEST]
        out.append([(e["text"], round(max(e["start"] - MARGIN, 0.0) / _FRAME),
                     int(min(e["end"] + MARGIN, seconds) / _FRAME + 1e-6)) for e in own])
    return out
