"""BigVGAN against recordings of the published code, in windows, through its file formats, and what
it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from avjax.codecs import bigvgan
from avjax.codecs import bigvgan_network as network
from avjax.codecs.bigvgan import BigVGAN
from avjax.errors import UserError
from avjax.signal import mel
from tests.golden_files import cases, lacks, recordings, relative_error, some, under
from tests.golden_files import config as recorded_config
from tests.weights.torch_zips import Call, Global, dumps, zip_pickle

CASES = cases("bigvgan_")


def vocoder(arrays) -> BigVGAN:
    return BigVGAN.from_state_dict(under(arrays, "sd/"), recorded_config(arrays))


@pytest.mark.parametrize("arrays", CASES)
def test_waveform_is_the_published_one(arrays):
    ours = vocoder(arrays)
    out = bigvgan._generate(ours.config, ours._params, np.moveaxis(arrays["mel"], 1, 2))
    assert relative_error(out, arrays["wav"][:, 0]) < 1e-4
    assert ours.config.tanh == ("conv_post.bias" in under(arrays, "sd/"))
    published = under(arrays, "sd/")["activation_post.upsample.filter"].ravel()
    np.testing.assert_allclose(network.kaiser_sinc(), published, atol=1e-7)
    if all(kernel == 2 * rate for rate, kernel in zip(ours.config.rates, ours.config.kernels,
                                                      strict=True)):
        # what the weights show is enough for a network of the usual rates
        assert BigVGAN.from_state_dict(under(arrays,
                                             "sd/")).recipe["network"] == ours.recipe["network"]


def test_both_versions_were_recorded():
    found = {vocoder(arrays).config.tanh for _, arrays in recordings("bigvgan_")}
    for tanh in sorted({True, False} - found):
        lacks("bigvgan_*.npz that ends "
              + ("in tanh (version 1)" if tanh else "without tanh (version 2)"))
    assert found == {True, False}


def test_polyphase_is_zero_stuffing():
    """The activation and the transposed convolution in the published form: zeros put in, samples
    thrown away."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((13, 1)).astype(np.float32)
    taps = network.kaiser_sinc().astype(np.float64)
    stuffed = np.zeros(2 * (13 + 10) - 1)
    stuffed[::2] = np.pad(x[:, 0], 5, mode="edge")
    double = 2 * np.convolve(stuffed, taps)[15:15 + 26]
    double = double + 0.7 * np.sin(1.3 * double) ** 2
    down = np.convolve(np.pad(double, (5, 6), mode="edge"), taps[::-1], mode="valid")[::2]
    ours = jax.jit(lambda x: network.activation(network.roomy(x, 13), 1.3, 0.7))(x[None])
    np.testing.assert_allclose(ours[0, :, 0], down, atol=2e-6)
    # of a signal that ends before its array does
    longer = np.pad(x, ((0, 9), (0, 0)), constant_values=7.0)[None]
    ours = jax.jit(lambda x, end: network.activation(network.roomy(x, end), 1.3, 0.7,
                                                     end))(longer, 13)
    np.testing.assert_allclose(ours[0, :, 0], np.pad(down, (0, 9)), atol=2e-6)
    for rate, kernel in ((2, 4), (3, 6), (2, 5)):
        weight = rng.standard_normal((2, 4, kernel)).astype(np.float32)
        signal = rng.standard_normal((1, 7, 2)).astype(np.float32)
        layer = {"kernel": bigvgan.weights.polyphase(weight, rate), "bias": np.zeros(4, np.float32)}
        full = np.zeros(((7 - 1) * rate + kernel, 4))
        for t in range(7):
            full[t * rate:t * rate + kernel] += np.einsum("i,iok->ko", signal[0, t], weight)
        cut = (kernel - rate) // 2
        ours = jax.jit(network.upsample, static_argnums=(2, 3))(signal, layer, rate, kernel)[0]
        np.testing.assert_allclose(ours, full[cut:len(full) - cut], atol=1e-5)


def test_squared_sine():
    x = np.random.default_rng(0).uniform(-300, 300, 20000).astype(np.float32)
    np.testing.assert_allclose(jax.jit(network.squared_sine)(x),
                               np.sin(x.astype(np.float64)) ** 2, atol=5e-7)


def test_windows_equal_the_whole():
    ours = vocoder(some("bigvgan_"))
    halo, bands = ours.config.halo(), ours.config.bands
    frames = 2 * halo + 150
    log_mel = np.random.default_rng(1).standard_normal((frames, bands)).astype(np.float32)
    middle, recipe = frames // 2, ours.mel | {"gain": 1.0}
    whole = np.asarray(bigvgan._generate(ours.config, ours._params, log_mel[None])[0])
    ours.window = 46
    parts = list(ours.chunks(log_mel, recipe))
    assert [len(part) // ours.hop for part in parts[:-1]] == [ours.window] * (frames // ours.window)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    # the halo is what is needed and little more: a frame is felt no farther away, and nearly as far
    felt = log_mel + 3 * (np.arange(frames) == middle)[:, None].astype(np.float32)
    felt = np.asarray(bigvgan._generate(ours.config, ours._params, felt[None])[0])
    reached = np.flatnonzero(felt != whole) // ours.hop - middle
    assert -halo <= reached.min() <= -(halo // 2) and halo // 2 <= reached.max() <= halo
    # a short signal ends where it ends, whatever length is compiled; gain is undone
    part = log_mel[:30]
    alone = np.asarray(bigvgan._generate(ours.config, ours._params, part[None])[0])
    np.testing.assert_allclose(ours.waveform(part, recipe), alone, atol=1e-6)
    louder = ours.waveform(part, ours.mel | {"gain": 1.1})
    np.testing.assert_allclose(louder, np.clip(1.1 * alone, -1, 1), atol=1e-6)


def test_kernels_at_points_change_nothing(monkeypatch):
    arrays = some("bigvgan_")
    plain = vocoder(arrays)
    monkeypatch.setattr(network, "QUICK", 1)
    ours = vocoder(arrays)
    assert "points" in ours._params["resblocks_0"]["convs1_0"]
    assert ours.recipe == plain.recipe and ours.arrays().keys() == plain.arrays().keys()
    out = ours.waveform(np.moveaxis(arrays["mel"], 1, 2)[0], ours.mel)
    assert relative_error(out, arrays["wav"][0, 0]) < 1e-4


def test_few_windows_are_compiled_and_little_is_computed_twice():
    ours = vocoder(some("bigvgan_"))
    assert ours._sizes() == list(range(96, 961, 96))
    base = network.BigVGANConfig()
    assert base.reaches()[0] == base.halo() and base.surplus() < base.halo()


def tensor_file(path, state):
    """{"generator": state} as torch.save writes it."""
    def tensor(key, array):
        strides = tuple(s // array.itemsize for s in array.strides)
        return Call(Global("torch._utils", "_rebuild_tensor_v2"),
                    ("persistent", "storage", Global("torch", "FloatStorage"), key, "cpu",
                     array.size),
                    0, array.shape, strides, False, Call(Global("collections", "OrderedDict")))

    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    pickled = dumps({"generator": {name: tensor(str(i), value) for i,
                                   (name, value) in enumerate(state.items())}})
    return zip_pickle(path, pickled,
                      {str(i): value.tobytes() for i, value in enumerate(state.values())})


def test_published_file_and_the_way_through_a_dataset(tmp_path):
    arrays = some("bigvgan_", index=-1)
    state, ours = under(arrays, "sd/"), vocoder(arrays)
    (tmp_path / "config.json").write_text(json.dumps(recorded_config(arrays)))
    read = BigVGAN.from_checkpoint(tensor_file(tmp_path / "bigvgan_generator.pt", state))
    safetensors.numpy.save_file(state, tmp_path / "bigvgan.safetensors")
    bare = BigVGAN.from_checkpoint(tmp_path / "bigvgan.safetensors")
    assert read.recipe == bare.recipe == ours.recipe
    assert read.sample_rate == recorded_config(arrays)["sampling_rate"]
    again = BigVGAN.from_recipe(json.loads(json.dumps(read.recipe)), read.arrays())
    assert again.config == read.config and again.recipe == read.recipe
    log_mel = np.moveaxis(arrays["mel"], 1, 2)[0]
    np.testing.assert_array_equal(again.waveform(log_mel, ours.mel),
                                  ours.waveform(log_mel, ours.mel))
    changed = read.arrays() | {"conv_post/kernel": 2 * read.arrays()["conv_post/kernel"]}
    with pytest.raises(UserError, match="not those of its recipe"):
        BigVGAN.from_recipe(read.recipe, changed)


def test_weights_of_other_bands_need_their_config(tmp_path):
    """The published 24 and 44.1 kHz models: taken as 22 kHz, they would speak at another pitch."""
    arrays = some("bigvgan_")
    state = dict(under(arrays, "sd/"))
    name = next(k for k, v in state.items() if k.startswith("conv_pre.") and v.ndim == 3
                and v.shape[1] > 1)
    state[name] = np.repeat(state[name], 2, axis=1)
    path = tensor_file(tmp_path / "g_00000010", state)
    with pytest.raises(UserError, match="do not show the vocoder's sample rate.*config.json"):
        BigVGAN.from_checkpoint(path)
    sizes = {**recorded_config(arrays), "num_mels": state[name].shape[1]}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert BigVGAN.from_checkpoint(path).config.bands == state[name].shape[1]


def test_another_mel_is_refused():
    published = {"num_mels": 80, "n_fft": 1024, "hop_size": 256, "win_size": 1024,
                 "sampling_rate": 22050, "fmin": 0}
    assert bigvgan.mel_hash(bigvgan.mel_of_published(published
                                                     | {"fmax":
                                                        8000})) == bigvgan.mel_hash(mel.RECIPE)
    full_band = bigvgan.mel_of_published(published | {"fmax": None})
    assert full_band["fmax"] == 11025.0 and bigvgan.mel_hash(full_band) != bigvgan.mel_hash(
        mel.RECIPE)
    # how it is scaled is not the vocoder's business
    scaled = mel.RECIPE | {"mean": 0.0, "std": 1.0, "gain": 1.0}
    assert bigvgan.mel_hash(scaled) == bigvgan.mel_hash(mel.RECIPE)
    ours = vocoder(some("bigvgan_"))
    hop, other = float(ours.hop), 2.0 * ours.hop
    with pytest.raises(UserError, match=rf"another mel.*hop={hop}.*hop={other}.*Griffin-Lim"):
        ours.waveform(np.zeros((20, ours.config.bands), np.float32),
                      ours.mel | {"hop": 2 * ours.hop})


def test_bad_input():
    arrays = some("bigvgan_")
    state, sizes, ours = under(arrays, "sd/"), recorded_config(arrays), vocoder(arrays)
    with pytest.raises(UserError, match="not a mel spectrogram"):
        ours.waveform(np.zeros((20, ours.config.bands + 1), np.float32), ours.mel)
    with pytest.raises(UserError, match="not finite"):
        ours.waveform(np.full((20, ours.config.bands), np.nan, np.float32), ours.mel)
    with pytest.raises(UserError, match="not the weights of a BigVGAN"):
        BigVGAN.from_state_dict({"discriminators.0.weight": np.zeros(3)}, sizes)
    with pytest.raises(UserError, match="do not fit its config.*resblocks_0/convs1_0/kernel"):
        BigVGAN.from_state_dict({n: v for n, v in state.items()
                                 if not n.startswith("resblocks.0.convs1.0")}, sizes)
    with pytest.raises(UserError, match=r"fit its config.*left over: resblocks_\[0-"):
        BigVGAN.from_state_dict(state,
                                sizes
                                | {"resblock_dilation_sizes":
                                   [d[:-1] for d in sizes["resblock_dilation_sizes"]]})
    with pytest.raises(UserError, match="another make"):
        BigVGAN.from_state_dict(state, sizes | {"resblock": "2"})
    with pytest.raises(UserError, match="do not belong together"):
        BigVGAN(dataclasses.replace(ours.config, rates=(2 * ours.hop,)), ours._params, ours.mel)
