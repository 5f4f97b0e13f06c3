"""Pairs of pieces of two speakers whose sounds differ, and what a user reads of them."""

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.store import columns
from data_pipelines.store import dataset as store
from launch.jobs.recordings import voices
from tests import ge2e_weights

RATE = 22050


def clips(out, names, seconds=6):
    rng = np.random.default_rng(len(names))
    at = np.arange(seconds * RATE) / RATE
    rows = [{"id": f"clip{i}", "text": "", "mended": "[]", "speaker": name, "words": "[]",
             "identity": columns.identity_of(name),
             "audio": (6000 * np.sign(np.sin(2 * np.pi * {"low": 100, "high": 240}[name] * at))
                       + 300 * rng.normal(size=len(at))).astype(np.int16)}
            for i, name in enumerate(names)]
    return store.write_dataset(out, name="clips", description="", recipes={}, progress=False,
                               features=columns.of_clip() | columns.of_speaker(),
                               splits={"train": rows[:-1], "valid": rows[-1:]})


def test_one_speaker_is_closer_than_two(tmp_path, monkeypatch):
    ge2e_weights.install(monkeypatch)
    two = [clips(tmp_path / "a", ["low", "high", "low"]), clips(tmp_path / "b", ["high", "low"])]
    report = voices.compare(two, None, ["statistics", "ge2e"], 3.0, 100)
    assert (report["pieces"], report["recordings"], report["speakers"]) == (10, 5, 2)
    for numbers in report["by"].values():
        pairs = [numbers[name]["pairs"] for name in voices.RELATIONS]
        assert pairs == [5, 16, 24]  # of 2 pieces a recording, 3 and 2 recordings
        assert numbers["told apart"] == 1.0
        assert numbers["one speaker"]["mean"] > numbers["two speakers"]["mean"]
    table = voices.text(report).splitlines()
    assert len(table) == 2 + 2 * 3 and table[-1].split()[-1] == "1.000"
    few = voices.compare(two[:1], "train", ["statistics"], 3.0, 3)
    assert few["pieces"] == 3 and few["by"]["statistics"]["one speaker"] == {"pairs": 0}


def test_what_cannot_be_compared_is_said(tmp_path, monkeypatch):
    ge2e_weights.install(monkeypatch)
    short = clips(tmp_path / "a", ["low", "high"], seconds=1)
    short_by = ["ge2e"]
    with pytest.raises(UserError, match="no voices to compare.*train, valid"):
        voices.compare([short], "test", short_by, 3.0, 100)
    with pytest.raises(UserError, match="no two pieces.*1 s of speech.*found: 0"):
        voices.compare([short], None, short_by, 3.0, 100)
