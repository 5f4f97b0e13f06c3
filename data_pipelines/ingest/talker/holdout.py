"""Which rows are held out."""

import collections

import numpy as np

from avjax.errors import UserError
from data_pipelines.ingest.common.holdout import place
from data_pipelines.ingest.talker.listing import Listing, Row


class Plan:
    """Which split a row belongs to. One pass over the csv and the list, before anything is read;
    keeps no rows.

    `counts` {split: rows}, in the order in which splits are written; `total` rows.
    """

    def __init__(self, listing: Listing, share: float):
        named, lowest = collections.Counter(), {True: 1.0, False: 1.0}
        for row in listing:
            if not row.speech_only:
                named[row.split] += 1
            lowest[row.speech_only] = min(lowest[row.speech_only], place(row.group))
        self._by_csv = any(split != "train" for split in named)
        # A share by hash; where the dataset is so small that nobody falls below it, the lowest one
        # is held out.
        floor = {kind: np.nextafter(lowest[kind], 2) if kind is (not named) else 0.0
                 for kind in lowest}
        self._below = {kind: max(share, floor[kind]) if share else 0.0 for kind in lowest}
        found = collections.Counter(self.split(row) for row in listing)
        self.total = found.total()
        self.counts = {split: found[split]
                       for split in sorted(found, key=lambda s: (s != "train", s))}
        if not self.total:
            raise UserError("no rows", where=str(listing.csv), expected="at least one", found="0")
        if not found["train"]:
            raise UserError("nothing left to train on", where=str(listing.csv),
                            expected="two recordings or more",
                            found=f"{self.total} rows, all held out",
                            hint="more data, --recording or --valid_share=0")

    def split(self, row: Row) -> str:
        """train, valid, test (the csv's), or valid_tts."""
        if self._by_csv and not row.speech_only:
            return row.split
        held_out = place(row.group) < self._below[row.speech_only]
        return "train" if not held_out else "valid_tts" if row.speech_only else "valid"
