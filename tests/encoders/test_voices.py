"""GE2E against recorded values of the package and a plain formula; what it cannot hear or find."""

import importlib.util
import pathlib

import numpy as np
import pytest
import soundfile
import soxr

from avjax.encoders import voices
from avjax.encoders.voices import ge2e, speech
from avjax.errors import UserError
from tests.ge2e_weights import Loud, random_weights
from tests.golden_files import cases, config, folder, matching, relative_error


@pytest.fixture(scope="module", params=cases("resemblyzer"))
def recorded(request):
    return request.param


def test_masks_and_windows_equal_recorded(recorded):
    for name in matching(recorded, r"(.+)/vad_flags"):
        flags = recorded[f"{name}/vad_flags"]
        np.testing.assert_array_equal(speech.smoothed(flags), recorded[f"{name}/smoothed_mask"])
        np.testing.assert_array_equal(speech.kept(flags), recorded[f"{name}/dilated_mask"])
    for samples, count, *last in recorded["partial_slices_table"].tolist():
        starts, end = ge2e.partials(samples)
        assert (len(starts), [starts[-1] * 160, end]) == (count, last)
    for name in matching(recorded, r"(.+)/partial_wav_slices"):
        starts, end = ge2e.partials(int(recorded[f"{name}/n_samples"]))
        np.testing.assert_array_equal([[160 * s, 160 * s + 25600] for s in starts],
                                      recorded[f"{name}/partial_wav_slices"])
        assert end <= recorded[f"{name}/padded_samples"]


def test_voices_equal_recorded(recorded):
    """Where the recordings and the packages are."""
    root = pathlib.Path(folder()).absolute().parent.parent
    files = {name: told for name, told in config(recorded)["files"].items()
             if (root / told["name"]).is_file()}
    if not files or not all(map(importlib.util.find_spec, (ge2e.PACKAGE, speech.DETECTOR))):
        pytest.skip(f"the recordings below {root} or the package {ge2e.PACKAGE} are not here")
    network = voices.maker("ge2e")
    for name, told in files.items():
        audio, rate = soundfile.read(root / told["name"], dtype="float32")
        prepared = {"resampled": speech.prepared(soxr.resample(audio, rate, speech.RATE)),
                    "as16k": speech.prepared(audio),
                    "as16k_quiet_untrimmed": speech.raised(audio * np.float32(0.03))}
        np.testing.assert_array_equal(speech.voiced(speech.raised(audio)),
                                      recorded[f"{name}/as16k/vad_flags"])
        for variant, heard in prepared.items():
            expected = {key: recorded[f"{name}/{variant}/{key}"] for key in (
                "n_samples", "mel_first50", "mel_mid50", "partial_embeddings", "embedding")}
            assert len(heard) == expected["n_samples"]
            mel = ge2e.power_mel(np.pad(heard, (0, max(0, ge2e.partials(len(heard))[1]
                                                       - len(heard)))))
            assert len(mel) == recorded[f"{name}/{variant}/mel_frames"]
            assert relative_error(mel[:50], expected["mel_first50"]) < 1e-5
            assert relative_error(mel[100:150], expected["mel_mid50"]) < 1e-5
            windows = network.windows([heard])[0]
            assert relative_error(windows, expected["partial_embeddings"]) < 1e-5
            assert relative_error(network.many([heard])[0], expected["embedding"]) < 1e-5
        np.testing.assert_array_equal(network.prepared(audio), prepared["as16k"])


@pytest.fixture(scope="module")
def weights():
    return random_weights()


def formula(weights, mel):
    """The network written out in numpy, frame after frame."""
    x = mel.astype(np.float64)
    for layer in range(3):
        w, v, b, c = (weights[f"lstm.{n}_l{layer}"]
                      for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        hidden, cell, out = np.zeros(256), np.zeros(256), []
        for frame in x:
            i, f, g, o = np.split(w @ frame + v @ hidden + b + c, 4)
            cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            hidden = np.tanh(cell) / (1 + np.exp(-o))
            out.append(hidden)
        x = np.array(out)
    vector = np.maximum(weights["linear.weight"] @ x[-1] + weights["linear.bias"], 0)
    return vector / np.linalg.norm(vector)


def test_windows_equal_the_formula(weights, monkeypatch):
    network = ge2e.Ge2e(weights)
    sound = np.random.default_rng(1).normal(size=50000).astype(np.float32)
    starts, end = ge2e.partials(len(sound))
    mel = ge2e.power_mel(np.pad(sound, (0, max(0, end - len(sound)))))
    expected = [formula(weights, mel[s:s + 160]) for s in starts]
    assert len(starts) == 3
    monkeypatch.setattr(ge2e, "AT_ONCE", 2)  # two blocks
    np.testing.assert_allclose(network.windows([sound])[0], expected, atol=2e-6)
    mean = np.mean(expected, 0)
    embedding = network.many([sound])[0]
    np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=2e-6)
    again = voices.from_recipe(network.recipe, network.arrays())
    np.testing.assert_array_equal(again.many([sound])[0], embedding)
    scaled = network.fit(None).scale(embedding)
    assert abs((scaled**2).mean() - 1) < 1e-5


def test_too_little_speech_is_said(weights, monkeypatch):
    monkeypatch.setattr(speech, "detector", Loud)
    network = ge2e.Ge2e(weights)
    sound = np.zeros(4 * speech.RATE, np.float32)
    with pytest.raises(UserError, match="no sound.*silence"):
        network.prepared(sound)
    with pytest.raises(UserError, match="no sound.*not finite"):
        network.prepared(sound + np.nan)
    sound[8000:16000] = 0.1 * np.sin(np.arange(8000) * 0.1)
    with pytest.raises(UserError, match=r"too little speech.*1 s.*found: 0\.\d+ s, in 4\.00 s"):
        network.prepared(sound)
    with pytest.raises(UserError, match="too little speech.*in 0.01 s"):
        network.prepared(sound[8000:8200])
    assert np.isnan(voices.heard(network, sound, speech.RATE)).all()
    sound[8000:32000] = 0.1 * np.sin(np.arange(24000) * 0.1)
    prepared = speech.prepared(sound)
    assert 24000 <= len(prepared) < 30000  # long silences are cut out
    assert abs(np.linalg.norm(voices.heard(network, sound, speech.RATE)) - 1) < 1e-5
    quiet = speech.raised(sound * 1e-3)
    assert abs(10 * np.log10(np.mean(quiet**2)) + 30) < 1e-3
    np.testing.assert_array_equal(speech.raised(sound), sound)  # never lowered
    with pytest.raises(UserError, match="no recording has a voice"):
        voices.known(np.full((3, 256), np.nan))


def test_what_is_missing_or_another_network_is_said(weights, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown voice encoder.*statistics or ge2e.*'wavlm'"):
        voices.maker("wavlm")
    with pytest.raises(UserError, match="unknown voice encoder"):
        voices.from_recipe({"kind": "wavlm"}, {})
    with pytest.raises(UserError, match="not the weights of the GE2E.*linear.bias.*256"):
        voices.from_recipe(ge2e.RECIPE, weights | {"linear.bias": np.zeros(3)})
    with pytest.raises(UserError, match="not the weights.*l0.*found: nothing"):
        voices.from_recipe(ge2e.RECIPE, {})
    monkeypatch.setattr(ge2e, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="no weights.*pip install --no-deps resemblyzer"):
        ge2e.read()
    monkeypatch.setattr(speech, "DETECTOR", "no_such_package")
    with pytest.raises(UserError, match=r"no detector.*pip install webrtcvad-wheels"):
        voices.maker("ge2e")
