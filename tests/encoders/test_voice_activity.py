"""Silero's rule and network against recorded values and a plain formula; what both kinds find."""

import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest
import soundfile

from avjax.encoders import voice_activity
from avjax.encoders.voice_activity import Detector, detector, segments, silero
from avjax.encoders.voice_activity.segments import CHUNK, RATE, Options
from avjax.errors import UserError
from tests.encoders.onnx_files import onnx
from tests.golden_files import cases, config, folder, matching

OURS = {"threshold": "threshold", "neg_threshold": "neg_threshold",
        "max_speech_duration_s": "max_speech_s", "min_speech_duration_ms": "min_speech_ms",
        "min_silence_duration_ms": "min_silence_ms", "speech_pad_ms": "pad_ms",
        "use_max_poss_sil_at_max_speech": "longest_silence"}
NAMED = {"threshold_0_3": Options(threshold=0.3), "silence_500": Options(min_silence_ms=500),
         "max_2s": Options(max_speech_s=2), "pad_0_min_1000": Options(pad_ms=0, min_speech_ms=1000)}


@pytest.fixture(scope="module", params=cases("silero"))
def recorded(request):
    return request.param


def test_stretches_equal_recorded(recorded):
    for i, options in enumerate(config(recorded)["post_options"]):
        options, samples = dict(options), int(recorded[f"post/{i}/length"])
        seconds = options.pop("return_seconds", False)
        found = segments.timestamps(recorded[f"f64/post/{i}/probs"], samples,
                                    Options(**{OURS[k]: v for k, v in options.items()}))
        if seconds:
            found = [[max(round(a / RATE, 1), 0), min(round(b / RATE, 1), samples / RATE)]
                     for a, b in found.tolist()]
        np.testing.assert_array_equal(found, recorded[f"f64/post/{i}/timestamps"])


def test_stretches_of_real_recordings_equal_recorded(recorded):
    for name in matching(recorded, r"(.+)/probs"):
        if name.startswith("f64"):
            continue
        samples = int(recorded[f"{name}/n_samples"])
        for label, options in {"": Options(), **NAMED}.items():
            np.testing.assert_array_equal(
                segments.timestamps(recorded[f"{name}/probs"], samples, options),
                recorded[f"{name}/timestamps{'/' * bool(label)}{label}"])


def test_network_equals_recorded(recorded):
    """Where the recordings and the package are."""
    root = pathlib.Path(folder()).absolute().parent.parent
    files = {name: told for name, told in config(recorded)["files"].items()
             if (root / told["name"]).is_file()}
    if not files or not importlib.util.find_spec(silero.PACKAGE):
        pytest.skip(f"the recordings below {root} or the package {silero.PACKAGE} are not here")
    for name, told in files.items():
        variant = "native" if told["rate"] == RATE else "as16k"
        audio, _ = soundfile.read(root / told["name"], dtype="float32")
        other = silero.default_weights().with_name("silero_vad_16k.safetensors")
        for weights, suffix in ((None, ""), (str(other), "_safetensors_weights")):
            found = silero.probabilities(audio[None], weights)[0]
            np.testing.assert_allclose(found, recorded[f"{name}/{variant}/probs{suffix}"],
                                       atol=5e-6)
            np.testing.assert_array_equal(segments.timestamps(found, len(audio)),
                                          recorded[f"{name}/{variant}/timestamps{suffix}"])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """({published name: array}, file) of a network with random weights."""
    rng = np.random.default_rng(0)
    shapes = {"stft.forward_basis_buffer": (258, 1, 256)}
    for k, (wide, out) in enumerate(((129, 128), (128, 64), (64, 64), (64, 128))):
        shapes |= {f"encoder.{k}.reparam_conv.weight": (out, wide, 3),
                   f"encoder.{k}.reparam_conv.bias": (out,)}
    shapes |= {"decoder.rnn.weight_ih": (512, 128), "decoder.rnn.weight_hh": (512, 128),
               "decoder.rnn.bias_ih": (512,), "decoder.rnn.bias_hh": (512,),
               "decoder.decoder.2.weight": (1, 128, 1), "decoder.decoder.2.bias": (1,)}
    state = {f"model.{name}": (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
                               ).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("silero") / "net.onnx"
    path.write_bytes(onnx(state))
    return {name.removeprefix("model."): a for name, a in state.items()}, str(path)


def formula(state, audio_N):
    """The network written out in numpy, a chunk after the other."""
    hidden, cell, out = np.zeros(128), np.zeros(128), []
    padded = np.pad(audio_N.astype(np.float64), (64, -len(audio_N) % CHUNK))
    for start in range(0, len(padded) - 64, CHUNK):
        chunk = padded[start:start + 64 + CHUNK]
        chunk = np.concatenate([chunk, chunk[::-1][1:65]])
        x = np.stack([state["stft.forward_basis_buffer"][:, 0] @ chunk[i:i + 256]
                      for i in range(0, len(chunk) - 255, 128)], 1)
        x = np.hypot(x[:129], x[129:])
        for k, stride in enumerate((1, 2, 2, 1)):
            w, b = (state[f"encoder.{k}.reparam_conv.{part}"] for part in ("weight", "bias"))
            x = np.pad(x, ((0, 0), (1, 1)))
            x = np.maximum(np.stack([np.einsum("oik,ik->o", w, x[:, t:t + 3]) + b
                                     for t in range(0, x.shape[1] - 2, stride)], 1), 0)
        gates = sum(state[f"decoder.rnn.{n}"] for n in ("bias_ih", "bias_hh"))
        gates = (gates + state["decoder.rnn.weight_ih"] @ x[:, 0]
                 + state["decoder.rnn.weight_hh"] @ hidden)
        i, f, g, o = np.split(gates, 4)
        cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        hidden = np.tanh(cell) / (1 + np.exp(-o))
        logit = (state["decoder.decoder.2.weight"][0, :, 0] @ np.maximum(hidden, 0)
                 + state["decoder.decoder.2.bias"][0])
        out.append(1 / (1 + np.exp(-logit)))
    return np.array(out)


def test_network_equals_the_formula_block_by_block(network, monkeypatch):
    state, path = network
    rng = np.random.default_rng(1)
    audio_BN = (rng.normal(size=(2, 5 * CHUNK + 100)) * 3000).astype(np.int16)
    expected = [formula(state, x / 32768) for x in audio_BN]
    monkeypatch.setattr(silero, "BLOCK", 4)  # two blocks, the second partly empty
    found = silero.probabilities(audio_BN, path)
    assert found.shape == (2, 6) and np.ptp(found) > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-6)
    one = Detector("neural", Options(threshold=0.0, min_speech_ms=0), path)
    short = audio_BN[1, :2 * CHUNK]
    together = one([audio_BN[0], short], RATE)  # of other lengths, and each as if alone
    np.testing.assert_array_equal(together[1], one([short], RATE)[0])
    np.testing.assert_allclose(together[1], [[0, 2 * CHUNK / RATE]])


def bursts(spans, seconds, rate, level=0.3, pitch=220.0):
    """A channel with a buzz at these times and faint noise elsewhere."""
    at = np.arange(round(seconds * rate)) / rate
    inside = np.any([(a <= at) & (at < b) for a, b in spans], 0)
    noise = np.random.default_rng(int(pitch)).normal(size=len(at)) * 1e-4
    return (np.sign(np.sin(2 * np.pi * pitch * at)) * inside * level + noise).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22050])
def test_energy_finds_what_is_loud(rate):
    spans = np.array([[0.5, 1.5], [2.2, 3.0]])
    found = voice_activity.speech(bursts(spans, 4, rate), rate)
    np.testing.assert_allclose(found, spans, atol=0.1)
    found = voice_activity.speech(bursts(spans, 4, rate), rate, kind="energy:min_silence_ms=800")
    np.testing.assert_allclose(found, [[0.5, 3.0]], atol=0.1)
    for nothing in (np.zeros(3 * rate, np.float32), np.zeros(10, np.int16), np.zeros(0),
                    np.full(rate // 30, 0.1)):
        assert voice_activity.speech(nothing, rate).shape == (0, 2)
    with pytest.raises(UserError, match="not finite"):
        voice_activity.speech(np.full(rate, np.nan), rate)


def test_what_leaks_into_a_microphone_is_not_its_speakers():
    rate, mine, yours = 16000, [(0.5, 1.5)], [(2.0, 3.0)]
    own = [bursts(mine, 4, rate), bursts(yours, 4, rate, pitch=150)]
    heard = [own[0] + 0.1 * own[1], own[1] + 0.1 * own[0]]  # 20 dB
    first, second = Detector()(heard, rate)
    assert len(first) == len(second) == 2  # both are loud in both
    apart = detector.own_speech([first, second], heard, rate)
    np.testing.assert_allclose(apart[0], mine, atol=0.1)
    np.testing.assert_allclose(apart[1], yours, atol=0.1)
    quiet = Detector().separated(heard, rate)
    assert not quiet[0][2 * rate:3 * rate].any() and not quiet[1][:rate].any()
    np.testing.assert_array_equal(quiet[0][rate * 6 // 10:rate], heard[0][rate * 6 // 10:rate])
    backwards = [x[::-1] for x in heard]  # first what leaks, then the own speech
    for samples, own in ((rate * 9 // 4, [(2.5, 3.5)]), (1000, [(1, 2), (2.5, 3.5)])):
        cut = [backwards[0], backwards[1][:samples]]  # the other channel ends before
        found = detector.own_speech(Detector()(cut, rate), cut, rate)
        np.testing.assert_allclose(found[0], own, atol=0.1)


@pytest.mark.parametrize("text, message", [
    ("loud", "unknown voice activity.*energy or neural"),
    ("energy:loudness=3", "no such option.*from 0 on min_speech_ms.*loudness=3"),
    ("energy:threshold=50", "no such option.*threshold.*from 0 to 1.*threshold=50"),
    ("energy:threshold=high", "no such option.*threshold=high"),
    ("energy:threshold=nan", "no such option"),
])
def test_what_is_no_voice_activity(text, message):
    with pytest.raises(UserError, match=message):
        Detector.parse(text)
    assert Detector.parse("energy:pad_ms=0,longest_silence=false").options == Options(
        pad_ms=0, longest_silence=False)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(silero, "PACKAGE", "no_such_package")
    silero.load.cache_clear()
    with pytest.raises(UserError, match="no weights.*pip install --no-deps silero-vad"):
        Detector.parse("neural")
    (tmp_path / "other.onnx").write_bytes(onnx({"w": np.zeros(3)}))
    with pytest.raises(UserError, match="not the weights of Silero"):
        silero.load(str(tmp_path / "other.onnx"))


def test_a_recipe_tells_options_and_weights_apart(network):
    path = network[1]
    recipes = [Detector("neural", Options(), path), Detector(), Detector(options=Options(pad_ms=0)),
               Detector("neural", Options(threshold=0.4), path)]
    texts = [json.dumps(d.recipe, sort_keys=True) for d in recipes]
    assert json.dumps(Detector.parse("energy:pad_ms=30").recipe) == json.dumps(Detector().recipe)
    assert len(set(texts)) == 4 and not any(os.path.dirname(path) in text for text in texts)
