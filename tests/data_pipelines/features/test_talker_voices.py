"""Talker's voices by WavLM with ECAPA-TDNN: extracted, given again at generation, never mixed."""

import shutil
import types

import numpy as np
import pytest
import soundfile

from avjax.encoders import windows
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.systems import api
from avjax.systems.talker import config as talker_config
from data_pipelines import extract, prompting
from data_pipelines.features.common import clips as common
from data_pipelines.features.talker import voices
from data_pipelines.loading.loader import check_recipes
from data_pipelines.puppets import build
from launch.jobs.recordings.voices import compare
from tests.encoders.test_wavlm_ecapa import write
from tests.golden_files import relative_error, some

RATE = 22050
NOISE = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def weights(folder):
    """Of a small network; all sound is padded alike, so that it is compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "bucket", lambda samples, *steps: -(-samples // 80000) * 80000)
        yield write(some("wavlm_ecapa"), folder / "finetune.pth")
    wavlm_ecapa.load.cache_clear()


@pytest.fixture(scope="module")
def clips(folder):
    return build.prepare(folder / "clips", sentences=4, valid=1, test=1, speakers=2, progress=False)


@pytest.fixture(scope="module")
def features(clips, folder, weights):
    return extract.extract(clips.dir, folder / "features", features="talker",
                           voice=f"{weights}:own", vocabulary=300, progress=False)


@pytest.fixture
def build_prompt(features):
    c = talker_config.default()
    c.update(dict(vocab=400, speaker_dim=24, max_frames=400, row_tokens=512))
    system = api.build(c)

    def of(workdir=None, **request):
        codecs = {name: features.codec(name) for name in features.codecs}
        decoder = types.SimpleNamespace(recipes=features.recipes, codecs=codecs, workdir=workdir)
        builder = prompting.builder("talker")
        return builder.build(builder.request("talker", **request), system, decoder).conditions

    return of


def test_a_voice_is_the_network_s_of_its_own_recording(clips, features, weights):
    network = wavlm_ecapa.load(weights)
    sound = {c["id"]: common.to_float(c["audio"]) for s in clips.splits for c in clips.source(s)}
    for split in features.splits:
        for row in features.source(split):
            wanted = network(resampled(sound[row["id"]], RATE, 16000))
            assert relative_error(row["voice"], wanted) < 1e-5
    assert features.features["voice"].shape == (24,)
    assert "voice" not in features.codecs  # the weights stay in their file
    recipe = features.recipes["voice"]
    assert recipe["kind"] == "wavlm-ecapa" and recipe["of"] == "own"
    assert features.codec("speakers")["voice"].shape == (2, 24)


@pytest.mark.parametrize(("other", "message"), [
    ({"kind": "mel-statistics"}, "kind=wavlm-ecapa"), ({"weights": "0123"}, "weights=0123")])
def test_voices_of_two_encoders_are_not_mixed(features, other, message):
    check_recipes(features, features.recipes, ["voice"], "a model")
    learnt = {"voice": features.recipes["voice"] | other}
    with pytest.raises(UserError, match=f"recipe of 'voice' differs.*{message}"):
        check_recipes(features, learnt, ["voice"], "a model")


def test_they_are_compared_with_other_kinds(clips, weights):
    report = compare([clips], None, ["statistics", weights], 1.0, 12)
    assert set(report["by"]) == {"statistics", weights} and report["pieces"] == 12


def test_generation_hears_the_voice_of_a_recording(build_prompt, weights, folder):
    soundfile.write(folder / "speech.wav", NOISE, RATE, subtype="FLOAT")
    audio = str(folder / "speech.wav")
    given = build_prompt(text="Hello.", task="tts", audio=audio, voice=weights)["speaker"]
    wanted = wavlm_ecapa.load(weights)(resampled(NOISE, RATE, 16000))
    assert relative_error(given, wanted) < 1e-5
    (folder / "work" / voices.FOLDER).mkdir(parents=True)
    shutil.copy(weights, folder / "work" / voices.FOLDER)
    there = build_prompt(folder / "work", text="Hello.", task="tts", audio=audio)["speaker"]
    np.testing.assert_array_equal(there, given)
    with pytest.raises(UserError, match="WavLM with ECAPA-TDNN; where: --voice.*SHA-256.*none"):
        build_prompt(text="Hello.", task="tts", audio=audio)
    assert build_prompt(task="a2v", audio=audio)["speaker"].shape == (24,)  # needs none
    assert build_prompt(text="Hello.", task="tts")["speaker"].shape == (24,)


def test_what_makes_no_voice_is_refused(build_prompt, clips, weights, folder, tmp_path):
    soundfile.write(tmp_path / "short.wav", NOISE[:RATE // 2], RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", 0 * NOISE, RATE, subtype="FLOAT")
    for name, message in (("short", "too little sound.*1 s of speech.*0.50 s"),
                          ("silent", "too little sound.*silent")):
        with pytest.raises(UserError, match=message):
            build_prompt(text="Hello.", task="tts", audio=str(tmp_path / f"{name}.wav"),
                         voice=weights)
    with pytest.raises(UserError, match="--voice without --audio"):
        build_prompt(text="Hello.", task="tts", voice=weights)
    other = write(some("wavlm_ecapa"), tmp_path / "other.pth", bn__bias=np.ones(96, np.float32))
    with pytest.raises(UserError, match="voices of another network.*other.pth.*SHA-256"):
        build_prompt(text="Hello.", task="tts", audio=str(tmp_path / "silent.wav"), voice=other)
    with pytest.raises(UserError, match="unknown voice encoder.*--voice.*file.*found: 'nowhere'"):
        extract.extract(clips.dir, tmp_path / "out", features="talker", voice="nowhere",
                        progress=False)
    request = types.SimpleNamespace(voice=weights, audio="x.wav")
    with pytest.raises(UserError, match="need no such weights.*found: mel-statistics"):
        voices.weights(request, {"kind": "mel-statistics"}, None)
