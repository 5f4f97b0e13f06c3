"""How loud a recording is decides about nothing that models see; what else is unlike the training
recordings is said."""

import types

import numpy as np
import pytest
import soundfile

from avjax.codecs import latents
from avjax.encoders import speech_frames, units, voice_statistics
from avjax.errors import UserError
from avjax.signal import kmeans, level, mel
from avjax.systems.api import Spec
from data_pipelines import prompting
from data_pipelines.features.avflow.prompt import tokens_from_audio
from data_pipelines.features.common import heard
from data_pipelines.features.talker import frontend
from data_pipelines.features.talker.tokenizer import Tokenizer
from data_pipelines.puppets import voice

RATE = 22050
QUIETER = (1 / 4, 0.1, 1 / 64)


@pytest.fixture(scope="module")
def speech():
    """Two different sentences of two voices, at 22 050 Hz."""
    said = ("My brother walked home slowly, after the storm.",
            "Can you bring me the big blue book?")
    spoken = [voice.speak(text, np.full(8, x)).audio for text,
              x in zip(said, (-0.5, 0.5), strict=True)]
    return np.concatenate([x.astype(np.float32) / 32768 for x in spoken])


def test_the_level_is_that_of_the_speech_alone():
    """A tone of known power, with pauses and an offset: 3 dB below its amplitude, but for the
    blocks half in the pause."""
    time_N = np.arange(12 * RATE) / RATE
    tone_N = 0.1 * np.sin(2 * np.pi * 440 * time_N) * (time_N < 10)
    assert level.speech_db(tone_N, RATE) == pytest.approx(-23.01, abs=0.2)
    assert level.speech_db(tone_N + 0.5, RATE) == pytest.approx(-23.01, abs=0.2)
    padded_N = np.concatenate([np.zeros(60 * RATE), tone_N])
    assert level.speech_db(padded_N, RATE) == pytest.approx(-23.01, abs=0.2)
    assert level.speech_db(level.normalised(padded_N, RATE), RATE) == pytest.approx(-20.0, abs=0.01)
    # shorter than a block
    assert level.speech_db(tone_N[:2000], RATE) == pytest.approx(-23.01, abs=0.2)


def test_silence_and_what_is_no_sound_stay_as_they_are():
    for x in (np.zeros(RATE, np.float32), np.zeros(0, np.float32),
              np.full(RATE, np.nan, np.float32), np.full(RATE, 0.3, np.float32),
              1e-5 * np.sin(np.arange(RATE, dtype=np.float32))):
        np.testing.assert_array_equal(level.normalised(x, RATE), x)
    with pytest.raises(UserError, match="not floating point"):
        mel.of_speech(np.ones(RATE, np.int16))


def test_the_same_sound_at_other_levels(speech):
    same = level.normalised(speech, RATE)
    # powers of two: to the last bit
    np.testing.assert_array_equal(level.normalised(speech / 4, RATE), same)
    np.testing.assert_allclose(level.normalised(speech * np.float32(0.1), RATE), same, atol=1e-6)
    assert level.speech_db(same, RATE) == pytest.approx(-20.0, abs=0.01)


def test_tokens_of_avflow(speech):
    codecs = {"tokens": {"centroids": kmeans.fit(mel.of_speech(speech), 64, seed=0)}}
    recipe = {"kind": "units", "level": level.RECIPE}
    loud = tokens_from_audio(speech, recipe, codecs).argmax(1)
    for gain in QUIETER:
        quiet = speech * np.float32(gain)
        assert (tokens_from_audio(quiet, recipe, codecs).argmax(1) == loud).mean() > 0.998
        # before levels were taken out
        as_trained = tokens_from_audio(quiet, {"kind": "units"}, codecs)
        assert (as_trained.argmax(1) == loud).mean() < 0.7


def test_latents_voices_and_units(speech):
    makers = [lambda x: front_end(speech).audio(x, RATE), voice_statistics.statistics,
              lambda x: speech_frames.MelFrames()([x])[0]]
    for make in makers:
        loud = make(speech)
        for gain in QUIETER:
            np.testing.assert_allclose(make(speech * np.float32(gain)), loud, atol=2e-3)


def front_end(speech):
    """Talker's, as far as it knows sound."""
    moments = latents.moments()
    moments.add(latents.stacked_mel(speech))
    voices = voice_statistics.VoiceStatistics(np.zeros(256), np.ones(256))
    return frontend.Encoder(Tokenizer.fit(["Hello."]), latents.fit(moments, 8), voices)


def test_what_knew_no_level_is_taken_as_it_was(speech):
    made = front_end(speech)
    assert made.recipes["audio"]["level"] == made.recipes["voice"]["level"] == level.RECIPE
    old = {name: {k: v for k, v in recipe.items() if k != "level"} for name,
           recipe in made.recipes.items()}
    before = frontend.Encoder.from_codecs(old, made.codecs)
    assert before.recipes == old
    assert np.abs(before.audio(speech / 4, RATE) - before.audio(speech, RATE)).mean() > 0.1
    old = units.UnitEncoder(speech_frames.MelFrames(), np.zeros((3, 120))).recipe
    old["frames"] = {k: v for k, v in old["frames"].items() if k != "level"}
    assert units.from_recipe(old, {"centroids": np.zeros((3, 120))}).recipe == old


def test_recordings_unlike_those_of_training(speech):
    found = np.stack([heard.measures(x, RATE) for x in np.array_split(speech, 3)])
    codecs = {heard.CODEC: {"names": np.array(list(heard.MEASURES)), "low": found.min(0),
                            "high": found.max(0)}}
    recipe = {"level": level.RECIPE}

    def told(x):
        return " ".join(heard.remarks(x.astype(np.float32), RATE, codecs, recipe))

    assert told(speech) == told(speech / 4) == ""
    assert "speech at -55 dB" in told(speech / 64)
    assert "of the samples at its peak" in told(np.clip(speech, -0.1, 0.1))
    assert "above 4 kHz" in told(low_pass(speech, 3400))
    noise = np.random.default_rng(0).standard_normal(len(speech)) * 0.05
    assert "quietest moments" in told(speech + low_pass(noise, 3000))
    assert told(np.zeros(RATE)) == "warning: --audio is silent"
    assert "as loud as it came" in heard.remarks(speech, RATE, {}, {"kind": "units"})[0]


def test_avflow_drives_alike_at_another_level_and_passes_remarks_on(speech, tmp_path):
    centroids = kmeans.fit(mel.of_speech(speech), 8, seed=0)
    codecs = {"tokens": {"centroids": centroids},
              "speakers": {"names": ["ann"], "identity": np.zeros((1, 8))}}
    decoder = types.SimpleNamespace(recipes={"tokens": {"kind": "units", "level": level.RECIPE}},
                                    codecs=codecs)
    spec = {"tokens": Spec(("batch", "time", 8), "float32", "tokens"),
            "mask": Spec(("batch", "time"), "float32", "mask")}
    system = types.SimpleNamespace(tasks=("a2v",), conditions_spec=spec,
                                   config=types.SimpleNamespace(frame_rate=86.0))
    builder, prompts = prompting.builder("avflow"), []
    for name, x in (("loud", speech), ("quiet", speech / 4), ("silent", 0 * speech)):
        soundfile.write(tmp_path / f"{name}.wav", x, RATE, subtype="FLOAT")
        request = builder.request("avflow", audio=str(tmp_path / f"{name}.wav"))
        prompts.append(builder.build(request, system, decoder))
    np.testing.assert_array_equal(prompts[0].conditions["tokens"], prompts[1].conditions["tokens"])
    assert prompts[0].remarks == prompts[1].remarks == ()
    assert prompts[2].remarks == ("warning: --audio is silent",)


def low_pass(x_N, hertz):
    spectrum_K = np.fft.rfft(x_N)
    spectrum_K[np.fft.rfftfreq(len(x_N), 1 / RATE) > hertz] = 0
    return np.fft.irfft(spectrum_K, len(x_N))
