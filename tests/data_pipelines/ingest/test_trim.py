"""Silence at both ends of recordings is cut, sound and pictures alike."""

import json

import numpy as np
import pytest
import soundfile

from avjax.errors import UserError
from data_pipelines import prepare
from data_pipelines.ingest.clips import prepare as clips
from data_pipelines.ingest.common import recordings
from data_pipelines.store import dataset as store
from tests.data_pipelines.ingest import small_films

RATE = 16000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trim")
    at = np.arange(8 * RATE) / RATE
    buzz = 0.3 * np.sign(np.sin(2 * np.pi * 200 * at))
    soundfile.write(folder / "ann.wav", buzz * ((at >= 1) & (at < 7)), RATE)
    # loud enough to be a recording, and nothing that stands out
    soundfile.write(folder / "click.wav", np.where(at == 4, 0.99, 0.0).repeat(2) * 1.0, RATE)
    return folder


def test_only_what_is_around_speech_stays(source, tmp_path):
    found = prepare.prepare("clips", source=source, out=tmp_path / "out", audio_only=True,
                            trim_silence="energy", progress=False)
    dataset = store.open_dataset(tmp_path / "out" / "clips")
    rows = [row for split in dataset.splits for row in dataset.source(split)]
    lost = 0.5  # seconds between what is trained on and what is held out
    assert sum(len(r["audio"]) for r in rows) / 22050 == pytest.approx(6 + 2 * 0.2 - lost, abs=0.2)
    assert {row["id"]: row["reason"] for row in found["quarantine"]} == {
        "click": "no speech"}
    with pytest.raises(UserError, match="made with other options.*trim_silence='energy'"):
        clips.prepare(source, tmp_path / "out", audio_only=True, progress=False)


def test_pictures_stay_with_the_sound(tmp_path):
    at = np.arange(5 * RATE) / RATE
    buzz = 0.3 * np.sign(np.sin(2 * np.pi * 200 * at)) * ((at >= 1.5) & (at < 4.2))
    small_films.film(tmp_path / "ann.mp4", 5.0, fps=10, sound=buzz.astype(np.float32))
    [source] = recordings.find(tmp_path)
    found = recordings.read(source, size=48, trim="energy", detect=lambda grey: [(8, 8, 48, 48)])
    assert len(found.audio) == 735 * len(found.crops)
    assert len(found.crops) / 30 == pytest.approx(2.7 + 0.4, abs=0.2)
    begin = 1.5 - np.abs(found.audio > 3000).argmax() / 22050  # seconds of the film
    shown = small_films.pictures_at(found.crops)
    expected = (begin + np.arange(len(shown)) / 30) * 10
    assert np.abs(np.array(shown) - expected).max() <= 1


def test_a_recording_without_speech_is_told_of(source, tmp_path):
    strict = "energy:min_speech_ms=60000"
    with pytest.raises(UserError, match="no usable recording.*no speech"):
        clips.prepare(source, tmp_path / "out", audio_only=True, trim_silence=strict,
                      progress=False)
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert "no speech" in {json.loads(line)["reason"] for line in lines}
