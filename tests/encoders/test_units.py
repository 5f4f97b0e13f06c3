"""Speech to units: the published networks' exactly, long audio, batches, and what a dataset keeps
of an encoder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from avjax.encoders import units, windows
from avjax.encoders.speech_frames import RANDOM, MelFrames, Wav2Vec2Frames
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.signal import kmeans
from tests.golden_files import config as golden_config
from tests.golden_files import golden, under

TINY = dataclasses.replace(RANDOM, d_model=32, d_ff=48, conv_dims=(16,) * 7)
rng = np.random.default_rng(0)


def noise(*seconds):
    return [rng.standard_normal(int(16000 * s)).astype(np.float32) * 0.1 for s in seconds]


def published(record, folder):
    weights, centroids = folder / "model.safetensors", folder / "kmeans.npy"
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k,
                                 v in under(record, "sd/").items()}, weights)
    np.save(centroids, record["centroids"])
    return weights, centroids, {"layer": int(record["kmeans_layer"]) + 1,
                                "num_heads": golden_config(record)["num_attention_heads"]}


def num_frames(samples, sizes):
    for kernel, stride in zip(sizes["conv_kernel"], sizes["conv_stride"], strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


@pytest.mark.parametrize(("name", "record"), golden("xlsr") + golden("hubert"))
def test_units_of_the_published_networks(name, record, tmp_path):
    weights, centroids, choice = published(record, tmp_path)
    encoder = units.published(weights, centroids, **choice)  # knows by itself which one normalises
    wav = record["wav"][0]
    found = encoder([*noise(0.9), wav])
    np.testing.assert_array_equal(found[1], record["units"])
    assert found[1].dtype == np.int32 and len(found) == 2 and len(found[1]) == len(record["units"])
    assert len(found[0]) == num_frames(int(16000 * 0.9), golden_config(record))
    np.testing.assert_allclose(encoder.frames([wav])[0],
                               record["layer_out"][choice["layer"] - 1, 0], atol=1e-4)
    params = encoder.frames._params
    # the layers behind are not there to be computed
    assert params["layers"]["query"]["kernel"].shape[0] == choice["layer"]
    first = Wav2Vec2Frames.from_checkpoint(weights, layer=0, num_heads=choice["num_heads"])
    np.testing.assert_allclose(first([wav])[0], record["encoder_in"][0], atol=1e-4)

    recipe = json.loads(json.dumps(encoder.recipe))
    assert recipe["kind"] == "wav2vec2" and recipe["frames"]["normalise"] == name.startswith("xlsr")
    again = units.from_recipe(recipe, encoder.arrays(), weights=weights)
    np.testing.assert_array_equal(again([wav])[0], record["units"])
    with pytest.raises(UserError, match="not kept with the dataset.*"
                       + recipe["frames"]["weights"]["sha256"][:12]):
        units.from_recipe(recipe, encoder.arrays())
    if golden_config(record)["num_hidden_layers"] < 35:  # the published choice
        with pytest.raises(UserError, match="not a network for units.*found: layer 35"):
            units.published(weights, centroids, num_heads=choice["num_heads"])
    np.save(centroids, record["centroids"][:, 1:])
    with pytest.raises(UserError, match="centroids of another width"):
        units.published(weights, centroids, **choice)
    safetensors.numpy.save_file({k: v + 1 for k, v in safetensors.numpy.load_file(weights).items()},
                                weights)
    with pytest.raises(UserError, match="units of another recipe"):
        units.from_recipe(recipe, encoder.arrays(), weights=weights)


def test_windows_of_long_audio():
    def num_frames(samples):
        return TINY.num_frames(samples)

    for samples in (16000, 80 * 16000, 80 * 16000 + 1, 100 * 16000 + 123, 170 * 16000,
                    300 * 16000 - 5):
        cut = windows.pieces(samples)
        assert cut[0][0] == 0 and cut[-1][1] == samples and all(start % 320 == 0 for start,
                                                                _ in cut)
        if len(cut) > 1:
            assert all(60 * 16000 - 320 <= end - start <= 60 * 16000 for start, end in cut)
            assert all(a_end - b >= 5 * 16000 for (_, a_end),
                       (b, _) in zip(cut, cut[1:], strict=False))
        # 9 of padding
        parts = [np.arange(start // 320, start // 320 + num_frames(end - start) + 9) for start,
                 end in cut]
        np.testing.assert_array_equal(windows.joined(parts, cut, num_frames),
                                      np.arange(num_frames(samples)))


def test_long_audio_is_normalised_as_one(monkeypatch):
    # a frame sees 8 neighbours: less than half an overlap
    frames = Wav2Vec2Frames.random(TINY, layer=0, seed=1)
    quiet, loud = noise(4, 3.5)
    audio = [np.concatenate([quiet, 5 * loud + 1])]
    whole = frames(audio)[0]
    for name, value in (("WHOLE_SECONDS", 3), ("WINDOW_SECONDS", 2), ("OVERLAP_SECONDS", 1)):
        monkeypatch.setattr(windows, name, value)
    np.testing.assert_allclose(frames(audio)[0], whole, atol=1e-4)


def test_batches_do_not_matter(monkeypatch):
    audio = noise(0.9, 0.5, 0.03)
    one = Wav2Vec2Frames.random(TINY)
    alone = [one([x])[0] for x in audio]
    for x, y in zip(Wav2Vec2Frames.random(TINY,
                                          mesh=make_mesh({"data": 2}, jax.devices()[:2]))(audio),
                    alone, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    audio += noise(2.5)
    cuts = [windows.pieces(len(x)) for x in audio]
    assert [x.shape for _, x,
            _ in windows.batches(audio, cuts, 2)] == [(2, 40000), (2, 16000), (2, 16000)]
    # an accelerator takes many at once, in few shapes
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = list(windows.batches(audio, cuts))
    assert [x.shape for _, x, _ in found] == [(1, 40000),
                                              (4,
                                               16000)] and found[1][0] == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("frames", [MelFrames(), Wav2Vec2Frames.random(TINY)],
                         ids=["mel", "random"])
def test_fitted_units_come_back_from_a_dataset(frames):
    audio = noise(1, 0.5, 0.8, 0.9)
    reads = []

    def source():
        reads.append(0)
        return iter([audio[:1], [], audio[1:]])

    encoder = units.fit(frames, source, 12, seed=3)
    assert len(reads) == 1  # all of it fits the reservoir
    found = encoder(audio)
    assert encoder.num_units == 12 and len(set(np.concatenate(found))) == 12
    np.testing.assert_array_equal(found[1],
                                  kmeans.assign(frames(audio[1:2])[0],
                                                encoder.arrays()["centroids"]))
    recipe = json.loads(json.dumps(encoder.recipe))
    again = units.from_recipe(recipe | {"arrays": "hash"}, encoder.arrays())
    for x, y in zip(again(audio), found, strict=True):
        np.testing.assert_array_equal(x, y)
    for bad, arrays, words in (({"kind": "dac", "frames": {"kind": "dac"}}, {},
                                "unknown kind of units.*'dac'"),
                               (recipe | {"units": 13}, encoder.arrays(),
                                "another recipe.*13 centroids"),
                               (recipe, {}, "units of another recipe")):
        with pytest.raises(UserError, match=words):
            units.from_recipe(bad, arrays)
    for bad, words in ((noise(0.01)[0], r"at least \d+ finite.*float32 \(160,\)"),
                       (np.zeros(9000, np.int16), "int16"),
                       (np.full(9000, np.nan, np.float32), "NaN"),
                       (np.zeros((2, 9000), np.float32), "2, 9000")):
        with pytest.raises(UserError, match=words):
            encoder([bad])


def test_mel_units_do_not_hear_loudness():
    # and pauses do not move the mean
    speech = np.concatenate([*noise(1), np.zeros(4000, np.float32)])
    quiet, loud = MelFrames()([speech, 4 * speech])
    np.testing.assert_allclose(quiet[:48], loud[:48], atol=1e-3)
    np.testing.assert_allclose(quiet[:45], MelFrames()([speech[:16000]])[0][:45], atol=0.1)


def test_silence_of_mel_units_is_one_unit():
    rng = np.random.default_rng()
    hiss = [1e-4 * rng.standard_normal(16000).astype(np.float32) for _ in range(3)]
    speech = [x + np.pad(y, (0, 8000)) for x, y in
              zip(hiss, 0.1 * rng.standard_normal((3, 8000)).astype(np.float32), strict=True)]
    plain, one = MelFrames(), MelFrames(silence_db=50)
    assert plain.recipe == {k: v for k, v in one.recipe.items() if k != "silence_db"}
    for before, after in zip(plain(speech), one(speech), strict=True):
        np.testing.assert_array_equal(after[:24], before[:24])
        assert (after[26:] == after[-1]).all() and (before[26:] != before[-1]).any()
    encoder = units.fit(one, lambda: iter([speech]), 8, seed=0)
    again = units.from_recipe(json.loads(json.dumps(encoder.recipe)), encoder.arrays())
    for ids in again(speech):
        assert len(set(ids[26:].tolist())) == 1 and ids[-1] not in ids[:24]


def test_fit_length():
    np.testing.assert_array_equal(units.fit_length(np.array([1, 2, 3]), 5), [1, 2, 3, 3, 3])
    np.testing.assert_array_equal(units.fit_length(np.array([1, 2, 3]), 2), [1, 2])
