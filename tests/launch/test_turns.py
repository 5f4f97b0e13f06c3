"""Turns of a dialogue whose channels are known, by its events and by a voice activity."""

import json

import numpy as np
import pytest

from avjax.encoders.voice_activity import Detector
from avjax.errors import UserError
from data_pipelines.store import columns
from data_pipelines.store import dataset as store
from launch.jobs.recordings import turns

RATE = 22050
SAID = [(0, 0.5, 2.0), (1, 2.5, 4.5), (0, 4.2, 5.5)]  # speaker, start, end


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    at = np.arange(6 * RATE) / RATE
    buzz = 9000 * np.sign(np.sin(2 * np.pi * 150 * at))
    sound = [(buzz * np.any([(a <= at) & (at < b) for who, a, b in SAID if who == s], 0)).astype(
        np.int16) for s in (0, 1)]
    events = [{"kind": "turn", "speaker": s, "start": a, "end": b, "text": "so"}
              for s, a, b in SAID] + [{"kind": "gap", "start": 2.0, "end": 2.5}]
    row = {"text": "", "mended": "[]", "events": json.dumps(events)}
    for prefix, x in zip(columns.PREFIXES, sound, strict=False):
        row |= {f"{prefix}speaker": "x", f"{prefix}words": "[]", f"{prefix}audio": x,
                f"{prefix}identity": columns.identity_of("x")}
    features = columns.of_clip() | columns.of_dialogue() | columns.of_speaker() | (
        columns.of_speaker("partner_"))
    sides = [row | {"id": f"a/{side}", "side": str(side)} for side in (0, 1)]
    return store.write_dataset(tmp_path_factory.mktemp("turns") / "clips", name="two",
                               description="", features=features, recipes={},
                               splits={"train": sides}, progress=False)


def test_events_and_sound_say_the_same(clips):
    report = turns.count(clips, "train", {"energy": Detector()})
    assert (report["clips"], report["channels"], report["seconds"]) == (1, 2, 6.0)
    said, heard = report["by"]["transcript"], report["by"]["energy"]
    assert said["speech_s"] == pytest.approx(4.8, abs=0.02) and said["agrees"] == 1
    assert (said["turn_per_minute"], said["gap_per_minute"], said["overlap_per_minute"]) == (
        30, 10, 10)
    assert said["gap_mean_s"] == pytest.approx(0.5) and said["pause_mean_s"] is None
    assert said["transfer_mean_s"] == pytest.approx((0.5 - 0.3) / 2)
    for event in ("turn", "gap", "overlap", "ipu", "pause"):
        assert heard[f"{event}_per_minute"] == said[f"{event}_per_minute"]
    assert 0.95 < heard["agrees"] < 1
    table = turns.text(report).splitlines()
    assert len(table) == 4 and "agreement with transcript" in table[0]
    longer = {"neural:min_silence_ms=300": report["by"]["energy"], "energy": report["by"]["energy"]}
    lines = turns.text(report | {"by": longer}).splitlines()[1:]
    assert len(set(map(len, lines))) == 1 and len({line.rindex(" s") for line in lines[1:]}) == 1
    assert table[2].split()[:3] == ["transcript", "4.8", "100.0%"]


def test_a_split_that_is_not_there(clips):
    with pytest.raises(UserError, match="no conversations to count in.*test"):
        turns.count(clips, "test", {"energy": Detector()})
