"""Speech as wav2vec 2.0's CTC logits: what drives a model is what extraction makes of the same
sound, and nothing else is taken."""

import json
import re
import types

import numpy as np
import pytest
import safetensors.numpy
import soundfile
import soxr

from avjax.encoders import wav2vec2
from avjax.errors import UserError
from avjax.signal import level
from avjax.systems import api
from avjax.systems.avflow import config as avflow_config
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines import prompting
from data_pipelines.features.avflow import extract
from data_pipelines.features.common import ctc
from data_pipelines.store.schema import SPEAKERS
from tests.data_pipelines.test_extract import clip, write_clips
from tests.golden_files import config as golden_config
from tests.golden_files import relative_error, some, under

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def record():
    return some("wav2vec2_ctc")


@pytest.fixture(scope="module")
def folder(record, tmp_path_factory):
    """Of the recorded network: its file as transformers lays it out, with its config, and a wav."""
    folder = tmp_path_factory.mktemp("ctc")
    weights = folder / "weights"
    weights.mkdir()
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in
                                 under(record, "sd/").items()}, weights / "model.safetensors")
    (weights / "config.json").write_text(json.dumps(golden_config(record)))
    soundfile.write(folder / "speech.wav", record["wav"][0], ctc.SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "two.wav", record["wav"].T, ctc.SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "laid_twice.wav", np.stack([record["wav"][1]] * 2, 1),
                    ctc.SAMPLE_RATE, subtype="FLOAT")
    yield folder
    ctc.load.cache_clear()


def columns29(record):
    """Of the wave as it is: torchaudio does not normalise it."""
    logits = record["logits_from_unnormalised_wav"]
    keep = [i for i in range(logits.shape[-1]) if i not in wav2vec2.SPECIAL_COLUMNS]
    return logits[..., keep]


@pytest.fixture
def build(folder):
    """(tokens' recipe, inputs) -> the prompt of a small system."""
    c = avflow_config.default()
    c.update(dict(d_model=8, num_blocks=1, num_heads=1, d_ff=8, face_dim=5, head_dim=7))
    system = api.build(c)

    def build(recipe, workdir=None, **request):
        decoder = types.SimpleNamespace(
            recipes={"tokens": recipe}, workdir=workdir, text_to_tokens=None,
            codecs={SPEAKERS: {"names": np.array(["ann"]), "identity": np.zeros((1, 8))}})
        builder = prompting.builder("avflow")
        return builder.build(builder.request("avflow", **request), system, decoder)

    return build


def test_sound_drives_by_the_published_logits_as_the_published_code_lays_them(record, folder,
                                                                              build):
    """Interpolated by the ratio of the two rates as torch's interpolate does it, beginnings on each
    other, frames floored."""
    recipe = {"kind": ctc.KIND, "weights": ctc.OWNERS, "resample": "released"}
    prompt = build(recipe, audio=str(folder / "speech.wav"), ctc=str(folder / "weights"))
    assert not prompt.remarks
    want = columns29(record)[0]
    scale = 86.13281230 / 49.99
    at = np.clip((np.arange(int(len(want) * scale)) + 0.5) / scale - 0.5, 0, len(want) - 1)
    want = np.stack([np.interp(at, np.arange(len(want)), column) for column in want.T], 1)
    assert prompt.conditions["tokens"].shape == want.shape
    assert relative_error(prompt.conditions["tokens"], want) < TOLERANCE
    np.save(folder / "both.npy", columns29(record))
    array = build(recipe, tokens=str(folder / "both.npy"), channel=1)
    assert relative_error(array.conditions["tokens"], want) < TOLERANCE
    other = build(recipe, audio=str(folder / "two.wav"), ctc=str(folder / "weights"), channel=2)
    alone = build(recipe, audio=str(folder / "laid_twice.wav"), ctc=str(folder / "weights"))
    np.testing.assert_allclose(other.conditions["tokens"], alone.conditions["tokens"], atol=1e-6)
    assert relative_error(other.conditions["tokens"], want) > 0.01
    np.save(folder / "clocked.npy", want.astype(np.float32))
    again = build(recipe, tokens=str(folder / "clocked.npy"), tokens_rate=86.13)
    np.testing.assert_array_equal(again.conditions["tokens"], want.astype(np.float32))


@pytest.mark.parametrize("activity", [None, "energy"])
def test_a_recording_drives_as_it_was_extracted(folder, build, tmp_path, activity):
    """On the same clock, at the same level, with the same voice activity; and by no other
    network."""
    one = clip(0, 2.5, partner=True)
    one["audio"] = (one["audio"] * (np.arange(len(one["audio"])) < 30000)).astype(np.int16)
    clips = write_clips(tmp_path / "clips", partner=True, train=[one])
    dataset = extract.extract(clips.dir, tmp_path / "out", tokens="wav2vec2", activity=activity,
                              weights=folder / "weights", progress=False)
    [row] = dataset.source("train")
    heard = [x[:len(one["partner_audio"])] for x in (one["audio"], one["partner_audio"])]
    soundfile.write(tmp_path / "clip.wav", np.stack([soxr.resample(x / 32768, 22050, 16000)
                                                     for x in heard], 1), 16000, subtype="FLOAT")
    recipe = dataset.recipes["tokens"]
    (tmp_path / ctc.NAME).symlink_to(folder / "weights")
    prompt = build(recipe, tmp_path, audio=str(tmp_path / "clip.wav"), channel=1)
    assert recipe["level"] == level.RECIPE and ("activity" in recipe) == bool(activity)
    tokens = prompt.conditions["tokens"]
    assert len(tokens) == len(row["tokens"])
    # edges of speech may fall a sample apart at 16 and 22.05 kHz
    assert np.mean(np.abs(tokens - row["tokens"]) > 0.02 * np.abs(row["tokens"]).max()) < 0.03
    with pytest.raises(UserError, match="another network.*weights 0123.*found: [0-9a-f]+"):
        build(recipe | {"weights": "0123"}, tmp_path, audio=str(tmp_path / "clip.wav"), channel=1)
    of_before = recipe | {"weights": ctc.file_hash(folder / "weights")}
    assert build(of_before, tmp_path, audio=str(tmp_path / "clip.wav"), channel=1).frames
    other = "energy:threshold=0.9"
    with pytest.raises(UserError, match="another voice activity.*threshold=0.9"):
        build(recipe, tmp_path, audio=str(tmp_path / "clip.wav"), channel=1, activity=other)
    if activity:
        changed = recipe | {"activity": recipe["activity"] | {"range_db": 1.0}}
        with pytest.raises(UserError, match="another voice activity.*range_db"):
            build(changed, tmp_path, audio=str(tmp_path / "clip.wav"), channel=1)


def torchaudio(name):
    for ours, theirs in (("wav2vec2.", ""), ("lm_head.", "aux."), (".original0", "_g"),
                         (".original1", "_v"), ("parametrizations.weight_", "weight_")):
        name = name.replace(ours, theirs)
    return name


def fairseq(name):
    if name.startswith("lm_head."):
        return name.replace("lm_head.", "w2v_encoder.proj.")
    for ours, theirs in ((r"(conv_layers\.\d+)\.conv\.", r"\1.0."),
                         (r"(conv_layers\.0)\.layer_norm", r"\1.2"),
                         ("^feature_projection.layer_norm", "layer_norm"),
                         ("^feature_projection.projection", "post_extract_proj"),
                         (r"pos_conv_embed\.conv", "pos_conv.0"), (r"\.attention\.", ".self_attn."),
                         (r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
                         ("feed_forward.intermediate_dense", "fc1"),
                         ("feed_forward.output_dense", "fc2")):
        name = re.sub(ours, theirs, name.removeprefix("wav2vec2."))
    return f"w2v_encoder.w2v_model.{torchaudio(name)}"


@pytest.mark.parametrize("naming", [torchaudio, fairseq])
def test_the_same_weights_under_other_names_are_the_same_network(record, folder, tmp_path, naming):
    """32 columns or 29; torchaudio's file as its pipeline downloads it, fairseq's in its trainer's
    dict."""
    state = {naming(name): np.ascontiguousarray(x) for name, x in under(record, "sd/").items()}
    assert not state.keys() & under(record, "sd/").keys()
    if naming is torchaudio:
        keep = [i for i in range(32) if i not in wav2vec2.SPECIAL_COLUMNS]
        state |= {f"aux.{part}": state[f"aux.{part}"][keep] for part in ("weight", "bias")}
    tree = {"model": state} if naming is fairseq else state
    write_torch_zip(tmp_path / "other.pt", tree)
    (tmp_path / "config.json").write_text(json.dumps(golden_config(record)))
    ours, theirs = (ctc.Encoder(str(path)) for path in (folder / "weights", tmp_path / "other.pt"))
    assert ours.recipe == theirs.recipe and ours.file != theirs.file
    name = {torchaudio: "aux.bias", fairseq: "w2v_encoder.proj.bias"}[naming]
    state[name] = state[name] + 1
    write_torch_zip(tmp_path / "other.pt", tree)
    assert ctc.Encoder(str(tmp_path / "other.pt")).recipe != ours.recipe
    del state[name]
    with pytest.raises(UserError, match="missing: lm_head.bias;"):
        write_torch_zip(tmp_path / "other.pt", tree)
        ctc.Encoder(str(tmp_path / "other.pt"))


@pytest.mark.parametrize("made, request_, message", [
    (np.zeros((1, 9, 30)), {}, r"another width.*29.*found: \(1, 9, 30\) float64"),
    (np.zeros((9, 29), int), {}, "another width.*int64"),
    (np.zeros((2, 0, 29)), {}, "another width"),
    (np.full((9, 29), np.nan), {}, "not finite.*9 of 9 frames are not, the first is 0"),
    (np.arange(2 * 9 * 29.0).reshape(2, 9, 29), {},
     "several voices.*2 channels that differ.*--channel=1"),
    (np.zeros((2, 9, 29)), {"channel": 3}, "no such channel.*1 to 2.*found: 3"),
    (np.zeros((9, 29)), {"tokens_rate": 25.0}, "another rate.*49.99.*86.13"),
    (np.zeros((9, 29)), {"tokens_rate": np.nan}, "no number.*--tokens_rate.*found: nan"),
    (np.zeros((9, 29)), {"ctc": "x"}, "--ctc without --audio"),
    (np.zeros((9, 29)), {"activity": "energy"}, "--activity without --audio"),
    (np.zeros((9, 29)), {"audio": "speech.wav"}, "two things to say.*audio and tokens"),
    (None, {}, "unreadable tokens.*npy"),
])
def test_tokens_that_are_none_are_refused(build, tmp_path, made, request_, message):
    file = tmp_path / "tokens.npy"
    if made is None:
        file.write_bytes(b"tokens")
    else:
        np.save(file, made)
    with pytest.raises(UserError, match=message):
        build({"kind": ctc.KIND, "weights": "0123"}, tokens=str(file), **request_)


def test_sound_that_cannot_drive_is_refused(folder, build, tmp_path):
    recipe = {"kind": ctc.KIND, "weights": ctc.OWNERS}
    speech, weights = str(folder / "speech.wav"), str(folder / "weights")
    with pytest.raises(UserError, match="hears by wav2vec 2.0.*--ctc.*found: none.*--tokens"):
        build(recipe, tmp_path, audio=speech)
    with pytest.raises(UserError, match="several voices.*two.wav.*--channel=1"):
        build(recipe, audio=str(folder / "two.wav"), ctc=weights)
    with pytest.raises(UserError, match="does not read CTC logits.*--ctc.*found: units"):
        build({"kind": "units"}, audio=speech, ctc=weights)
    with pytest.raises(UserError, match="not driven by text.*wav2vec2-ctc.*--audio"):
        build(recipe, text="Hello.")
    broken = np.zeros(16000, np.float32)
    broken[7] = np.nan
    with pytest.raises(UserError, match="too short.*--audio=.*short.wav.*at least .* samples"):
        soundfile.write(tmp_path / "short.wav", broken[100:300], 16000, subtype="FLOAT")
        build(recipe, audio=str(tmp_path / "short.wav"), ctc=weights)
    soundfile.write(tmp_path / "silent.wav", broken[8:], 16000, subtype="FLOAT")
    silent = build(recipe, audio=str(tmp_path / "silent.wav"), ctc=weights)
    assert "warning: --audio is silent" in silent.remarks
    soundfile.write(tmp_path / "broken.wav", broken, 16000, subtype="FLOAT")
    mended = build(recipe, audio=str(tmp_path / "broken.wav"), ctc=weights)
    assert "warning: 1 samples are no numbers: silent" in mended.remarks
    assert np.isfinite(mended.conditions["tokens"]).all()
