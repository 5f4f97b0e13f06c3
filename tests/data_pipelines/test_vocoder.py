"""A BigVGAN in the place of Griffin-Lim, of every family of streams."""

import json

import numpy as np
import pytest
import safetensors.numpy

from avjax.codecs import latents
from avjax.codecs.bigvgan import BigVGAN
from avjax.errors import UserError
from avjax.signal import mel
from data_pipelines import decode, extract, vocoders
from data_pipelines.live.decoder import StreamedDecoder
from data_pipelines.live.parts import Settings

SIZES = {"num_mels": 80, "n_fft": 1024, "hop_size": 256, "win_size": 1024, "sampling_rate": 22050,
         "fmin": 0, "fmax": 8000, "resblock": "1", "upsample_rates": [16, 16],
         "upsample_kernel_sizes": [32, 32], "upsample_initial_channel": 4,
         "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]], "activation": "snakebeta",
         "snake_logscale": True}
AT_24K = {"sampling_rate": 24000, "n_fft": 960, "win_size": 960, "hop_size": 240,
          "upsample_rates": [16, 15], "upsample_kernel_sizes": [32, 30]}


def generator(sizes) -> dict[str, np.ndarray]:
    """A small generator's arrays by their published names."""
    rng = np.random.default_rng(0)
    state = {"conv_pre.weight": (4, 80, 7), "conv_pre.bias": (4,), "conv_post.bias": (1,),
             "conv_post.weight": (1, 1, 7), "activation_post.act.alpha": (1,),
             "activation_post.act.beta": (1,)}
    for i, kernel in enumerate(sizes["upsample_kernel_sizes"]):
        into, out = 4 >> i, 2 >> i
        state |= {f"ups.{i}.0.weight": (into, out, kernel), f"ups.{i}.0.bias": (out,)}
        for convs in ("convs1", "convs2"):
            state |= {f"resblocks.{i}.{convs}.0.weight": (out, out, 3),
                      f"resblocks.{i}.{convs}.0.bias": (out,)}
        state |= {f"resblocks.{i}.activations.{k}.act.{name}": (out,) for k in range(2)
                  for name in ("alpha", "beta")}
    return {name: rng.standard_normal(shape).astype(np.float32) * 0.3
            for name, shape in state.items()}


@pytest.fixture
def file(tmp_path):
    """A function of other sizes that writes a generator in the published layout."""
    def write(**sizes):
        sizes = SIZES | sizes
        folder = tmp_path / f"{sizes['sampling_rate']}"
        folder.mkdir()
        safetensors.numpy.save_file(generator(sizes), folder / "g.safetensors")
        (folder / "config.json").write_text(json.dumps(sizes))
        return str(folder / "g.safetensors")
    return write


MEL = np.random.default_rng(1).standard_normal((12, 80)).astype(np.float32)
OF_MEL = [({"mel": mel.RECIPE, "face": {"kind": "puppet"}, "family": {"kind": "avflow"}}),
          ({"mel": mel.RECIPE, "units": {}, "family": {"kind": "tavid"}})]


@pytest.mark.parametrize("recipes", OF_MEL, ids=lambda recipes: recipes["family"]["kind"])
def test_a_vocoder_makes_the_sound(file, recipes):
    path = file()
    decoder = decode.Decoder(recipes, {}, vocoder=path)
    vocoder = BigVGAN.from_checkpoint(path)
    made = decoder.waveform({"mel": MEL})
    np.testing.assert_array_equal(made, vocoder.waveform(mel.denormalise(MEL), mel.RECIPE))
    assert made.std() > 0 and vocoder.recipe["weights"] in decoder.decoding["vocoder"]
    assert not decode.Decoder(recipes, {}).decoding
    kept = {"vocoder": vocoder.recipe}  # as the features keep one
    features = decode.Decoder(recipes | kept, {"vocoder": vocoder.arrays()})
    np.testing.assert_array_equal(features.waveform({"mel": MEL}), made)
    streamed = StreamedDecoder(recipes, {}, Settings(block=4, ahead=0, iterations=1), vocoder=path)
    np.testing.assert_allclose(streamed.waveform({"mel": MEL}), made, atol=5e-5)
    assert {"vocoder", "streamed"} == streamed.decoding.keys()


def test_talkers_sound_too(file):
    log_mel = np.random.default_rng(0).standard_normal((400, latents.STACK * 80))
    moments = latents.moments()
    moments.add(log_mel)
    codec = latents.fit(moments)
    recipes = {"audio": codec.recipe, "family": {"kind": "talker"}}
    path = file(**AT_24K)
    decoder = decode.Decoder(recipes, {"audio": codec.arrays()}, vocoder=path)
    latent_TA = np.random.default_rng(1).standard_normal((3, latents.DIM)).astype(np.float32)
    np.testing.assert_array_equal(
        decoder.waveform({"audio": latent_TA}), BigVGAN.from_checkpoint(path).waveform(
            mel.denormalise(codec.mel(latent_TA), latents.MEL), latents.MEL))


def test_a_vocoder_of_another_mel_is_refused_at_once(file):
    with pytest.raises(UserError, match="trained on another mel.*hop=256.*hop=240"):
        decode.Decoder({"audio": {}, "family": {"kind": "talker"}}, {}, vocoder=file())


def test_it_is_found_in_a_folder_and_in_a_workdir(file, tmp_path):
    path = file()
    made = decode.Decoder(OF_MEL[0], {}, vocoder=path).waveform({"mel": MEL})
    folder = decode.Decoder(OF_MEL[0], {}, vocoder=str(tmp_path / "22050"))
    np.testing.assert_array_equal(folder.waveform({"mel": MEL}), made)
    (tmp_path / "22050").rename(tmp_path / "vocoder")
    (tmp_path / "recipes.json").write_text(json.dumps(OF_MEL[0]))
    kept = decode.Decoder.from_workdir(tmp_path)
    np.testing.assert_array_equal(kept.waveform({"mel": MEL}), made)
    assert kept.sound_by.startswith("BigVGAN ")
    without = decode.Decoder.from_workdir(tmp_path, vocoder=vocoders.GRIFFIN_LIM, iterations=2)
    assert without.sound_by == "Griffin-Lim, 2 iterations" and not without.decoding
    np.testing.assert_array_equal(
        without.waveform({"mel": MEL}),
        decode.Decoder(OF_MEL[0], {}, iterations=2).waveform({"mel": MEL}))
    with pytest.raises(UserError, match="no such vocoder.*griffin-lim"):
        decode.Decoder(OF_MEL[0], {}, vocoder=str(tmp_path / "gone.pt"))
    with pytest.raises(UserError, match="one generator's file.*none"):
        decode.Decoder(OF_MEL[0], {}, vocoder=str(tmp_path))


@pytest.mark.parametrize("family, sizes", [("avflow", {}), ("talker", AT_24K)])
def test_features_keep_it(puppets_dataset, file, tmp_path, family, sizes):
    path = file(**sizes)
    made = extract.extract(puppets_dataset.dir, tmp_path / "features", features=family,
                           vocoder=path, progress=False)
    weights = BigVGAN.from_checkpoint(path).recipe["weights"]
    assert decode.Decoder.from_dataset(made).decoding == {"vocoder": f"BigVGAN {weights}"}
    none = decode.Decoder.from_dataset(made, vocoder=vocoders.GRIFFIN_LIM)
    assert none.sound_by.startswith("Griffin-Lim") and not none.decoding
    other = file(sampling_rate=16000)
    with pytest.raises(UserError, match="trained on another mel.*sample_rate=16000"):
        extract.extract(puppets_dataset.dir, tmp_path / "other", features=family, vocoder=other,
                        progress=False)
    assert not (tmp_path / "other").exists()
