"""Voices of a network in Talker's and TAVID's features; models refuse those of another kind."""

import types

import numpy as np
import pytest

from avjax.encoders import voice_statistics
from avjax.encoders.voices import ge2e
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.tavid.speaker import config as speaker_mapper
from data_pipelines import extract
from data_pipelines.features.common.clips import to_float
from data_pipelines.features.talker import extract as talker
from data_pipelines.features.talker.frontend import Encoder
from data_pipelines.features.tavid import conversations, frozen_encoders
from data_pipelines.loading import loader
from tests import ge2e_weights
from tests.data_pipelines.features.dialogues import UNITS


@pytest.fixture(autouse=True)
def network(monkeypatch):
    ge2e_weights.install(monkeypatch)
    return ge2e.Ge2e()


def test_of_a_dialogue(clips, tmp_path):
    made = extract.extract(clips.dir, tmp_path / "out", features="tavid", voice="ge2e",
                           num_units=UNITS, video=0.0, progress=False)
    assert set(made.codec("voices")) == set(ge2e_weights.random_weights())
    for example in made.source("train"):
        np.testing.assert_allclose((example["voices"]**2).mean(-1), 1, rtol=1e-5)
    config = speaker_mapper.tiny()
    for recipe, fits in ((made.recipes["voices"], True), (voice_statistics.RECIPE, False)):
        config.voices_recipe = dict(recipe)
        spec = {"voices": api.build(config).example_spec["voices"]}
        if fits:
            assert loader.check_features(made, spec) == ("voices",)
            continue
        with pytest.raises(UserError, match="voices.*mel-statistics.*ge2e"):
            loader.check_features(made, spec)


def test_of_talker(clips, network, tmp_path):
    made = extract.extract(clips.dir, tmp_path / "out", features="talker", voice="ge2e:own",
                           progress=False)
    assert made.recipes["voice"] | {"kind": "ge2e", "of": "own"} == made.recipes["voice"]
    example = made.source("train")[0]
    speaker = made.codec("speakers")
    assert speaker["voice"].shape == (len(speaker["names"]), 256) and np.isfinite(
        speaker["voice"]).all()
    assert abs((example["voice"]**2).mean() - 1) < 1e-5
    front = Encoder.from_codecs(made.recipes, {n: made.codec(n) for n in made.codecs})
    audio = to_float(clips.source("train")[0]["audio"])
    assert front.voice(audio, 22050).shape == (256,)
    with pytest.raises(UserError, match="too little speech"):
        front.voice(audio[:4000] + 0.1, 22050)


def test_who_says_too_little_has_the_voice_of_other_recordings(clips):
    source = frozen_encoders.Source(clips, conversations.speaker_prefixes(clips), None,
                                    voice="ge2e")
    sound = to_float(clips.source("train")[0]["audio"])
    record = types.SimpleNamespace(clip={"id": "new"}, names=["a", "b", "c"],
                                   audio=[sound, sound[:4000] + 0.1, sound * 0])
    source.mean_voices = {"b": np.ones(256, np.float32)}
    of_a, of_b, of_c = source.voices([record])["new"]
    assert abs(np.linalg.norm(of_a) - 1) < 1e-5
    np.testing.assert_array_equal(of_b, 1)
    assert np.isnan(of_c).all()  # whose clips are left out


def test_references_pass_over_whom_nobody_hears():
    vectors = {name: np.full(256, np.nan if name in "bdx" else ord(name)) for name in "abcdxy"}
    voices = {name: ("train", "two" if name in "xy" else "one", v) for name, v in vectors.items()}
    voices["z"] = "valid", "one", vectors["b"]
    found = {name: v[0] for name, v in talker._references(voices).items()}
    assert found.pop("z") != found["a"]  # NaN: nobody of that split is heard
    assert {name: chr(int(v)) for name, v in found.items()} == {
        "a": "c", "b": "c", "c": "a", "d": "a", "x": "y", "y": "y"}
